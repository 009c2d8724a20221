// The queue as a list: thumbnail, name and progress of each photo.
import { element, remaining } from "./words.js";

export class List {
  #rows = new Map();
  #queue;
  #pictures;
  #place = document.getElementById("queue");

  constructor(queue, pictures) {
    this.#queue = queue;
    this.#pictures = pictures;
  }

  draw() {
    for (const [item, { line }] of this.#rows) {
      if (this.#queue.items.includes(item)) continue;
      line.remove();
      this.#rows.delete(item);
      this.#pictures.forget(item);
    }
    for (const item of this.#queue.items) this.#update(item, this.#rows.get(item) || this.#row(item));
  }

  #row(item) {
    const thumbnail = element("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    const name = element("span", { className: "name", textContent: item.name });
    const state = element("span", { className: "state" });
    const open = element("button", { type: "button", className: "open", onclick: () => this.#queue.select(item) }, thumbnail, element("span", { className: "words" }, name, state));
    const bar = element("progress", { max: 1, hidden: true, "aria-label": `Progress of ${item.name}` });
    const drop = element("button", { type: "button", className: "drop", textContent: "✕", "aria-label": `Remove ${item.name}`, onclick: () => this.#remove(item) });
    const line = element("li", {}, open, drop, bar);
    const row = { line, state, bar, open };
    this.#rows.set(item, row);
    this.#place.append(line);
    this.#pictures.thumbnail(item, thumbnail);
    return row;
  }

  #update(item, { line, state, bar, open }) {
    line.dataset.state = item.state;
    line.dataset.item = item.id;
    if (item === this.#queue.selected) open.setAttribute("aria-current", "true");
    else open.removeAttribute("aria-current");
    state.textContent = wordsOf(item);
    bar.hidden = item.state !== "working";
    if (item.progress.share === undefined) bar.removeAttribute("value");
    else bar.value = item.progress.share;
  }

  #remove(item) {
    const place = this.#queue.items.indexOf(item);
    this.#queue.remove(item);
    const next = this.#queue.items[Math.min(place, this.#queue.items.length - 1)];
    const focus = next ? this.#rows.get(next).open : document.getElementById("choose");
    focus.focus();
  }
}

export function wordsOf(item) {
  const { state, ahead, retry, share, left } = item.progress;
  if (item.state === "ready") return "Not restored yet";
  if (item.state === "queued") return "Queued";
  if (item.state === "failed") return item.error;
  if (item.state === "done") return item.hardly ? "Done, hardly any change" : `Done in ${item.result.seconds.toFixed(1)} s`;
  if (state === "sending") return "Sending";
  if (state === "loading") return "Loading the model";
  if (state === "waiting") return retry ? `Server busy, retrying in ${retry} s` : `Waiting, ${ahead} ahead`;
  if (share === undefined) return "Restoring";
  return `${Math.floor(100 * share)}%${remaining(left)}`;
}
