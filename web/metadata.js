// Metadata of PNG, JPEG and WebP files as bytes: split off before pixels are decoded, and put into the result.
//
// A file is split into {plain, info}. `plain` holds what its pixels need and nothing else, so no browser can rotate or
// convert them. `info` is {parts, icc, exif, xmp, lost}: `parts` as the format stores them, for a result in the same format;
// `icc`, `exif` (a TIFF structure) and `xmp` (a packet) for other formats; `lost` names what no result can keep.
import { withoutThumbnail } from "./exif.js";
import { withoutCompanions } from "./xmp.js";

export class FileError extends Error {
  constructor(message) {
    super(message);
    this.name = "FileError";
  }
}

export const text = (bytes) => String.fromCharCode(...bytes);
export const ascii = (string) => Uint8Array.from(string, (letter) => letter.charCodeAt(0));
const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}
export const deflate = (bytes) => through(bytes, new CompressionStream("deflate"));

async function inflate(bytes) {
  try {
    return await through(bytes, new DecompressionStream("deflate"));
  } catch {
    return null; // damaged metadata doesn't prevent the pixels from being restored
  }
}

// Takes EXIF or XMP into `info` without what a result would state wrongly. Where that changes it, `wrapped` makes the part to
// store from it; where it cannot be done, nothing is kept.
function settle(info, kind, data, whole, wrapped) {
  const settled = kind === "exif" ? withoutThumbnail(data) : withoutCompanions(data);
  info[kind] = settled;
  if (!settled) info.lost.push("XMP, which describes further images");
  else info.parts.push(equal(settled, data) ? whole : wrapped(settled));
}

const equal = (one, other) => one.length === other.length && one.every((byte, i) => byte === other[i]);

// ---- PNG

const PNG = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const PIXELS = new Set(["IHDR", "PLTE", "IDAT", "IEND", "tRNS"]);
const REPLACED = new Set(["bKGD", "hIST", "sBIT", "sPLT"]); // they describe the original's samples
const COLOURS = new Set(["iCCP", "sRGB", "gAMA", "cHRM", "cICP", "mDCV", "cLLI"]);
const XMP_KEY = "XML:com.adobe.xmp\0";

export async function splitPng(bytes) {
  const view = viewOf(bytes), plain = [PNG], info = { parts: [], icc: null, exif: null, xmp: null, lost: [] };
  let header = null, transparent = false;
  for (let at = 8; at < bytes.length; ) {
    const length = at + 12 <= bytes.length ? view.getUint32(at) : Infinity, end = at + 12 + length;
    if (end > bytes.length) throw new FileError("is damaged: it ends too early");
    const name = text(bytes.subarray(at + 4, at + 8)), data = bytes.subarray(at + 8, end - 4), whole = bytes.subarray(at, end);
    if (!header && (name !== "IHDR" || length !== 13)) throw new FileError("is damaged: it has no header");
    header ??= data;
    if (name === "acTL") throw new FileError("is an animation, which kbnet does not restore");
    if (name === "tRNS") transparent = true;
    if (name === "iCCP") info.icc = await inflate(data.subarray(data.indexOf(0) + 2));
    const xmp = name === "iTXt" && text(data.subarray(0, XMP_KEY.length)) === XMP_KEY && (await pngXmp(data));
    if (name === "eXIf") settle(info, "exif", data, whole, (exif) => chunk("eXIf", exif));
    else if (xmp) settle(info, "xmp", xmp, whole, xmpChunk);
    else if (PIXELS.has(name)) plain.push(whole);
    else if (COLOURS.has(name) || name[3] >= "a") info.parts.push(whole); // a small letter: safe to copy
    else if (!REPLACED.has(name)) info.lost.push(`PNG chunk ${name}`);
    at = end;
    if (name === "IEND") break;
  }
  if (!header) throw new FileError("is damaged: it has no header");
  const kind = header[9];
  if (header[8] === 16)
    throw new FileError("has 16 bits per channel, which browsers reduce to 8; to keep them, use kbnet restore on a computer");
  return {
    size: [viewOf(header).getUint32(0), viewOf(header).getUint32(4)],
    alpha: kind === 4 || kind === 6 || transparent, gray: kind === 0 || kind === 4, lossless: true, plain, info,
  };
}

async function pngXmp(data) {
  const at = XMP_KEY.length, packed = data[at] === 1;
  const start = data.indexOf(0, data.indexOf(0, at + 2) + 1) + 1; // after the language and the translated keyword
  return packed ? inflate(data.subarray(start)) : data.subarray(start);
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

function chunk(name, data) {
  const whole = new Uint8Array(12 + data.length), view = viewOf(whole);
  view.setUint32(0, data.length);
  whole.set(ascii(name), 4);
  whole.set(data, 8);
  let crc = -1;
  for (let i = 4; i < whole.length - 4; i++) crc = CRC[(crc ^ whole[i]) & 255] ^ (crc >>> 8);
  view.setUint32(whole.length - 4, ~crc);
  return whole;
}

const xmpChunk = (xmp) => chunk("iTXt", join([ascii(`${XMP_KEY}\0\0\0\0`), xmp]));

/** A PNG file of a header and compressed rows. `same` tells whether the original was PNG too. */
export async function joinPng(header, rows, info, same) {
  const kept = same ? info.parts : [];
  if (!same && info.icc) kept.push(chunk("iCCP", join([ascii("icc\0\0"), await deflate(info.icc)])));
  if (!same && info.exif) kept.push(chunk("eXIf", info.exif));
  if (!same && info.xmp) kept.push(xmpChunk(info.xmp));
  return [PNG, chunk("IHDR", header), ...kept, chunk("IDAT", rows), chunk("IEND", new Uint8Array(0))];
}

// ---- JPEG

const EXIF = "Exif\0\0", XMP = "http://ns.adobe.com/xap/1.0/\0", PROFILE = "ICC_PROFILE\0";
const KEPT = new Set([0xe1, 0xe2, 0xed, 0xfe]); // EXIF and XMP, ICC, Photoshop with IPTC, comments
const LONGEST = 65533; // bytes of a segment after its length

function segments(bytes) {
  const found = [];
  for (let at = 2; at + 4 <= bytes.length; ) {
    if (bytes[at] !== 0xff) throw new FileError("is damaged: a JPEG segment is missing");
    const kind = bytes[at + 1];
    if (kind === 0xff) {
      at++; // a fill byte
      continue;
    }
    if (kind === 0xda) return { found, rest: bytes.subarray(at) };
    const end = at + 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
    if (end > bytes.length || end < at + 4) break;
    found.push({ kind, whole: bytes.subarray(at, end), data: bytes.subarray(at + 4, end) });
    at = end;
  }
  throw new FileError("is damaged: it ends too early");
}

export function splitJpeg(bytes) {
  const { found, rest } = segments(bytes);
  const frame = found.find(({ kind }) => kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind))?.data;
  if (!frame || frame.length < 6) throw new FileError("is damaged: it has no JPEG frame");
  if (frame[0] !== 8) throw new FileError(`has ${frame[0]} bits per channel, which browsers do not read`);
  if (frame[5] === 4) throw new FileError("is in CMYK, which browsers convert to RGB; use kbnet restore on a computer");
  const info = { parts: [], icc: null, exif: null, xmp: null, lost: [] };
  const plain = [bytes.subarray(0, 2)], profile = [];
  for (const { kind, whole, data } of found) {
    const begins = (mark) => text(data.subarray(0, mark.length)) === mark;
    if (kind === 0xe2 && begins(PROFILE)) profile[data[PROFILE.length]] = data.subarray(PROFILE.length + 2);
    if (kind === 0xe0 && begins("JFIF\0")) info.parts.unshift(shortened(whole)); // comes first
    else if (kind === 0xe1 && begins(EXIF)) settle(info, "exif", data.subarray(EXIF.length), whole, (exif) => segment(kind, EXIF, exif));
    else if (kind === 0xe1 && begins(XMP)) settle(info, "xmp", data.subarray(XMP.length), whole, (xmp) => segment(kind, XMP, xmp));
    else if (kind === 0xe2 && begins("MPF\0")) info.lost.push("further images, such as a gain map");
    else if (KEPT.has(kind)) info.parts.push(whole);
    else if (kind > 0xe0 && kind < 0xf0 && kind !== 0xee) info.lost.push(`JPEG segment APP${kind - 0xe0}`);
    if (kind < 0xe0 || kind === 0xee) plain.push(whole); // APP14 tells how the colours are stored
  }
  if (profile.length) info.icc = join(profile.filter(Boolean));
  if (rest.at(-1) !== 0xd9 || rest.at(-2) !== 0xff) info.lost.push("data after the image, such as a video");
  return {
    size: [(frame[3] << 8) | frame[4], (frame[1] << 8) | frame[2]],
    alpha: false, gray: frame[5] === 1, lossless: false, plain: [...plain, rest], info,
  };
}

/** JFIF without its thumbnail. */
function shortened(jfif) {
  const kept = jfif.slice(0, 18);
  kept.set([0, 16], 2);
  kept.fill(0, 16);
  return kept;
}

const segment = (kind, mark, data) =>
  join([Uint8Array.of(0xff, kind, (mark.length + data.length + 2) >> 8, (mark.length + data.length + 2) & 255), ascii(mark), data]);

/** A JPEG file from one that a browser encoded. */
export function joinJpeg(encoded, info, same, notes) {
  const { found, rest } = segments(encoded);
  const kept = same ? [...info.parts] : [];
  const add = (kind, mark, data, what) => {
    if (mark.length + data.length > LONGEST - 2) notes.push(`${what} is too large for a JPEG file and is not kept`);
    else kept.push(segment(kind, mark, data));
  };
  if (!same && info.exif) add(0xe1, EXIF, info.exif, "EXIF");
  if (!same && info.xmp) add(0xe1, XMP, info.xmp, "XMP");
  if (!same && info.icc) {
    const size = LONGEST - 100, count = Math.ceil(info.icc.length / size);
    for (let i = 0; i < count; i++) {
      const part = info.icc.subarray(i * size, (i + 1) * size);
      kept.push(segment(0xe2, PROFILE, join([Uint8Array.of(i + 1, count), part])));
    }
  }
  const density = kept[0]?.[1] === 0xe0;
  const own = found.filter(({ kind }) => !KEPT.has(kind) && !(density && kind === 0xe0)).map(({ whole }) => whole);
  const first = own.findIndex((whole) => whole[1] !== 0xe0);
  return [encoded.subarray(0, 2), ...own.slice(0, first), ...kept, ...own.slice(first), rest];
}

// ---- WebP

const WEBP_FLAGS = { ICCP: 0x20, "EXIF": 0x08, "XMP ": 0x04 };

function* riff(bytes) {
  const view = viewOf(bytes);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true), end = at + 8 + length;
    if (end > bytes.length) throw new FileError("is damaged: it ends too early");
    yield { name: text(bytes.subarray(at, at + 4)), data: bytes.subarray(at + 8, end) };
    at = end + (length & 1);
  }
}

function packed(name, data) {
  const whole = new Uint8Array(8 + data.length + (data.length & 1));
  whole.set(ascii(name));
  viewOf(whole).setUint32(4, data.length, true);
  whole.set(data, 8);
  return whole;
}

function container(chunks) {
  const body = join(chunks), head = new Uint8Array(12);
  head.set(ascii("RIFF"));
  viewOf(head).setUint32(4, body.length + 4, true);
  head.set(ascii("WEBP"), 8);
  return [head, body];
}

export function splitWebp(bytes) {
  const info = { parts: [], icc: null, exif: null, xmp: null, lost: [] }, plain = [];
  let alpha = false, lossless = false, size = null;
  for (const { name, data } of riff(bytes)) {
    if (name === "ANIM" || name === "ANMF") throw new FileError("is an animation, which kbnet does not restore");
    if (name === "ICCP") info.icc = data;
    else if (name === "EXIF") settle(info, "exif", text(data.subarray(0, 6)) === EXIF ? data.subarray(6) : data, data, (exif) => exif);
    else if (name === "XMP ") settle(info, "xmp", data, data, (xmp) => xmp);
    else if (name === "VP8X") {
      const head = data.slice();
      head[0] &= 0x10; // alpha
      alpha ||= Boolean(head[0]);
      size = [1 + data[4] + (data[5] << 8) + (data[6] << 16), 1 + data[7] + (data[8] << 8) + (data[9] << 16)];
      plain.push(packed(name, head));
    } else if (["VP8 ", "VP8L", "ALPH"].includes(name)) {
      if (name === "VP8L") [alpha, lossless] = [Boolean(data[4] & 0x10), true];
      plain.push(packed(name, data));
    } else info.lost.push(`WebP chunk ${name.trim()}`);
  }
  if (!plain.length) throw new FileError("is damaged: it has no pixels");
  return { size, alpha, gray: false, lossless, plain: container(plain), info };
}

/** A WebP file from one that a browser encoded. */
export function joinWebp(encoded, { icc, exif, xmp }, width, height, alpha) {
  const pixels = [...riff(encoded)].filter(({ name }) => ["VP8 ", "VP8L", "ALPH"].includes(name)).map(({ name, data }) => packed(name, data));
  const found = [["ICCP", icc], ["EXIF", exif], ["XMP ", xmp]].filter(([, data]) => data);
  if (!found.length) return [encoded];
  const head = new Uint8Array(10);
  head[0] = found.reduce((flags, [name]) => flags | WEBP_FLAGS[name], alpha ? 0x10 : 0);
  [width - 1, height - 1].forEach((side, i) => head.set([side & 255, (side >> 8) & 255, side >> 16], 4 + 3 * i));
  const parts = found.map(([name, data]) => packed(name, data));
  const before = icc ? [parts.shift()] : [];
  return container([packed("VP8X", head), ...before, ...pixels, ...parts]);
}
