// Image files in a browser: pixels as they are stored, and files with the metadata of the one that came.

export class FileError extends Error {
  constructor(message) {
    super(message);
    this.name = "FileError";
  }
}

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const FROM_PIXELS = new Set(["IHDR", "PLTE", "IDAT", "IEND", "tRNS", "bKGD", "hIST", "sBIT", "sPLT", "acTL", "fcTL", "fdAT"]);
const KEPT_SEGMENTS = new Set([0xe1, 0xe2, 0xed, 0xfe]); // EXIF and XMP, ICC and more, IPTC, comments
const MOST_PIXELS = 120e6;

/** "png", "jpeg" or "webp" by the first bytes; null for anything else. */
export function formatOf(bytes) {
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (PNG.every((byte, i) => bytes[i] === byte)) return "png";
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return "jpeg";
  if (text(0, 4) === "RIFF" && text(8, 12) === "WEBP") return "webp";
  return null;
}

/**
 * Reads a file.
 * @param {Blob} blob
 * @returns {Promise<{data: Uint8ClampedArray, width: number, height: number, format: string, alpha: boolean,
 *   metadata: Uint8Array[], notes: string[]}>} RGBA as stored: not turned, in the file's own colours
 */
export async function readImage(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const format = formatOf(bytes);
  if (!format) throw new FileError("is not a PNG, JPEG, or WebP image; use kbnet on your computer for other formats");
  const facts = { png: readPng, jpeg: readJpeg, webp: readWebp }[format](bytes);
  if (facts.size && facts.size[0] * facts.size[1] > MOST_PIXELS)
    throw new FileError(`has ${Math.round((facts.size[0] * facts.size[1]) / 1e6)} megapixels; the limit in a browser is ${MOST_PIXELS / 1e6}`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      imageOrientation: "none", premultiplyAlpha: "none", colorSpaceConversion: "none",
    });
  } catch {
    throw new FileError("is damaged, or in a form of the format that this browser cannot read");
  }
  try {
    const pixels = facts.alpha ? throughTexture(bitmap) : throughCanvas(bitmap);
    return { ...pixels, format, alpha: facts.alpha, metadata: facts.metadata, notes: facts.notes };
  } finally {
    bitmap.close();
  }
}

/**
 * Writes RGBA pixels as a file.
 * @param {{data: Uint8ClampedArray, width: number, height: number}} pixels
 * @param {{format: string, alpha: boolean, metadata: Uint8Array[]}} original whose format is used unless another is
 *   given, and whose metadata is kept where the format is the same
 * @returns {Promise<{blob: Blob, notes: string[]}>}
 */
export async function writeImage(pixels, original, format = original.format) {
  const same = format === original.format && format !== "webp";
  const notes = same || !original.metadata.length ? [] : ["metadata is not kept when the format changes"];
  if (format === "png") {
    const parts = await encodePng(pixels, original.alpha, same ? original.metadata : []);
    return { blob: new Blob(parts, { type: "image/png" }), notes };
  }
  if (original.alpha && format === "jpeg") notes.push("JPEG has no transparency; it is drawn on black");
  const canvas = new OffscreenCanvas(pixels.width, pixels.height);
  canvas.getContext("2d").putImageData(new ImageData(pixels.data, pixels.width, pixels.height), 0, 0);
  const encoded = await canvas.convertToBlob({ type: `image/${format}`, quality: 0.95 });
  if (encoded.type !== `image/${format}`) throw new FileError(`cannot be written as ${format} by this browser; choose PNG`);
  if (format !== "jpeg") return { blob: encoded, notes };
  const bytes = new Uint8Array(await encoded.arrayBuffer());
  return { blob: new Blob(withSegments(bytes, same ? original.metadata : []), { type: "image/jpeg" }), notes };
}

// ---- PNG

function chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at), end = at + 12 + length;
    if (end > bytes.length) throw new FileError("is damaged: it is cut short");
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    found.push({ name, whole: bytes.subarray(at, end), data: bytes.subarray(at + 8, end - 4) });
    at = end;
  }
  return found;
}

function readPng(bytes) {
  const all = chunks(bytes);
  if (all[0]?.name !== "IHDR" || all[0].data.length !== 13) throw new FileError("is damaged: it has no header");
  const header = new DataView(all[0].data.buffer, all[0].data.byteOffset, 13);
  const depth = all[0].data[8], kind = all[0].data[9];
  if (depth === 16) throw new FileError("has 16 bits a channel, which browsers reduce to 8; use kbnet on your computer");
  if (all.some(({ name }) => name === "acTL")) throw new FileError("is an animation; restore its frames one by one");
  return {
    size: [header.getUint32(0), header.getUint32(4)],
    alpha: kind === 4 || kind === 6 || all.some(({ name }) => name === "tRNS"),
    metadata: all.filter(({ name }) => !FROM_PIXELS.has(name)).map(({ whole }) => whole),
    notes: [],
  };
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(name, data) {
  const whole = new Uint8Array(12 + data.length), view = new DataView(whole.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) whole[4 + i] = name.charCodeAt(i);
  whole.set(data, 8);
  let crc = -1;
  for (let i = 4; i < whole.length - 4; i++) crc = CRC_TABLE[(crc ^ whole[i]) & 255] ^ (crc >>> 8);
  view.setUint32(whole.length - 4, ~crc);
  return whole;
}

async function encodePng({ data, width, height }, alpha, metadata) {
  const header = new Uint8Array(13), view = new DataView(header.buffer), channels = alpha ? 4 : 3;
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, alpha ? 6 : 2], 8);
  const stride = 1 + channels * width;
  let y = 0;
  const rows = new ReadableStream({
    pull(controller) {
      const block = new Uint8Array(Math.min(64, height - y) * stride);
      for (let to = 0; to < block.length; y++) {
        block[to++] = y ? 2 : 0; // each byte as its difference to the one above
        for (let x = 0, at = 4 * y * width; x < width; x++, at += 4)
          for (let c = 0; c < channels; c++) block[to++] = data[at + c] - (y ? data[at + c - 4 * width] : 0);
      }
      controller.enqueue(block);
      if (y === height) controller.close();
    },
  });
  const packed = rows.pipeThrough(new CompressionStream("deflate"));
  const compressed = new Uint8Array(await new Response(packed).arrayBuffer());
  return [Uint8Array.from(PNG), chunk("IHDR", header), ...metadata, chunk("IDAT", compressed), chunk("IEND", new Uint8Array(0))];
}

// ---- JPEG

function segments(bytes) {
  const found = [];
  for (let at = 2; at + 4 <= bytes.length; ) {
    if (bytes[at] !== 0xff) throw new FileError("is damaged: a segment is missing");
    const kind = bytes[at + 1];
    if (kind === 0xff) {
      at++;
      continue;
    }
    if (kind === 0xda) return { found, rest: at };
    const end = at + 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
    if (end > bytes.length) break;
    found.push({ kind, whole: bytes.subarray(at, end) });
    at = end;
  }
  throw new FileError("is damaged: it is cut short");
}

function readJpeg(bytes) {
  const { found } = segments(bytes);
  const frame = found.find(({ kind }) => kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind))?.whole;
  if (!frame || frame.length < 10) throw new FileError("is damaged: it has no frame");
  const metadata = found.filter(({ kind, whole }) => KEPT_SEGMENTS.has(kind) && !refersToFile(kind, whole)).map(({ whole }) => whole);
  const lost = found.some(({ kind, whole }) => refersToFile(kind, whole));
  return {
    size: [(frame[7] << 8) | frame[8], (frame[5] << 8) | frame[6]],
    alpha: false,
    metadata,
    notes: lost ? ["the file holds further pictures (such as a gain map), which the result does not"] : [],
  };
}

/** Multi-picture tables hold places in the file, which are others in the result. */
function refersToFile(kind, whole) {
  return kind === 0xe2 && String.fromCharCode(...whole.subarray(4, 8)) === "MPF\0";
}

function withSegments(bytes, metadata) {
  const { found, rest } = segments(bytes);
  const own = found.filter(({ kind }) => !KEPT_SEGMENTS.has(kind)).map(({ whole }) => whole);
  const first = own.findIndex((whole) => whole[1] !== 0xe0); // a JFIF header comes first
  return [bytes.subarray(0, 2), ...own.slice(0, first), ...metadata, ...own.slice(first), bytes.subarray(rest)];
}

// ---- WebP

function readWebp(bytes) {
  const text = String.fromCharCode(...bytes.subarray(12, 16));
  if (text === "VP8X" && bytes[20] & 2) throw new FileError("is an animation; restore its frames one by one");
  const alpha = text === "VP8L" || (text === "VP8X" && Boolean(bytes[20] & 16));
  const metadata = text === "VP8X" && bytes[20] & 0x2c ? [bytes.subarray(0, 0)] : []; // ICC, EXIF or XMP
  return { size: null, alpha, metadata, notes: metadata.length ? ["metadata of WebP files is not kept"] : [] };
}

// ---- pixels

function throughCanvas(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return { data, width, height };
}

/** A canvas multiplies colours by alpha and back, which changes them; a texture leaves them alone. */
function throughTexture(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE))
    throw new FileError("has transparency and is too large for this browser; use kbnet on your computer");
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8ClampedArray(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(data.buffer));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return { data, width, height };
}
