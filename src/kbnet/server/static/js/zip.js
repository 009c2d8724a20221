// A ZIP file of blobs, stored without compression: images are already compressed.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});
const SLICE = 1 << 20; // bytes read at a time, so that the page stays responsive
const LARGEST = 0xffffffff; // bytes; larger files need ZIP64

// `before` is the CRC of what precedes the bytes.
export function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// files: [{name, blob}]; duplicate names get a number.
export async function zip(files, now = new Date()) {
  const day = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const parts = [], directory = [];
  let offset = 0;
  for (const { name, blob } of unique(files)) {
    const path = new TextEncoder().encode(name);
    let crc = 0;
    for (let at = 0; at < blob.size; at += SLICE) {
      crc = crc32(new Uint8Array(await blob.slice(at, at + SLICE).arrayBuffer()), crc);
    }
    // version 2.0, names in UTF-8, stored
    const common = [[2, 20], [2, 0x800], [2, 0], [2, time], [2, day], [4, crc], [4, blob.size], [4, blob.size], [2, path.length], [2, 0]];
    parts.push(pack([4, 0x04034b50], ...common), path, blob);
    directory.push(pack([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), path);
    offset += 30 + path.length + blob.size;
    if (offset > LARGEST) throw new Error("the photos are too large for one ZIP file; download them individually");
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = pack([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

function unique(files) {
  const taken = new Set();
  return files.map(({ name, blob }) => {
    const [, stem, ending] = name.match(/^(.*?)(\.[^.]*)?$/);
    let free = name;
    for (let number = 2; taken.has(free.toLowerCase()); number++) free = `${stem} (${number})${ending || ""}`;
    taken.add(free.toLowerCase());
    return { name: free, blob };
  });
}

function pack(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}
