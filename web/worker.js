// Runs tiles for kbnet.js, in a Web Worker or a worker thread of Node.

import { Engine } from "./engine.js";
import { builtin } from "./fetching.js";

const node = typeof self === "undefined" ? (await builtin("worker_threads")).parentPort : null;
const answer = (message, moved) => (node ?? self).postMessage(message, moved ?? []);

let engine;

const actions = {
  open: ({ module, weights }) => {
    engine = new Engine(module, weights);
    return { channels: engine.channels, multiple: engine.multiple };
  },
  spans: ({ length, tile, overlap }) => engine.spans(length, tile, overlap),
  crops: ({ height, width, side, halo, pixels }) => engine.crops(height, width, side, halo, pixels),
  gather: ({ pixels, batch, height, width, context }) => {
    engine.run(pixels, batch, height, width, context);
    return engine.means;
  },
  share: ({ means }) => {
    engine.means = means;
  },
  run: ({ pixels, height, width, context }) => engine.run(pixels, 1, height, width, context),
};

function receive({ id, action, ...rest }) {
  try {
    const result = actions[action](rest);
    answer({ id, result }, result instanceof Float32Array ? [result.buffer] : []);
  } catch (error) {
    answer({ id, ...told(error) });
  }
}

/** What is known about an error, also where a browser throws "out of memory" as a text. */
function told(error) {
  if (error instanceof WebAssembly.RuntimeError) return { error: `the network failed: ${error.message}`, name: "EngineError" };
  return { error: error.message ?? String(error), name: error.name ?? "EngineError" };
}

if (node) node.on("message", receive);
else self.onmessage = (event) => receive(event.data);
answer({ ready: true }); // messages sent before a module worker has loaded are kept, but errors at loading are not told
