// The page's backend that restores in the browser itself: backend.js of the served page says what a backend is.
import { BackendError } from "./page/js/backend.js";
import { readImage, writeImage } from "./files.js";
import { Restorer } from "./kbnet.js";

const TASKS = [
  { name: "denoise", label: "Noise", presets: ["fast"] },
  { name: "derain", label: "Rain", presets: ["fast"] },
  { name: "deblur", label: "Blur", presets: ["fast"] },
];

export class LocalBackend {
  place = "Processed in this browser; nothing is uploaded";
  #base;
  #restorers = new Map(); // of a task: a promise

  constructor(base = new URL(".", import.meta.url)) {
    this.#base = base;
  }

  unlock() {}

  async describe() {
    return { tasks: TASKS, formats: ["png", "jpeg", "webp"], looks: ["strength"] };
  }

  async restore(file, { task }, { signal, progress }) {
    try {
      progress({ state: "sending" });
      const original = await readImage(file);
      const restorer = await this.#restorer(task);
      signal.throwIfAborted();
      const start = performance.now();
      const restored = await restorer.restore(original, {
        signal,
        onProgress: (done, total) => {
          const seconds = (performance.now() - start) / 1000, share = done / total;
          progress({ state: "working", seconds, share, left: seconds / share - seconds });
        },
      });
      const seconds = (performance.now() - start) / 1000;
      const { blob, notes } = await writeImage(restored, original);
      return { blob, seconds, change: meanChange(original, restored), notes: [...original.notes, ...notes], restored };
    } catch (error) {
      signal.throwIfAborted();
      throw new BackendError(error.name === "FileError" ? `${file.name ?? "the file"} ${error.message}` : error.message);
    }
  }

  async encode(file, _, { blob, notes, restored }, { strength = 1 }, format) {
    if (strength === 1 && (!format || blob.type === `image/${format}`)) return { blob, notes };
    const original = await readImage(file);
    const { data } = original, blended = new Uint8ClampedArray(data.length);
    for (let i = 0; i < data.length; i++) blended[i] = data[i] + strength * (restored.data[i] - data[i]);
    const written = await writeImage({ ...restored, data: blended }, original, format || original.format);
    return { blob: written.blob, notes: [...original.notes, ...written.notes] };
  }

  async preview() {
    throw new BackendError("this browser cannot show the file");
  }

  forget(result) {
    result.restored = null;
  }

  #restorer(task) {
    if (!this.#restorers.has(task)) {
      const promise = Restorer.load(task, { base: this.#base });
      promise.catch(() => this.#restorers.delete(task)); // a fetch that failed is tried again
      this.#restorers.set(task, promise);
    }
    return this.#restorers.get(task);
  }
}

/** Mean absolute change on the scale from 0 to 1, as the server reports it. */
function meanChange(before, after) {
  let sum = 0;
  for (let i = 0; i < before.data.length; i++) sum += Math.abs(after.data[i] - before.data[i]);
  return sum / (0.75 * before.data.length) / 255; // alpha does not change
}
