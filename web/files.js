// Image files in a browser: pixels exactly as they are stored, and results with the metadata of the original.
import { orientationOf, upright } from "./exif.js";
import { FileError, deflate, joinJpeg, joinPng, joinWebp, splitJpeg, splitPng, splitWebp, text } from "./metadata.js";
import { uprightXmp } from "./xmp.js";

export { FileError };

const MOST_PIXELS = 64e6; // about a gigabyte of memory
const STRIP = 4e6; // pixels read at a time
const QUALITY = 0.95;
const KNOWN = [
  ["GIF", /^GIF8/], ["BMP", /^BM/], ["TIFF", /^(II\*\0|MM\0\*|II\+\0|MM\0\+)/], ["AVIF", /^.{4}ftypavi/s],
  ["HEIC", /^.{4}ftyp(hei|hev|mif|msf)/s], ["JPEG XL", /^(\xff\n|\0\0\0\fJXL )/], ["PDF", /^%PDF/],
];

/** "png", "jpeg" or "webp" by the first bytes; null for anything else. */
export function formatOf(bytes) {
  const start = text(bytes.subarray(0, 12));
  if (start.startsWith("\x89PNG\r\n\x1a\n")) return "png";
  if (start.startsWith("\xff\xd8\xff")) return "jpeg";
  return /^RIFF.{4}WEBP/s.test(start) ? "webp" : null;
}

/**
 * Reads a file.
 * @param {Blob} blob
 * @returns {Promise<{data: Uint8ClampedArray, width: number, height: number, format: string, alpha: boolean, gray: boolean,
 *   lossless: boolean, info: object, notes: string[]}>} RGBA as stored: not rotated, in the file's own colours
 */
export async function readImage(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const format = formatOf(bytes);
  if (!format) throw new FileError(refusal(bytes));
  const { size, plain, ...facts } = await { png: splitPng, jpeg: splitJpeg, webp: splitWebp }[format](bytes);
  if (size && size[0] * size[1] > MOST_PIXELS)
    throw new FileError(`has ${Math.round((size[0] * size[1]) / 1e6)} megapixels; the limit in a browser is ${MOST_PIXELS / 1e6}`);
  let bitmap;
  try {
    const options = { imageOrientation: "none", premultiplyAlpha: "none", colorSpaceConversion: "none" };
    bitmap = await createImageBitmap(new Blob(plain, { type: `image/${format}` }), options);
  } catch {
    throw new FileError(`is damaged, or this browser cannot read this kind of ${format.toUpperCase()} file`);
  }
  try {
    const notes = facts.info.lost.length ? [`Not kept: ${[...new Set(facts.info.lost)].join(", ")}`] : [];
    const exact = facts.alpha ? throughTexture(bitmap) : null;
    if (facts.alpha && !exact) notes.push("Colours of translucent pixels may change slightly: this browser has no WebGL");
    const data = exact ?? throughCanvas(bitmap);
    return { data, width: bitmap.width, height: bitmap.height, format, ...facts, notes };
  } finally {
    bitmap.close();
  }
}

function refusal(bytes) {
  if (!bytes.length) return "is empty";
  const name = KNOWN.find(([, pattern]) => pattern.test(text(bytes.subarray(0, 12))))?.[0];
  if (!name) return "is not a PNG, JPEG or WebP image";
  return `is a ${name} file; this page restores PNG, JPEG and WebP. Convert it first, or use kbnet restore on a computer`;
}

/**
 * Writes pixels as a file with the metadata of the original.
 * @param {{data: Uint8ClampedArray, width: number, height: number}} pixels RGBA
 * @param original what readImage returned
 * @param {string} format of the original, unless another is given
 * @returns {Promise<{blob: Blob, notes: string[]}>}
 */
export async function writeImage(pixels, original, format = original.format) {
  const same = format === original.format, { alpha } = original, notes = [...original.notes];
  let { gray, info } = original;
  if (!same) {
    const turn = orientationOf(info.exif); // not every program applies it in every format
    if (turn > 1) [pixels, info] = [turned(pixels, turn), { ...info, exif: upright(info.exif), xmp: info.xmp && uprightXmp(info.xmp) }];
    if (info.parts.length > [info.icc, info.exif, info.xmp].filter(Boolean).length)
      notes.push(`Only the colour profile, EXIF and XMP are kept when ${original.format.toUpperCase()} becomes ${format.toUpperCase()}`);
  }
  if (format !== "png" && info.icc && text(info.icc.subarray(16, 20)) === "GRAY") {
    notes.push("The colour profile is not kept: browsers write gray images in colour");
    info = { ...info, icc: null, parts: info.parts.filter((part) => text(part.subarray(4, 15)) !== "ICC_PROFILE") };
  }
  if (format !== "png") {
    const encoded = await encode(alpha && format === "jpeg" ? onWhite(pixels, notes) : pixels, format, original);
    if (encoded) {
      const parts = format === "jpeg" ? joinJpeg(encoded, info, same, notes) : joinWebp(encoded, info, pixels.width, pixels.height, alpha);
      return { blob: new Blob(parts, { type: `image/${format}` }), notes };
    }
    if (same) return writeImage(pixels, { ...original, notes: [`Saved as PNG: this browser cannot write ${format.toUpperCase()}`, ...notes] }, "png");
    throw new FileError(`cannot be saved as ${format.toUpperCase()} by this browser; choose PNG`);
  }
  gray &&= !(info.icc && text(info.icc.subarray(16, 20)) === "RGB ");
  return { blob: new Blob(await encodePng(pixels, alpha, gray, info, same), { type: "image/png" }), notes };
}

/** The file's bytes, or null if the browser does not write the format or so large an image. */
async function encode({ data, width, height }, format, { lossless }) {
  try {
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
    const blob = await canvas.convertToBlob({ type: `image/${format}`, quality: lossless && format === "webp" ? 1 : QUALITY });
    return blob.type === `image/${format}` ? new Uint8Array(await blob.arrayBuffer()) : null;
  } catch {
    return null;
  }
}

async function encodePng({ data, width, height }, alpha, gray, info, same) {
  const header = new Uint8Array(13), view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, (gray ? 0 : 2) + (alpha ? 4 : 0)], 8);
  const from = [...(gray ? [0] : [0, 1, 2]), ...(alpha ? [3] : [])], stride = 1 + from.length * width;
  let y = 0;
  const rows = new ReadableStream({
    pull(controller) {
      const block = new Uint8Array(Math.min(64, height - y) * stride);
      for (let to = 0; to < block.length; y++) {
        block[to++] = y ? 2 : 0; // each byte as its difference from the one above
        for (let x = 0, at = 4 * y * width; x < width; x++, at += 4)
          for (const channel of from) block[to++] = data[at + channel] - (y ? data[at + channel - 4 * width] : 0);
      }
      controller.enqueue(block);
      if (y === height) controller.close();
    },
  });
  const compressed = await new Response(rows.pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  return joinPng(header, new Uint8Array(compressed), info, same);
}

// ---- pixels

/** In strips: some browsers limit the size of a canvas. */
function throughCanvas(bitmap) {
  const { width, height } = bitmap, rows = Math.min(height, Math.max(1, Math.floor(STRIP / width)));
  const data = new Uint8ClampedArray(4 * width * height);
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    data.set(context.getImageData(0, 0, width, count).data, 4 * top * width);
  }
  return data;
}

/** A canvas multiplies colours by alpha and back, which changes them; a texture keeps them. Null if there is none. */
function throughTexture(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8ClampedArray(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(data.buffer));
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return failed ? null : data;
}

function onWhite({ data, width, height }, notes) {
  notes.push("JPEG has no transparency: the image is drawn on white");
  const opaque = new Uint8ClampedArray(data.length);
  for (let i = 0; i < data.length; i += 4) {
    for (let c = i; c < i + 3; c++) opaque[c] = 255 + (data[c] - 255) * (data[i + 3] / 255);
    opaque[i + 3] = 255;
  }
  return { data: opaque, width, height };
}

/** Pixels as an EXIF orientation from 2 to 8 shows them. */
function turned({ data, width, height }, orientation) {
  const swaps = orientation > 4, wide = swaps ? height : width, high = swaps ? width : height;
  const from = new Uint32Array(data.buffer, data.byteOffset, width * height), to = new Uint32Array(wide * high);
  const right = [2, 3, 7, 8].includes(orientation), below = [3, 4, 6, 7].includes(orientation);
  for (let y = 0; y < high; y++)
    for (let x = 0; x < wide; x++) {
      const across = swaps ? y : x, down = swaps ? x : y;
      to[y * wide + x] = from[(below ? height - 1 - down : down) * width + (right ? width - 1 - across : across)];
    }
  return { data: new Uint8ClampedArray(to.buffer), width: wide, height: high };
}
