// One network in one WebAssembly module: the functions of csrc/web.cpp with typed arrays in place of addresses.

/** Where averages over the image come from: the numbers of csrc/web.cpp. */
export const FULL_FRAME = 0, LOCAL = 1, GATHER = 2, SHARED = 3;

/** What went wrong in the module; the engine that threw it cannot be used again. */
export class EngineError extends Error {
  constructor(message) {
    super(message);
    this.name = "EngineError";
  }
}

export class Engine {
  /**
   * @param {WebAssembly.Module} module compiled from kbnet-simd.wasm or kbnet-relaxed.wasm
   * @param {Uint8Array} weights a .safetensors file of kbnet
   */
  constructor(module, weights) {
    const fail = (text, length) => {
      throw new EngineError(new TextDecoder().decode(new Uint8Array(this.exports.memory.buffer, text, length)));
    };
    this.exports = new WebAssembly.Instance(module, { kbnet: { fail }, wasi_snapshot_preview1: wasi(module) }).exports;
    this.exports._initialize?.();
    const at = this.#allocate(weights.length);
    new Uint8Array(this.exports.memory.buffer, at, weights.length).set(weights);
    this.model = this.exports.open(at, weights.length);
    this.exports.release(at);
    /** Of the images that the network takes: 3 or 1. */
    this.channels = this.exports.channels(this.model);
    /** Tiles begin at multiples of this. */
    this.multiple = this.exports.multiple(this.model);
  }

  /**
   * One pass of the network.
   * @param {Float32Array} x [batch, channels, height, width], nominally in [0,1]
   * @param {{kind: number, window?: number, halo?: number}} context
   * @returns {Float32Array} the same shape, a copy
   */
  run(x, batch, height, width, { kind, window = 0, halo = 0 }) {
    const from = this.#allocate(4 * x.length), to = this.#allocate(4 * x.length);
    this.#floats(from, x.length).set(x);
    this.exports.run(this.model, from, to, batch, height, width, kind, window, halo);
    const result = this.#floats(to, x.length).slice();
    this.exports.release(from);
    this.exports.release(to);
    return result;
  }

  /** The averages that a pass with GATHER left, to be given to other engines. */
  get means() {
    const count = this.#allocate(4);
    const at = this.exports.means(this.model, count);
    const length = new Int32Array(this.exports.memory.buffer, count, 1)[0];
    this.exports.release(count);
    return this.#floats(at, length).slice();
  }

  set means(flat) {
    const at = this.#allocate(4 * flat.length);
    this.#floats(at, flat.length).set(flat);
    this.exports.set_means(this.model, at);
    this.exports.release(at);
  }

  /**
   * How an axis is cut into tiles that overlap.
   * @returns {{start: number, stop: number, weights: Float32Array}[]}
   */
  spans(length, tile, overlap) {
    const at = this.exports.spans(length, tile, overlap, this.multiple) / 4;
    const floats = new Float32Array(this.exports.memory.buffer);
    const spans = [];
    for (let i = at + 1; spans.length < floats[at]; ) {
      const start = floats[i], stop = floats[i + 1];
      spans.push({ start, stop, weights: floats.slice(i + 2, i + 2 + stop - start) });
      i += 2 + stop - start;
    }
    return spans;
  }

  /** Top-left corners [y, x] of the crops from which an image's averages are gathered. */
  crops(height, width, side, halo, pixels) {
    const at = this.exports.crops(height, width, side, halo, pixels, this.multiple) / 4;
    const floats = new Float32Array(this.exports.memory.buffer);
    return Array.from({ length: floats[at] }, (_, i) => [floats[at + 1 + 2 * i], floats[at + 2 + 2 * i]]);
  }

  #allocate(bytes) {
    const at = this.exports.allocate(bytes);
    if (!at) throw new EngineError("out of memory: choose smaller tiles or fewer workers");
    return at;
  }

  #floats(at, length) {
    return new Float32Array(this.exports.memory.buffer, at, length); // anew each time: growing the memory detaches it
  }
}

/** The few system calls that the C++ library wants to exist; none does anything. */
function wasi(module) {
  const wanted = WebAssembly.Module.imports(module).filter((one) => one.module === "wasi_snapshot_preview1");
  return Object.fromEntries(wanted.map(({ name }) => [name, () => 8 /* EBADF */]));
}
