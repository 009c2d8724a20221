// The backend of `kbnet serve`: its HTTP API.
import { BackendError } from "./backend.js";
import { isPlain, settled } from "./look.js";

const POLL = 400; // ms
const LABELS = { denoise: "Noise", derain: "Rain", deblur: "Blur" };

export class HttpBackend {
  place = "Processed on the computer running kbnet";
  #base;
  #key = "";

  constructor(base = "") {
    this.#base = base;
  }

  unlock(key) {
    this.#key = key;
  }

  async describe() {
    const { tasks, models, formats } = await (await this.#ask("v1/models")).json();
    const known = tasks.filter((task) => LABELS[task]);
    return {
      tasks: (known.length ? Object.keys(LABELS).filter((task) => known.includes(task)) : tasks).map((task) => ({
        name: task,
        label: LABELS[task] || task,
        presets: models.some((model) => model.task === task && model.variant === "hq") ? ["fast", "best"] : ["fast"],
      })),
      formats,
      looks: ["strength", "colour", "detail"],
    };
  }

  async restore(file, { task, preset }, { signal, progress }) {
    const token = unguessable();
    const watching = new AbortController();
    this.#watch(token, progress, watching.signal);
    try {
      progress({ state: "sending" });
      const reply = await this.#post(file, { task, preset, progress: token, keep: true }, signal, progress);
      return {
        blob: await reply.blob(),
        seconds: Number(reply.headers.get("Kbnet-Seconds")),
        change: Number(reply.headers.get("Kbnet-Change") ?? 1),
        notes: notesOf(reply),
        kept: reply.headers.get("Kbnet-Result"),
      };
    } finally {
      watching.abort();
    }
  }

  async encode(file, { task, preset }, result, look, format, { signal } = {}) {
    const { strength, colour, detail } = settled(look);
    if (isPlain(look) && strength === 1 && (!format || result.blob.type === `image/${format}`)) return { blob: result.blob, notes: result.notes };
    const query = { strength, ...(isPlain(look) ? {} : { color_strength: colour, detail }), ...(format ? { format } : {}) };
    let reply;
    try {
      if (!result.kept) throw new BackendError("the server didn't keep the result", "gone");
      reply = await this.#ask(`v1/results/${result.kept}?${new URLSearchParams(query)}`, { signal });
    } catch (error) {
      if (!(error instanceof BackendError) || error.code !== "gone") throw error;
      // Restore the file again.
      reply = await this.#post(file, { task, preset, ...query }, signal);
    }
    return { blob: await reply.blob(), notes: notesOf(reply) };
  }

  // Strength 0 changes no pixel.
  async preview(blob, { signal } = {}) {
    return (await this.#post(blob, { strength: 0, format: "png" }, signal)).blob();
  }

  forget(result) {
    if (!result.kept) return;
    const headers = this.#headers();
    fetch(`${this.#base}v1/results/${result.kept}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
    result.kept = null;
  }

  #headers(more = {}) {
    return this.#key ? { ...more, Authorization: `Bearer ${this.#key}` } : more;
  }

  async #ask(path, options = {}) {
    let reply;
    try {
      reply = await fetch(this.#base + path, { ...options, headers: this.#headers(options.headers) });
    } catch (error) {
      options.signal?.throwIfAborted();
      throw new BackendError("the server doesn't respond; check that kbnet is running", "offline");
    }
    if (reply.ok || (reply.status === 429 && options.method === "POST")) return reply;
    throw new BackendError(await explanation(reply), { 401: "key", 404: "gone" }[reply.status] || "refused");
  }

  async #post(blob, query, signal, progress) {
    for (;;) {
      const reply = await this.#ask(`v1/restore?${new URLSearchParams(query)}`, {
        method: "POST", body: blob, signal, headers: { "Content-Type": "application/octet-stream" },
      });
      if (reply.status !== 429) return reply;
      const retry = Number(reply.headers.get("Retry-After")) || 5;
      progress?.({ state: "waiting", retry });
      await pause(retry * 1000, signal);
    }
  }

  async #watch(token, progress, signal) {
    try {
      for (;;) {
        await pause(POLL, signal);
        const reply = await fetch(`${this.#base}v1/progress/${token}`, { headers: this.#headers(), signal });
        if (!reply.ok) continue;
        const { state, ahead, seconds, left } = await reply.json();
        signal.throwIfAborted();
        if (state === "waiting") progress({ state: "waiting", ahead });
        if (state === "restoring") {
          progress({ state: "working", seconds, left, share: left === null ? undefined : seconds / (seconds + left || 1) });
        }
      }
    } catch { /* the request ended; if it failed, it reports the error itself */ }
  }
}

function notesOf(reply) {
  return JSON.parse(reply.headers.get("Kbnet-Notes") || "[]");
}

async function explanation(reply) {
  try {
    return (await reply.json()).error;
  } catch {
    return `the server returned HTTP status ${reply.status}`;
  }
}

// crypto.randomUUID isn't available on plain HTTP pages from another computer.
function unguessable() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
