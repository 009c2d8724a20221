// The page's backend that restores in the browser; page/js/backend.js defines the interface. The work is done in desk.js.
import { BackendError } from "./page/js/backend.js";
import { isPlain, settled } from "./look.js";

const TASKS = [
  { name: "denoise", label: "Noise", presets: ["fast"] },
  { name: "derain", label: "Rain", presets: ["fast"] },
  { name: "deblur", label: "Blur", presets: ["fast"] },
];

export class LocalBackend {
  place = "Processed in this browser; nothing is uploaded";
  takes = "PNG, JPEG or WebP, 8-bit";
  accept = "image/png,image/jpeg,image/webp";
  api = false;
  #base = new URL(".", import.meta.url).href;
  #desk = null;
  #calls = new Map();
  #number = 0;

  unlock() {}

  async describe() {
    return { tasks: TASKS, formats: ["png", "jpeg", "webp"], looks: ["strength", "colour", "detail"] };
  }

  restore(file, { task }, { signal, progress }) {
    return this.#call("restore", { file, task, base: this.#base }, signal, progress);
  }

  async encode(file, wish, result, look, format, { signal } = {}) {
    const { blob, notes } = result;
    const whole = isPlain(look) && settled(look).strength === 1;
    if (whole && (!format || blob.type === `image/${format}`)) return { blob, notes };
    try {
      return await this.#call("encode", { file, kept: result.kept, look, format }, signal);
    } catch (error) {
      if (error.code !== "gone") throw error;
      // The worker that had it has failed since: restore the file again.
      Object.assign(result, await this.restore(file, wish, { signal }));
      return this.#call("encode", { file, kept: result.kept, look, format }, signal);
    }
  }

  // Browsers display every file that this page restores; for others, the error says what is wrong with them.
  async preview(file) {
    await this.#call("check", { file });
    throw new BackendError("this browser can't display the file");
  }

  forget({ kept }) {
    this.#call("forget", { kept }).catch(() => {});
  }

  #call(action, message, signal, progress = () => {}) {
    const id = this.#number++;
    const promise = new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject, progress });
      signal?.throwIfAborted();
      signal?.addEventListener("abort", () => { this.#worker.postMessage({ id, action: "cancel" }); reject(signal.reason); });
      this.#worker.postMessage({ id, action, ...message });
    });
    return promise.finally(() => this.#calls.delete(id));
  }

  get #worker() {
    if (this.#desk) return this.#desk;
    this.#desk = new Worker(new URL("./desk.js", import.meta.url), { type: "module" });
    this.#desk.onmessage = ({ data: { id, progress, result, error, code } }) => {
      const call = this.#calls.get(id);
      if (progress) call?.progress(progress);
      else if (error !== undefined) call?.reject(new BackendError(error, code));
      else call ? call.resolve(result) : result?.kept !== undefined && this.forget(result); // cancelled too late
    };
    this.#desk.onerror = () => {
      for (const call of this.#calls.values()) call.reject(new BackendError("a part of the page failed to load; reload the page"));
      this.#desk = null;
    };
    return this.#desk;
  }
}
