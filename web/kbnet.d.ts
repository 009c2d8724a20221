/** 8-bit RGBA pixels. In browsers, results are `ImageData`. */
export interface Pixels {
  data: Uint8ClampedArray<ArrayBuffer>;
  width: number;
  height: number;
}

export interface LoadOptions {
  /** Load the weights for gray images, if the task has some. They take no images in colour. */
  gray?: boolean;
  /** Address of models.json, the weights and the modules; by default beside kbnet.js. */
  base?: string | URL;
  /** Number of workers that share the tiles; by default that of processors, at most 4, or fewer if memory is scarce. */
  workers?: number;
  /** Side of the tiles in pixels, 640 by default. Smaller tiles take less memory and more time. */
  tile?: number;
  /** Which WebAssembly module to use; by default the fastest that runs here. */
  simd?: "auto" | "relaxed" | "plain";
}

export interface RestoreOptions {
  /** 1 for the restored image, 0 for the input, between for a blend. */
  strength?: number;
  /** The same for colour only, by default as `strength`: 1 with a strength of 0.3 removes colour noise and keeps grain. */
  colorStrength?: number;
  /** How much of the fine detail that was removed comes back, from 0 (none, the default) to 1. */
  detail?: number;
  /** Called after each tile. */
  onProgress?: (done: number, total: number) => void;
  /** Cancels between tiles; the promise then rejects with an AbortError. */
  signal?: AbortSignal;
}

export class Restorer {
  /** Whether the weights are for gray images. */
  readonly gray: boolean;
  /** Downloads a model, checks its SHA-256, and starts the workers. */
  static load(task: "denoise" | "denoise-gaussian" | "derain" | "deblur", options?: LoadOptions): Promise<Restorer>;
  /**
   * Restores an image, nominally in sRGB; keeps alpha. Several calls run one after another. Wrong arguments reject with a
   * TypeError; after close(), every call rejects.
   */
  restore(image: { data: Uint8ClampedArray | Uint8Array; width: number; height: number }, options?: RestoreOptions): Promise<Pixels>;
  /** Ends the workers. A restoration that is under way rejects. */
  close(): void;
}

/** The error of a restoration that its signal cancelled; its name is "AbortError". */
export class Cancelled extends Error {}
