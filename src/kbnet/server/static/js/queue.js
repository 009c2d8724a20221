// The photos of the page: added, restored one after another, each with its own settings. Independent of the document and
// of the backend's details; every change fires a "change" event.
import { HARDLY_CHANGED } from "./backend.js";

const DONE_WORDS = { derain: "derained", deblur: "deblurred" };
const ENDINGS = { "image/jpeg": ["jpg", "jpeg"], "image/tiff": ["tif", "tiff"] };

export class Queue extends EventTarget {
  items = [];
  selected = null;
  #backend;
  #running = false;
  #number = 0;

  constructor(backend) {
    super();
    this.#backend = backend;
  }

  get running() {
    return this.#running;
  }

  get done() {
    return this.items.filter((item) => item.result);
  }

  // The items that the Restore button applies to.
  get fresh() {
    return this.items.filter((item) => item.state === "ready");
  }

  add(files) {
    const items = [...files].map((file) => ({
      id: ++this.#number, file, name: file.name || "pasted.png", state: "ready", look: { strength: 1 }, progress: {}, notes: [],
    }));
    if (!items.length) return [];
    this.items.push(...items);
    this.selected = items[0];
    this.#changed();
    this.#say(items.length === 1 ? `${items[0].name} added` : `${items.length} photos added`);
    return items;
  }

  select(item) {
    this.selected = item;
    this.#changed();
  }

  remove(item) {
    item.stop?.abort();
    if (item.result) this.#backend.forget(item.result);
    const place = this.items.indexOf(item);
    this.items.splice(place, 1);
    item.removed = true;
    if (this.selected === item) this.selected = this.items[Math.min(place, this.items.length - 1)] || null;
    this.#changed();
    this.#say(`${item.name} removed`);
  }

  setLook(item, look) {
    item.look = { ...item.look, ...look };
    this.#changed();
  }

  // wish: {task, preset}
  async restore(items, wish) {
    for (const item of items) Object.assign(item, { state: "queued", wish, error: "", progress: {} });
    if (this.#running) return this.#changed();
    this.#running = true;
    this.#changed();
    try {
      for (let item; (item = this.items.find((one) => one.state === "queued")); ) await this.#restoreOne(item);
    } finally {
      this.#running = false;
      this.#changed();
    }
  }

  stop() {
    for (const item of this.items) {
      if (item.state === "queued") item.state = item.result ? "done" : "ready";
      item.stop?.abort();
    }
    this.#changed();
    this.#say("Stopped");
  }

  // The result as shown, or in another format. It was made as in `done`; `wish` may be one that failed since.
  async encode(item, format = "") {
    const { done } = item;
    const { blob, notes } = await this.#backend.encode(item.file, done, item.result, item.look, format);
    return { blob, notes, name: nameOf(item, done, blob.type) };
  }

  // All results, and the items they belong to: without the photos that are removed meanwhile.
  async encodeAll(format) {
    const items = [], files = [];
    for (const item of this.done) {
      let file = null;
      try {
        if (!item.removed) file = await this.encode(item, format);
      } catch (error) {
        if (!item.removed) throw error;
      }
      if (item.removed) continue;
      items.push(item);
      files.push(file);
    }
    return { items, files };
  }

  taken(item) {
    item.taken = true;
    this.#changed();
  }

  async #restoreOne(item) {
    const before = item.result;
    Object.assign(item, { state: "working", stop: new AbortController(), progress: {} });
    this.#changed();
    try {
      const progress = (told) => {
        item.progress = told;
        if (item.state === "working") this.#changed();
      };
      const result = await this.#backend.restore(item.file, item.wish, { signal: item.stop.signal, progress });
      if (item.removed) return this.#backend.forget(result);
      if (before) this.#backend.forget(before);
      const hardly = result.change < HARDLY_CHANGED;
      Object.assign(item, { state: "done", result, hardly, taken: false, look: { strength: 1 }, done: item.wish });
      this.#say(`${item.name} restored in ${result.seconds.toFixed(1)} seconds${hardly ? ", hardly any change" : ""}`);
    } catch (error) {
      if (item.stop.signal.aborted) Object.assign(item, { state: before ? "done" : "ready", wish: item.done });
      else {
        Object.assign(item, { state: "failed", error: error.message });
        this.#say(`${item.name} failed: ${error.message}`);
        this.dispatchEvent(new CustomEvent("failed", { detail: { item, error } }));
      }
    } finally {
      item.stop = null;
      item.progress = {};
      this.#changed();
    }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #say(text) {
    this.dispatchEvent(new CustomEvent("say", { detail: text }));
  }
}

function nameOf(item, { task }, type) {
  const [, stem, given] = item.name.match(/^(.*?)(?:\.([^.]*))?$/);
  const endings = ENDINGS[type] || [type.replace("image/", "")];
  const ending = endings.find((one) => one === (given || "").toLowerCase()) || endings[0];
  return `${stem}-${DONE_WORDS[task] || "denoised"}.${ending}`;
}
