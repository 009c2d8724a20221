// kbnet in a browser, or in Node: restores images on the machine at hand. Nothing is uploaded.
//
//     import { Restorer } from "./kbnet.js";
//     const restorer = await Restorer.load("denoise");
//     const restored = await restorer.restore(imageData, { onProgress: (done, total) => ... });

import { Crew } from "./crew.js";
import { FULL_FRAME, GATHER, LOCAL, SHARED } from "./engine.js";
import { fetchBytes, fetchChecked } from "./fetching.js";
import { Mixer, isPlain } from "./look.js";

const PADDING = 8; // the protocols of the paper mirror up to a multiple of this
const OVERLAP = 64, TILE = 640;
const SAMPLE = { side: 128, halo: 16, least: 512 }; // crops that averages over the whole image are gathered from
const SECOND_BEST = 4; // gigabytes of memory assumed for phones that don't tell

// (module (func (param v128 v128 v128) (result v128) local.get 0, 1, 2, f32x4.relaxed_madd))
const RELAXED = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0, 32, 0, 32, 1, 32, 2, 253, 133, 2, 11,
);

/** Raised when a restoration was cancelled by its signal. */
export class Cancelled extends Error {
  constructor() {
    super("the restoration was cancelled");
    this.name = "AbortError";
  }
}

export class Restorer {
  #crew;
  #busy = Promise.resolve();

  constructor(crew, window, tile) {
    this.#crew = crew;
    this.window = window;
    this.tile = tile;
  }

  /** Whether the weights are for gray images, and take no others. */
  get gray() {
    return this.#crew.facts.channels === 1;
  }

  /**
   * Fetches a model and starts the workers.
   * @param {string} name a task of models.json: "denoise", "denoise-gaussian", "derain" or "deblur"
   * @param {{gray?: boolean, base?: string | URL, workers?: number, tile?: number, simd?: "auto" | "relaxed" | "plain"}} options
   *   gray: take the weights for gray images if the task has some; where the files are, by default beside this one; how
   *   many workers, by default as many as processors, at most 4, or fewer if the device has little memory; the side of
   *   tiles in pixels; which module, by default the fastest that runs here
   */
  static async load(name, options = {}) {
    const { gray = false, base = new URL(".", import.meta.url), workers = defaultWorkers(), tile = TILE, simd = "auto" } = options;
    const models = JSON.parse(new TextDecoder().decode(await fetchBytes(new URL("models.json", base))));
    const task = Object.hasOwn(models, name) ? models[name] : undefined;
    if (!task) throw new Error(`there is no model ${name}; choose among ${Object.keys(models).join(", ")}`);
    const model = (gray && task.gray) || task;
    const [module, weights] = await Promise.all([
      compile(base, simd),
      fetchChecked(new URL(model.file, base), model.sha256),
    ]);
    return new Restorer(await Crew.start(workers, module, weights), model.window, tile);
  }

  /**
   * Restores 8-bit RGBA pixels, as in `ImageData`. Alpha is kept. Several calls run one after another. Every error rejects
   * the promise, also those of wrong arguments and of a restorer that is closed.
   * @param {{data: Uint8ClampedArray | Uint8Array, width: number, height: number}} image
   * @param {{strength?: number, colorStrength?: number, detail?: number, onProgress?: (done: number, total: number) => void,
   *   signal?: AbortSignal}} options strength: 1 for the restored image, 0 for the input, between for a blend;
   *   colorStrength: the same for colour only; detail: how much of the fine detail that was removed comes back
   * @returns {Promise<ImageData | {data: Uint8ClampedArray, width: number, height: number}>} the latter in Node
   */
  async restore(image, options = {}) {
    const { data, width, height } = image;
    if (!(width > 0 && height > 0) || data?.length !== 4 * width * height)
      throw new TypeError(`expected RGBA pixels of ${width} x ${height}, got ${data?.length} values`);
    const { strength = 1, colorStrength = strength, detail = 0 } = options;
    for (const [name, value] of Object.entries({ strength, colorStrength, detail }))
      if (!(value >= 0 && value <= 1)) throw new TypeError(`expected ${name} from 0 to 1, got ${value}`);
    if (this.gray && !isGray(data)) throw new TypeError("expected a gray image for these weights, got one in colour");
    const look = { strength, colour: colorStrength, detail };
    const turn = this.#busy.then(() => new Job(this.#crew, this, image, { ...options, look }).run());
    this.#busy = turn.catch(() => {});
    return turn;
  }

  /** Ends the workers. */
  close() {
    this.#crew.end();
  }
}

class Job {
  constructor(crew, { window, tile }, image, options) {
    Object.assign(this, { crew, window, image, options, tile: Math.max(tile, crew.facts.multiple) });
    this.channels = crew.facts.channels; // 3, or 1 for gray weights
    this.strength = isPlain(options.look) ? options.look.strength : 1; // others are mixed at the end
    this.rows = Math.ceil(image.height / PADDING) * PADDING;
    this.cols = Math.ceil(image.width / PADDING) * PADDING;
    this.result = new Uint8ClampedArray(image.data.length);
  }

  async run() {
    this.#throwIfCancelled();
    const usual = OVERLAP + this.window;
    const { tile } = this, overlap = Math.min(usual, tile >> 1);
    const down = await this.crew.one("spans", { length: this.rows, tile, overlap });
    const across = await this.crew.one("spans", { length: this.cols, tile, overlap });
    const context = await this.#context(down.length * across.length);
    const bands = down.map((row, index) => new Band(row, down[index + 1]?.start ?? this.rows, this, across.length));
    const tiles = down.flatMap((row, i) => across.map((col) => ({ row, col, band: i })));
    let begun = 0, done = 0, flushed = 0;
    await this.crew.share((call) => {
      if (begun === tiles.length) return null;
      this.#throwIfCancelled();
      const { row, col, band } = tiles[begun++];
      const height = row.stop - row.start, width = col.stop - col.start;
      const pixels = this.#cut(row.start, col.start, height, width);
      return call("run", { pixels, height, width, context }, [pixels.buffer]).then((restored) => {
        bands[band].add(restored, row, col);
        this.options.onProgress?.(++done, tiles.length);
        // Strictly from the top: a band hands what it shares with the next one over to it.
        for (; flushed < bands.length && bands[flushed].left === 0; flushed++) {
          this.#write(bands[flushed]);
          bands[flushed].passOn(bands[flushed + 1]);
        }
      });
    });
    this.#throwIfCancelled(); // while the last tile was restored
    const { width, height } = this.image, { look } = this.options;
    if (!isPlain(look)) new Mixer(this.image, { data: this.result }).mix(look, { data: this.result });
    return globalThis.ImageData ? new ImageData(this.result, width, height) : { data: this.result, width, height };
  }

  #throwIfCancelled() {
    if (this.options.signal?.aborted) throw new Cancelled();
  }

  async #context(tiles) {
    if (this.window > 0) return { kind: LOCAL, window: this.window };
    if (tiles === 1) return { kind: FULL_FRAME };
    const { multiple } = this.crew.facts;
    const fitting = (length) => Math.max(Math.floor(length / multiple), 1) * multiple;
    const side = Math.min(SAMPLE.side, fitting(this.rows), fitting(this.cols));
    const halo = side === SAMPLE.side ? SAMPLE.halo : 0;
    const corners = await this.crew.one("crops", {
      height: this.rows, width: this.cols, side, halo, pixels: Math.max(this.tile, SAMPLE.least) ** 2, // in all: the memory of a tile
    });
    const height = Math.min(side, this.rows), width = Math.min(side, this.cols);
    const length = this.channels * height * width, pixels = new Float32Array(corners.length * length);
    corners.forEach(([y, x], i) => pixels.set(this.#cut(y, x, height, width), i * length));
    const message = { pixels, batch: corners.length, height, width, context: { kind: GATHER, halo } };
    const means = await this.crew.one("gather", message, [pixels.buffer]);
    await this.crew.all("share", { means });
    return { kind: SHARED };
  }

  /** Part of the image, mirrored at its bottom and its right, as [channels, height, width] in [0,1]. */
  #cut(top, left, height, width) {
    const { data, width: stride } = this.image, plane = height * width;
    const pixels = new Float32Array(this.channels * plane);
    const columns = Int32Array.from({ length: width }, (_, x) => 4 * mirrored(left + x, stride));
    for (let y = 0, to = 0; y < height; y++) {
      const row = 4 * stride * mirrored(top + y, this.image.height);
      for (let x = 0; x < width; x++, to++) {
        const from = row + columns[x];
        for (let c = 0, at = to; c < this.channels; c++, at += plane) pixels[at] = data[from + c] / 255;
      }
    }
    return pixels;
  }

  #write({ start, next, sums, height }) {
    const { data, width, height: lines } = this.image;
    const { strength, channels } = this, plane = height * this.cols;
    for (let y = start; y < Math.min(next, lines); y++) {
      let from = (y - start) * this.cols, to = 4 * y * width;
      for (let x = 0; x < width; x++, from++, to += 4) {
        for (let c = 0; c < 3; c++) {
          const before = data[to + c];
          const restored = 255 * sums[channels === 1 ? from : from + c * plane];
          this.result[to + c] = before + strength * (restored - before); // rounds half to even
        }
        this.result[to + 3] = data[to + 3];
      }
    }
  }
}

/** Sums of the tiles of one row of them, weighted. */
class Band {
  constructor({ start, stop }, next, { cols, channels }, tiles) {
    Object.assign(this, { start, stop, next, cols, channels, left: tiles, height: stop - start, sums: null });
  }

  /** Float32Array [channels, height, cols], made when it is first needed. */
  #begun() {
    return (this.sums ??= new Float32Array(this.channels * this.height * this.cols));
  }

  add(restored, row, col) {
    const sums = this.#begun(), width = col.stop - col.start;
    for (let c = 0, from = 0; c < this.channels; c++)
      for (let y = 0; y < this.height; y++) {
        let to = (c * this.height + y) * this.cols + col.start;
        for (let x = 0; x < width; x++) sums[to++] += restored[from++] * (row.weights[y] * col.weights[x]);
      }
    this.left--;
  }

  passOn(below) {
    if (below) {
      const sums = below.#begun();
      for (let c = 0; c < this.channels; c++)
        for (let y = below.start; y < this.stop; y++) {
          let from = (c * this.height + y - this.start) * this.cols;
          let to = (c * below.height + y - below.start) * this.cols;
          for (let x = 0; x < this.cols; x++) sums[to++] += this.sums[from++];
        }
    }
    this.sums = null;
  }
}

/** Which of `length` pixels an axis shows at `index` when it is mirrored at its end. */
function mirrored(index, length) {
  if (length === 1) return 0;
  const period = 2 * (length - 1), place = index % period;
  return Math.min(place, period - place);
}

function isGray(data) {
  for (let i = 0; i < data.length; i += 4) if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return false;
  return true;
}

/** A worker takes up to 200 MB with tiles of 640 pixels. */
function defaultWorkers() {
  const { hardwareConcurrency = 2, deviceMemory, userAgent = "" } = globalThis.navigator ?? {};
  const memory = deviceMemory ?? (/Mobi|Android|iP(hone|ad)/.test(userAgent) ? SECOND_BEST : Infinity);
  return Math.max(1, Math.min(hardwareConcurrency, 4, Math.floor(memory / 2)));
}

/** The module with fused multiply-adds if they run here, otherwise the one with plain SIMD. */
async function compile(base, simd) {
  const relaxed = simd === "auto" ? WebAssembly.validate(RELAXED) : simd === "relaxed";
  const bytes = await fetchBytes(new URL(relaxed ? "kbnet-relaxed.wasm" : "kbnet-simd.wasm", base));
  if (!WebAssembly.validate(bytes)) throw new Error("WebAssembly SIMD is missing here; update the browser, or Node");
  return WebAssembly.compile(bytes);
}
