// How a result looks, computed from the pixels on screen: the formula of kbnet/inference/look.py, so that what is seen is
// what will be downloaded. Any backend's encode() gives the same at the photo's own bit depth.
const LUMA = [0.299, 0.587, 0.114];
const TAPS = [1, 8, 28, 56, 70, 56, 28, 8, 1].map((tap) => tap / 256);
const REACH = 4;

// Complete settings, each from 0 to 1: colour follows strength until it is set.
export function settled({ strength = 1, colour = strength, detail = 0 } = {}) {
  return { strength, colour, detail };
}

// Whether every value is blended with the same strength.
export function isPlain(look) {
  const { strength, colour, detail } = settled(look);
  return colour === strength && (!detail || !strength);
}

// Mixes two images of the same size, ImageData of the input and of the fully restored image.
export class Mixer {
  #before;
  #after;
  #luma = null; // change per pixel
  #low = null; // its low band

  constructor(before, after) {
    this.#before = before.data;
    this.#after = after.data;
    this.width = before.width;
    this.height = before.height;
  }

  // Writes the pixels of the result into an ImageData; integers are rounded half to even, as by NumPy.
  mix(look, into) {
    const { strength, colour, detail } = settled(look);
    const before = this.#before, after = this.#after, out = into.data;
    this.#luma ||= lumaChange(before, after);
    if (detail) this.#low ||= lowPass(this.#luma, this.width, this.height);
    for (let pixel = 0, at = 0; at < out.length; pixel++, at += 4) {
      const luma = this.#luma[pixel];
      const moved = strength * (detail ? luma + detail * (this.#low[pixel] - luma) : luma) - colour * luma;
      for (let c = at; c < at + 3; c++) out[c] = before[c] + moved + colour * (after[c] - before[c]);
      out[at + 3] = after[at + 3];
    }
  }
}

function lumaChange(before, after) {
  const luma = new Float32Array(before.length / 4);
  for (let pixel = 0, at = 0; pixel < luma.length; pixel++, at += 4) {
    for (let c = 0; c < 3; c++) luma[pixel] += LUMA[c] * (after[at + c] - before[at + c]);
  }
  return luma;
}

function lowPass(values, width, height) {
  const low = new Float32Array(values.length), row = new Float32Array(width); // first down, then across in place
  for (let y = 0; y < height; y++) {
    for (let tap = 0; tap < TAPS.length; tap++) {
      const from = mirrored(y + tap - REACH, height) * width;
      for (let x = 0; x < width; x++) low[y * width + x] += TAPS[tap] * values[from + x];
    }
  }
  const columns = Array.from({ length: width + 2 * REACH }, (_, x) => mirrored(x - REACH, width));
  for (let y = 0; y < height; y++) {
    row.set(low.subarray(y * width, (y + 1) * width));
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let tap = 0; tap < TAPS.length; tap++) sum += TAPS[tap] * row[columns[x + tap]];
      low[y * width + x] = sum;
    }
  }
  return low;
}

// The index within the image, whose border is a mirror between two pixels.
function mirrored(index, size) {
  const within = ((index % (2 * size)) + 2 * size) % (2 * size);
  return within < size ? within : 2 * size - 1 - within;
}
