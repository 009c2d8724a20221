// The page's pictures: collected, sent to the API one after another, shown before and after. Nothing is stored, and
// nothing is asked of any other machine.
import { connect, show, forget } from "./viewer.js";

const SUFFIXES = { derain: "-derained", deblur: "-deblurred" };
const ENDINGS = { "image/jpeg": "jpg", "image/tiff": "tif" };
const POLL = 400; // ms

const items = [];
let working = false;
let options = { task: "denoise", strength: 1, format: "", key: "" };

const $ = (id) => document.getElementById(id);
const say = (text) => { $("kb-status").textContent = text; };
const complain = (text) => { $("kb-alert").textContent = text; };

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- collecting

function add(files) {
  const found = [...files];
  for (const file of found) {
    const item = { file, name: file.name || "pasted.png", state: "ready", text: "ready" };
    item.row = row(item);
    items.push(item);
    $("kb-list").append(item.row.line);
    draw(item);
  }
  if (found.length) {
    complain("");
    say(`${found.length === 1 ? found[0].name || "A picture" : `${found.length} pictures`} added; press Restore`);
    open(items[items.length - 1]);
  }
}

function row(item) {
  const name = element("button", { type: "button", className: "kb-name", textContent: item.name });
  const state = element("span", { className: "kb-state" });
  const bar = element("progress", { max: 1, hidden: true, ariaLabel: `Progress of ${item.name}` });
  const drop = element("button", { type: "button", className: "kb-button", textContent: "✕", ariaLabel: `Remove ${item.name}` });
  name.onclick = () => open(item);
  drop.onclick = () => remove(item);
  return { line: element("li", {}, name, state, bar, drop), state, bar };
}

function draw(item) {
  const { line, state, bar } = item.row;
  line.dataset.state = item.state;
  state.textContent = item.text;
  bar.hidden = item.state !== "working";
  if (item.fraction === undefined) bar.removeAttribute("value");
  else bar.value = item.fraction;
}

function open(item) {
  for (const other of items) delete other.row.line.dataset.shown;
  item.row.line.dataset.shown = "";
  show(item, preview);
}

function remove(item) {
  item.stop?.abort();
  items.splice(items.indexOf(item), 1);
  item.row.line.remove();
  forget(item);
  if (items.length) open(items[items.length - 1]);
  else $("kb-result").hidden = true;
  say(`${item.name} removed`);
  $("kb-files").focus();
}

// ---- asking the server

function headers(more = {}) {
  return options.key ? { ...more, Authorization: `Bearer ${options.key}` } : more;
}

function token() {
  // crypto.randomUUID is not there on pages of plain http from another machine
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function explain(reply) {
  try {
    return (await reply.json()).error;
  } catch {
    return `the server answered ${reply.status}`;
  }
}

async function post(file, query, signal, busy) {
  for (;;) {
    const reply = await fetch(`v1/restore?${new URLSearchParams(query)}`, {
      method: "POST", body: file, signal, headers: headers({ "Content-Type": "application/octet-stream" }),
    });
    if (reply.status !== 429) return reply;
    const seconds = Number(reply.headers.get("Retry-After")) || 5;
    busy?.(seconds);
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    signal?.throwIfAborted();
  }
}

// A file that this browser does not draw (TIFF, above all), as a PNG: strength 0 changes no pixel.
async function preview(blob, signal) {
  const reply = await post(blob, { strength: 0, format: "png" }, signal);
  if (!reply.ok) throw new Error(await explain(reply));
  return reply.blob();
}

async function watch(item, name) {
  while (item.state === "working" && item.token === name) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    try {
      const reply = await fetch(`v1/progress/${name}`, { headers: headers() });
      if (!reply.ok || item.state !== "working" || item.token !== name) continue;
      const { state, ahead, done, total } = await reply.json();
      item.fraction = total ? done / total : undefined;
      item.text = state === "waiting" ? `waiting, ${ahead} before it` : total ? `${Math.floor((100 * done) / total)} %` : state;
      draw(item);
    } catch { /* the picture's own request will tell */ }
  }
}

async function restoreOne(item) {
  const name = token();
  const { task, strength, format } = options;
  Object.assign(item, { state: "working", text: "sending", token: name, fraction: undefined, stop: new AbortController() });
  forget(item);
  draw(item);
  say(`Restoring ${item.name}`);
  watch(item, name);
  try {
    const query = { task, strength, progress: name, ...(format ? { format } : {}) };
    const reply = await post(item.file, query, item.stop.signal, (seconds) => {
      item.text = `the server is busy, again in ${seconds} s`;
      draw(item);
    });
    if (!reply.ok) throw new Error(await explain(reply));
    item.result = await reply.blob();
    item.notes = JSON.parse(reply.headers.get("Kbnet-Notes") || "[]");
    const seconds = Number(reply.headers.get("Kbnet-Seconds"));
    const ending = ENDINGS[item.result.type] || item.result.type.replace("image/", "");
    item.download = item.name.replace(/\.[^.]*$/, "") + (SUFFIXES[task] || "-denoised") + "." + ending;
    Object.assign(item, { state: "done", text: `restored in ${seconds.toFixed(1)} s` });
    say(`${item.name} restored in ${seconds.toFixed(1)} seconds`);
  } catch (error) {
    if (error.name === "AbortError") return;
    const offline = error instanceof TypeError ? "the server does not answer; is it still running?" : error.message;
    Object.assign(item, { state: "failed", text: offline });
    complain(`${item.name}: ${offline}`);
  } finally {
    draw(item);
  }
  if (items.includes(item)) open(item);
}

window.kbnetRestore = async (task, strength, format, key) => {
  options = { task, strength, format, key: key || "" };
  complain("");
  for (const item of items) if (item.state !== "working") Object.assign(item, { state: "queued", text: "queued" });
  items.forEach(draw);
  if (!items.length) return complain("There is no picture yet: drop, choose, paste or photograph one first.");
  if (working) return;
  working = true;
  try {
    for (let item; (item = items.find((one) => one.state === "queued")); ) await restoreOne(item);
  } finally {
    working = false;
  }
};

// ---- the camera

async function photograph() {
  // phones have a camera program of their own
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) return $("kb-photo").click();
  const dialog = $("kb-video");
  const video = dialog.querySelector("video");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 4096 } } });
  } catch (error) {
    return complain(error.name === "NotFoundError" ? "There is no camera on this machine." : `The camera cannot be used: ${error.message}`);
  }
  video.srcObject = stream;
  dialog.onclose = () => { stream.getTracks().forEach((track) => track.stop()); video.srcObject = null; };
  dialog.onclick = ({ target }) => {
    if (target.dataset.do === "close") dialog.close();
    if (target.dataset.do !== "take" || !video.videoWidth) return;
    const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => { add([new File([blob], "photo.png", { type: "image/png" })]); dialog.close(); }, "image/png");
  };
  dialog.showModal();
}

async function pasteButton() {
  const files = [];
  try {
    for (const entry of await navigator.clipboard.read()) {
      const type = entry.types.find((one) => one.startsWith("image/"));
      if (type) files.push(new File([await entry.getType(type)], `pasted.${type.slice(6)}`, { type }));
    }
  } catch {
    return complain("This browser does not let the page read the clipboard; press Ctrl+V instead.");
  }
  if (files.length) add(files);
  else complain("There is no picture in the clipboard.");
}

// ---- wiring

function examples() {
  const place = $("kb-examples");
  for (const task of place.dataset.tasks.split(" ").filter(Boolean)) {
    const source = `page/example-${task}.jpg`;
    const button = element("button", { type: "button", ariaLabel: `Use the example for ${task}` }, element("img", { src: source, alt: "" }));
    button.onclick = async () => add([new File([await (await fetch(source)).blob()], `example-${task}.jpg`, { type: "image/jpeg" })]);
    place.append(button);
    place.hidden = false;
  }
}

function start() {
  const drop = $("kb-drop");
  for (const id of ["kb-files", "kb-photo"]) $(id).onchange = ({ target }) => { add(target.files); target.value = ""; };
  $("kb-camera").onclick = photograph;
  $("kb-paste").onclick = pasteButton;
  document.addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("kb-over"); });
  document.addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) drop.classList.remove("kb-over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("kb-over");
    add(event.dataTransfer.files);
  });
  examples();
  connect();
  document.documentElement.dataset.kbnet = "ready";
}

// Gradio draws its parts after this script was loaded.
const drawn = () => $("kb-drop") && $("kb-slide");
if (drawn()) start();
else new MutationObserver((_, observer) => { if (drawn()) { observer.disconnect(); start(); } }).observe(document, { childList: true, subtree: true });
