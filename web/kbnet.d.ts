/** RGBA pixels of 8 bits, as `ImageData` holds them. */
export interface Pixels {
  data: Uint8ClampedArray;
  width: number;
  height: number;
}

export interface LoadOptions {
  /** Where models.json, the weights and the modules are; by default beside kbnet.js. */
  base?: string | URL;
  /** How many workers share the tiles; by default as many as processors, at most 4. */
  workers?: number;
  /** Side of the tiles in pixels; 640 by default. Smaller tiles take less memory and more time. */
  tile?: number;
}

export interface RestoreOptions {
  /** 1 for the restored image, 0 for the input, between for a blend. */
  strength?: number;
  /** Called after each tile. */
  onProgress?: (done: number, total: number) => void;
  /** Cancels between tiles; the promise then rejects with an AbortError. */
  signal?: AbortSignal;
}

export class Restorer {
  /** Fetches a model, checks its SHA-256, and starts the workers. */
  static load(task: "denoise" | "denoise-gaussian" | "derain" | "deblur", options?: LoadOptions): Promise<Restorer>;
  /** Restores an image; alpha is kept. Several calls run one after another. */
  restore(image: { data: Uint8ClampedArray | Uint8Array; width: number; height: number }, options?: RestoreOptions): Promise<Pixels>;
  /** Ends the workers. */
  close(): void;
}

/** Rejection of a restoration that its signal cancelled; its name is "AbortError". */
export class Cancelled extends Error {}
