// Before and after: two pictures on top of each other, the upper one cut off at a divider that stays where it is while
// the picture under it is scrolled.

const $ = (id) => document.getElementById(id);
const LARGEST_ENLARGEMENT = 4; // of small pictures that are fitted

let shown = null;
let zoomed = false;

export function forget(item) {
  for (const url of Object.values(item.urls || {})) URL.revokeObjectURL(url);
  item.urls = undefined;
  item.result = undefined;
  if (shown === item) shown = null;
}

async function drawable(blob, preview) {
  const url = URL.createObjectURL(blob);
  const trial = new Image();
  trial.src = url;
  try {
    await trial.decode();
    return url;
  } catch {
    URL.revokeObjectURL(url);
    return URL.createObjectURL(await preview(blob));
  }
}

export async function show(item, preview) {
  shown = item;
  $("kb-alert").textContent = item.state === "failed" ? `${item.name}: ${item.text}` : "";
  const urls = (item.urls ||= {});
  try {
    urls.before ||= await drawable(item.file, preview);
    if (item.result) {
      urls.download ||= URL.createObjectURL(item.result);
      urls.after ||= await drawable(item.result, preview);
    }
  } catch (error) {
    if (shown === item) {
      $("kb-result").hidden = true;
      $("kb-alert").textContent = `${item.name}: ${error.message}`;
    }
    return;
  }
  if (shown !== item || item.urls !== urls) return; // another one was opened, or this one restored anew, meanwhile
  const before = $("kb-before"), after = $("kb-after");
  before.src = urls.before;
  before.alt = `${item.name}, before`;
  after.hidden = !item.result;
  if (item.result) {
    after.src = urls.after;
    after.alt = `${item.name}, after`;
  } else after.removeAttribute("src");
  $("kb-frame").classList.toggle("kb-single", !item.result);
  $("kb-slide-label").hidden = !item.result;
  $("kb-result").hidden = false;
  await before.decode().catch(() => {});
  const size = `${before.naturalWidth} × ${before.naturalHeight}`;
  $("kb-facts").textContent = item.result ? `${size}, ${megabytes(item.result.size)}` : size;
  const download = $("kb-download");
  download.hidden = !item.result;
  if (item.result) Object.assign(download, { href: urls.download, download: item.download, ariaLabel: `Download ${item.download}` });
  $("kb-notes").replaceChildren(...(item.notes || []).map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  layout();
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function layout() {
  const before = $("kb-before"), view = $("kb-view"), stage = $("kb-stage");
  if (!before.naturalWidth) return;
  // one pixel of the picture on one of the screen
  let scale = 1 / devicePixelRatio;
  if (!zoomed) scale = Math.min(view.clientWidth / before.naturalWidth, (0.75 * innerHeight) / before.naturalHeight, LARGEST_ENLARGEMENT);
  stage.style.width = `${before.naturalWidth * scale}px`;
  stage.style.height = `${before.naturalHeight * scale}px`;
  stage.style.imageRendering = zoomed ? "pixelated" : "auto";
  divide();
}

function divide() {
  const view = $("kb-view"), stage = $("kb-stage");
  const share = Number($("kb-slide").value) / 100;
  const across = share * view.clientWidth;
  $("kb-handle").style.left = `${across}px`;
  const cut = across + view.scrollLeft - stage.offsetLeft;
  $("kb-after").style.clipPath = `inset(0 0 0 ${Math.max(0, Math.min(cut, stage.clientWidth))}px)`;
  $("kb-slide").ariaValueText = `${Math.round(100 * share)} % before, ${Math.round(100 - 100 * share)} % after`;
}

function zoom(one, x = 0.5, y = 0.5) {
  zoomed = one;
  $("kb-one").ariaPressed = String(one);
  $("kb-fit").ariaPressed = String(!one);
  layout();
  const view = $("kb-view");
  view.scrollLeft = x * view.scrollWidth - view.clientWidth / 2;
  view.scrollTop = y * view.scrollHeight - view.clientHeight / 2;
  divide();
}

export function connect() {
  const handle = $("kb-handle"), view = $("kb-view"), slide = $("kb-slide");
  const follow = ({ clientX }) => {
    const box = view.getBoundingClientRect();
    slide.value = String(Math.round((100 * (clientX - box.left)) / box.width));
    divide();
  };
  handle.onpointerdown = (event) => {
    event.preventDefault();
    handle.setPointerCapture(event.pointerId);
    handle.onpointermove = follow;
  };
  handle.onpointerup = handle.onpointercancel = () => { handle.onpointermove = null; };
  slide.oninput = divide;
  view.onscroll = divide;
  view.ondblclick = ({ clientX, clientY }) => {
    const box = $("kb-stage").getBoundingClientRect();
    zoom(!zoomed, (clientX - box.left) / box.width, (clientY - box.top) / box.height);
  };
  $("kb-fit").onclick = () => zoom(false);
  $("kb-one").onclick = () => zoom(true);
  new ResizeObserver(layout).observe(view);
}
