// The page: connects backend, queue, viewer and controls. Everything on screen is drawn from the queue's state.
import { backend } from "./chosen.js";
import { Controls } from "./controls.js";
import { connect, offerExamples } from "./intake.js";
import { List, wordsOf } from "./list.js";
import { guard, lostBefore, note } from "./losses.js";
import { Pictures } from "./pictures.js";
import { Queue } from "./queue.js";
import { Viewer } from "./viewer.js";
import { bytes, element, save } from "./words.js";
import { zip } from "./zip.js";

const $ = (id) => document.getElementById(id);

const queue = new Queue(backend);
const pictures = new Pictures(backend);
const viewer = new Viewer();
const controls = new Controls();
const list = new List(queue, pictures);
let saving = false;
let drawn = null; // the item selected when the page was last drawn

// ---- drawing

function draw() {
  const item = queue.selected;
  if (item !== drawn) {
    drawn = item;
    if (item?.done && !queue.fresh.length) controls.wish = item.done; // the settings it was restored with
  }
  const result = item?.result && !["queued", "working"].includes(item.state);
  $("work").toggleAttribute("data-empty", !item);
  $("side").hidden = !item;
  $("empty").hidden = Boolean(item);
  list.draw();
  controls.setLook(result ? item.look : null);
  viewer.setLook(item?.look || {});
  drawActions(item, result);
  drawFacts(item, result);
  note(queue);
  showPicture(item);
}

function drawActions(item, result) {
  const act = $("act"), { fresh } = queue, focused = document.activeElement;
  const again = item && (item.state === "failed" || (result && differs(item)));
  act.hidden = !queue.running && !fresh.length && !again;
  act.disabled = !controls.wish;
  act.classList.toggle("strong", !queue.running);
  if (queue.running) act.textContent = "Stop";
  else if (fresh.length) act.textContent = fresh.length === 1 ? "Restore" : `Restore ${fresh.length} photos`;
  else if (again) act.textContent = item.state === "failed" ? "Try again" : "Restore again";
  $("download").hidden = !result;
  $("download").classList.toggle("strong", act.hidden);
  $("download-all").hidden = queue.done.length < 2;
  // Not the property `disabled`, which would take the focus away.
  for (const id of ["download", "download-all"]) $(id).setAttribute("aria-disabled", saving);
  if (focused?.hidden) moveFocus(focused);
}

// From a button that disappears, so that the next key doesn't start at the top of the page.
function moveFocus(from) {
  if (![$("act"), $("download"), $("download-all")].includes(from)) return;
  [$("download"), $("act"), $("canvas")].find((one) => !one.hidden)?.focus();
}

function drawFacts(item, result) {
  const working = item && ["queued", "working"].includes(item.state);
  $("busy").hidden = !working;
  $("busy-text").textContent = working ? wordsOf(item) : "";
  if (item?.progress.share === undefined) $("busy-bar").removeAttribute("value");
  else $("busy-bar").value = item.progress.share;
  const facts = $("facts");
  facts.classList.toggle("wrong", item?.state === "failed");
  if (!item) facts.textContent = "";
  else if (item.state === "failed") facts.textContent = `${item.name}: ${item.error}`;
  else if (result && item.hardly) {
    facts.textContent = `${item.name}: hardly any change (mean ${(255 * item.result.change).toFixed(1)} of 255 levels)`;
  } else facts.textContent = [item.name, viewer.size, bytes(item.file.size), result ? wordsOf(item) : ""].filter(Boolean).join(" · ");
  const notes = result ? item.told || item.result.notes : [];
  $("notes").replaceChildren(...notes.map((text) => element("li", { textContent: text })));
}

async function showPicture(item) {
  try {
    const shown = item && { id: item.id, name: item.name, ...(await pictures.of(item)) };
    if (queue.selected !== item) return;
    const size = viewer.size;
    $("blank").hidden = true;
    await viewer.show(shown);
    if (viewer.size !== size && queue.selected === item) drawFacts(item, Boolean(item?.result) && item.state === "done");
  } catch (error) {
    if (queue.selected !== item) return;
    viewer.show(null);
    $("blank").hidden = false;
    if (item.state !== "ready") return;
    Object.assign(item, { state: "failed", error: error.message });
    draw();
  }
}

function differs(item) {
  const { task, preset } = controls.wish || {};
  return Boolean(item.done) && (item.done.task !== task || item.done.preset !== preset);
}

function complain(text) {
  $("banner").replaceChildren(text, " ", ...(text ? [element("button", { type: "button", textContent: "Dismiss", onclick: () => complain("") })] : []));
  $("banner").hidden = !text;
}

// ---- acting

function add(files, task) {
  complain("");
  if (task) controls.wish = { task, preset: controls.wish?.preset || "fast" };
  const added = queue.add(files);
  if (added.length) ($("act").hidden ? $("canvas") : $("act")).focus();
}

function act() {
  complain("");
  if (queue.running) return queue.stop();
  const items = queue.fresh.length ? queue.fresh : [queue.selected];
  queue.restore(items, controls.wish);
}

async function keep(make) {
  if (saving) return;
  saving = true;
  draw();
  try {
    await make();
  } catch (error) {
    complain(error.message);
  } finally {
    saving = false;
    draw();
  }
}

function download() {
  const item = queue.selected;
  return keep(async () => {
    const { blob, name, notes } = await queue.encode(item, controls.format);
    save(blob, name);
    item.told = notes;
    queue.taken(item);
  });
}

function downloadAll() {
  return keep(async () => {
    const { items, files } = await queue.encodeAll(controls.format);
    if (!files.length) return;
    save(await zip(files), "kbnet.zip");
    items.forEach((item) => queue.taken(item));
  });
}

// ---- wiring

async function begin() {
  try {
    const description = await backend.describe();
    controls.fill(description);
    offerExamples(description.tasks, add);
    draw();
    document.documentElement.dataset.kbnet = "ready";
  } catch (error) {
    if (error.code === "key") return askForKey();
    complain(error.message);
    $("banner").append(" ", element("button", { type: "button", textContent: "Try again", onclick: () => { complain(""); begin(); } }));
  }
}

function askForKey(wrong = "") {
  $("key-wrong").textContent = wrong;
  $("key-dialog").oncancel = (event) => event.preventDefault();
  $("key-form").onsubmit = async (event) => {
    event.preventDefault();
    backend.unlock($("key").value.trim());
    try {
      await backend.describe();
    } catch (error) {
      return askForKey(error.code === "key" ? "Wrong key. Check the key and try again." : error.message);
    }
    $("key-dialog").close();
    begin();
  };
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

$("place").textContent = backend.place;
$("api").hidden = backend.api === false;
if (backend.takes) $("takes").textContent = backend.takes;
if (backend.accept) $("files").accept = backend.accept;
$("act").onclick = act;
$("download").onclick = download;
$("download-all").onclick = downloadAll;
$("more").onclick = () => {
  const open = $("controls").classList.toggle("open");
  $("more").setAttribute("aria-expanded", open);
};
controls.addEventListener("wish", draw);
controls.addEventListener("look", ({ detail }) => {
  const item = queue.selected;
  item.told = undefined;
  queue.setLook(item, detail);
});
queue.addEventListener("change", draw);
queue.addEventListener("say", ({ detail }) => { $("said").textContent = detail; });
queue.addEventListener("failed", ({ detail: { error } }) => { if (error.code === "offline") complain(error.message); });
connect(add, complain);
guard(queue);
complain(lostBefore());
begin();
