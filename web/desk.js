// Everything that takes time for the page, in a worker: reading and writing files, restoring, blending. So the page itself
// never waits. local.js calls it; engines run in further workers.
import { readImage, writeImage } from "./files.js";
import { Restorer } from "./kbnet.js";
import { Mixer } from "./look.js";

const SMALL = { workers: 1, tile: 320 }; // where memory runs out
const restorers = new Map(); // per task, and apart for gray images: a promise
const running = new Map(); // per call: an AbortController
const results = new Map(); // per call: restored pixels in a Blob, which browsers may keep on disk

const actions = {
  async restore({ id, file, task, base }) {
    const { signal } = running.get(id);
    const tell = (progress) => postMessage({ id, progress });
    tell({ state: "loading" });
    const original = await readImage(file);
    if (original.gray) makeGray(original.data); // some browsers disturb what a canvas returns
    const restored = await attempt(task, { base, gray: original.gray }, async (restorer) => {
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
    const original = await readImage(file), { width, height } = original;
    const mixed = { data: new Uint8ClampedArray(await results.get(kept).arrayBuffer()), width, height };
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

async function attempt(task, options, work) {
  let restorer;
  try {
    restorer = await load(task, options);
  } catch (error) {
    if (!options.gray) throw error;
    options = { ...options, gray: false }; // without a connection, the weights for colour may be here already
    restorer = await load(task, options);
  }
  try {
    return await work(restorer);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    // An engine that failed cannot be used again; it usually failed for lack of memory.
    restorers.delete(nameOf(task, options));
    restorer.close();
    return work(await load(task, { ...options, ...SMALL }));
  }
}

function load(task, options) {
  const name = nameOf(task, options);
  if (!restorers.has(name)) {
    for (const [other, promise] of restorers) {
      restorers.delete(other); // one network's engines at a time: they keep their memory
      promise.then((restorer) => restorer.close(), () => {});
    }
    const promise = Restorer.load(task, options);
    promise.catch(() => restorers.delete(name)); // a download that failed is tried again
    restorers.set(name, promise);
  }
  return restorers.get(name);
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
    postMessage({ id, error: error.name === "FileError" ? `it ${error.message}` : error.message });
  } finally {
    running.delete(id);
  }
};
