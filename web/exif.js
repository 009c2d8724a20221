// EXIF blocks from their TIFF header, as in kbnet/imaging/exif.py: the orientation, and what results must not claim. Everything
// else keeps its bytes and position, so that maker notes with offsets stay valid.

const ORIENTATION = 0x112, INNER = 0x8769, WIDTH = 0xa002, HEIGHT = 0xa003;
const THUMBNAIL_AT = 0x201, THUMBNAIL_LENGTH = 0x202;
const SHORT = 3, LONG = 4;

/** The structure's reader: directories by their offset, null where there is none. Null if the bytes are no EXIF. */
function reader(exif) {
  if (!exif || exif.length < 8) return null;
  const mark = String.fromCharCode(...exif.subarray(0, 4));
  if (mark !== "II*\0" && mark !== "MM\0*") return null;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length), little = mark[0] === "I";
  return { view, little, first: view.getUint32(4, little) };
}

/** {entries, nextAt, next}: the integers of a directory by tag, as {kind, at, value}; the place of the next one's offset. */
function directory({ view, little }, at) {
  if (at < 8 || at + 2 > view.byteLength) return null;
  const nextAt = at + 2 + 12 * view.getUint16(at, little), entries = new Map();
  if (nextAt > view.byteLength) return null;
  for (let place = at + 2; place < nextAt; place += 12) {
    const tag = view.getUint16(place, little), kind = view.getUint16(place + 2, little);
    if (![SHORT, LONG].includes(kind) || view.getUint32(place + 4, little) !== 1 || entries.has(tag)) continue;
    const value = kind === SHORT ? view.getUint16(place + 8, little) : view.getUint32(place + 8, little);
    entries.set(tag, { kind, at: place + 8, value });
  }
  return { entries, nextAt, next: nextAt + 4 <= view.byteLength ? view.getUint32(nextAt, little) : 0 };
}

function put({ view, little }, entry, value) {
  if (!entry) return;
  if (entry.kind === LONG) view.setUint32(entry.at, value, little);
  else if (value < 1 << 16) view.setUint16(entry.at, value, little);
}

/** The orientation, 1 to 8; 1 if it is missing or invalid. */
export function orientationOf(exif) {
  const block = reader(exif), value = block && directory(block, block.first)?.entries.get(ORIENTATION)?.value;
  return value >= 1 && value <= 8 ? value : 1;
}

/** A copy for pixels that have been turned upright. */
export function upright(exif) {
  const copy = exif.slice(), block = reader(copy), main = block && directory(block, block.first);
  if (!main) return copy;
  const turn = orientationOf(copy), inner = directory(block, main.entries.get(INNER)?.value ?? 0)?.entries;
  put(block, main.entries.get(ORIENTATION), 1);
  if (turn > 4 && inner?.has(WIDTH) && inner.has(HEIGHT)) {
    const [width, height] = [inner.get(WIDTH), inner.get(HEIGHT)];
    put(block, width, height.value);
    put(block, height, width.value);
  }
  return copy;
}

/** A copy without the thumbnail, which would show the photo before it was restored. */
export function withoutThumbnail(exif) {
  const copy = exif.slice(), block = reader(copy), main = block && directory(block, block.first);
  if (!main?.next) return copy;
  block.view.setUint32(main.nextAt, 0);
  const second = directory(block, main.next); // it describes only the thumbnail
  const start = second?.entries.get(THUMBNAIL_AT)?.value ?? 0, end = start + (second?.entries.get(THUMBNAIL_LENGTH)?.value ?? 0);
  // Only a JPEG after its directory: in damaged blocks, the range can be anything.
  if (!start || start < second.nextAt || start >= end || end > copy.length) return copy;
  if (copy[start] !== 0xff || copy[start + 1] !== 0xd8) return copy;
  if (end === copy.length) return copy.subarray(0, start);
  return copy.fill(0, start, end);
}
