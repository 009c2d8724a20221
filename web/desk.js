// Everything that takes time for the page, in a worker: reading and writing files, restoring, blending. So the page itself
// never waits. local.js calls it; engines run in further workers.
import { readImage, writeImage } from "./files.js";
import { Restorer } from "./kbnet.js";
import { Mixer } from "./look.js";

const SMALL = { workers: 1, tile: 320 }; // where memory runs out
let turn = Promise.resolve(); // restorations run one after another: the engines of one may be closed for the next
let held = null; // the engines kept for the next photo: {name, restorer}, the latter a promise
const running = new Map(); // per call: an AbortController
const results = new Map(); // per call: restored pixels in a Blob, which browsers may keep on disk

const actions = {
  async restore({ id, file, task, base }) {
    const { signal } = running.get(id);
    const tell = (progress) => postMessage({ id, progress });
    tell({ state: "loading" });
    const original = await readImage(file);
    if (original.gray) makeGray(original.data); // some browsers disturb what a canvas returns
    const restored = await attempt(task, { base, gray: original.gray }, signal, async (restorer) => {
      signal.throwIfAborted();
      tell({ state: "working" });
      const start = performance.now();
      const onProgress = (done, total) => {
        const seconds = (performance.now() - start) / 1000, share = done / total;
        tell({ state: "working", seconds, share, left: seconds / share - seconds });
      };
      const result = await restorer.restore(original, { signal, onProgress });
      const { data, width, height } = result;
      if (original.gray && !restorer.gray) makeGray(data);
      return { data, width, height, seconds: (performance.now() - start) / 1000 };
    });
    const change = meanChange(original.data, restored.data);
    const { blob, notes } = await writeImage(restored, original);
    results.set(id, new Blob([restored.data]));
    return { blob, notes, change, seconds: restored.seconds, kept: id };
  },

  async encode({ file, kept, look, format }) {
    const stored = results.get(kept);
    if (!stored) throw Object.assign(new Error("the result is no longer there"), { code: "gone" });
    const original = await readImage(file), { width, height } = original;
    const mixed = { data: new Uint8ClampedArray(await stored.arrayBuffer()), width, height };
    new Mixer(original, mixed).mix(look, mixed);
    return writeImage(mixed, original, format || original.format);
  },

  async check({ file }) {
    await readImage(file);
  },

  forget({ kept }) {
    results.delete(kept);
  },
};

function attempt(task, options, signal, work) {
  const mine = turn.then(() => attemptNow(task, options, signal, work));
  turn = mine.catch(() => {});
  return mine;
}

async function attemptNow(task, options, signal, work) {
  try {
    signal.throwIfAborted(); // while it waited for its turn
    return await work(await loadAny(task, options, signal));
  } catch (error) {
    if (!lacksMemory(error)) throw error;
    release(); // an engine that failed cannot be used again
    if (signal.aborted) throw error;
  }
  const small = await Restorer.load(task, { ...options, ...SMALL });
  try {
    return await work(small);
  } finally {
    small.close(); // the next photo gets all workers again
  }
}

/** The engines for a task; without a connection, for a gray image also those for colour, which may be here already. */
async function loadAny(task, options, signal) {
  try {
    return await unless(signal, load(task, options));
  } catch (error) {
    if (signal.aborted || !options.gray || lacksMemory(error)) throw error;
    options.gray = false; // also for a second attempt
    return unless(signal, load(task, options));
  }
}

function load(task, options) {
  const name = nameOf(task, options);
  if (held?.name !== name) {
    release(); // one network's engines at a time: they keep their memory
    const mine = (held = { name, restorer: Restorer.load(task, options) });
    mine.restorer.catch(() => { if (held === mine) held = null; }); // a download that failed is tried again
  }
  return held.restorer;
}

/** Ends the engines. Nothing uses them: restorations take turns, and one that was stopped has ended before the next. */
function release() {
  held?.restorer.then((restorer) => restorer.close(), () => {});
  held = null;
}

/** What the promise becomes, or the signal's reason as soon as it aborts. */
function unless(signal, promise) {
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject);
    signal.throwIfAborted();
  });
}

/** Whether an engine or an allocation failed, usually for lack of memory; browsers name it differently. */
function lacksMemory(error) {
  return error === "out of memory" || ["EngineError", "RangeError", "InternalError"].includes(error.name);
}

function nameOf(task, { gray }) {
  return gray ? `${task} gray` : task;
}

/** Colour weights restore a gray image as three equal channels; the mean of the three is the result. */
function makeGray(data) {
  for (let i = 0; i < data.length; i += 4) data[i] = data[i + 1] = data[i + 2] = (data[i] + data[i + 1] + data[i + 2]) / 3;
}

/** Mean absolute change of the colours, from 0 to 1. */
function meanChange(before, after) {
  let sum = 0;
  for (let i = 0; i < before.length; i++) sum += Math.abs(after[i] - before[i]); // alpha does not change
  return sum / (0.75 * before.length) / 255;
}

self.onmessage = async ({ data: { id, action, ...rest } }) => {
  if (action === "cancel") return running.get(id)?.abort();
  running.set(id, new AbortController());
  try {
    postMessage({ id, result: await actions[action]({ id, ...rest }) });
  } catch (error) {
    const message = error.message ?? String(error);
    postMessage({ id, error: error.name === "FileError" ? `it ${message}` : message, code: error.code });
  } finally {
    running.delete(id);
  }
};
