// XMP packets as bytes: edits of kbnet/imaging/xmp.py, so that results don't describe what they no longer are.

const ORIENTATION = /(tiff:Orientation(?:\s*=\s*["']|\s*>)\s*)[2-8]/g;
const LONGEST = 8 << 20; // bytes; packets have a few kilobytes, but those with a phone's depth map are longer

// Properties that describe images or videos after the main image: namespace, usual prefix, pattern of names.
const COMPANIONS = [
  ["http://ns.google.com/photos/1.0/camera/", "GCamera", /^(?:MotionPhoto|MicroVideo)\w*$/],
  ["http://ns.google.com/photos/1.0/container/", "Container", /^Directory$/],
  ["http://ns.google.com/photos/dd/1.0/device/", "Device", /^Container$/],
  ["http://ns.adobe.com/hdr-gain-map/1.0/", "hdrgm", /^\w+$/],
  ["http://ns.apple.com/HDRGainMap/1.0/", "HDRGainMap", /^\w+$/],
];
const SAYS_SO = [
  /(?:MotionPhoto|MicroVideo)\s*(?:=\s*["']|>)\s*1/, /hdrgm:Version/, /ns\.apple\.com\/HDRGainMap/,
  /Semantic\s*(?:=\s*["']|>)\s*(?:GainMap|Depth\b|Confidence\b)/,
];

// At a "<": comments, literal text, processing instructions; or a tag: its slash, name and attributes.
const MARKUP = /<!--[^]*?-->|<!\[CDATA\[[^]*?\]\]>|<\?[^]*?\?>|<(\/?)([^\s/<>"'=!?]+)(?=[\s/>])([^"'<>]*(?:(?:"[^"<]*"|'[^'<]*')[^"'<>]*)*)>/y;
const ATTRIBUTE = /\s([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')/g;

// Exact both ways; null for bytes that are not UTF-8.
function decode(xmp) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(xmp);
  } catch {
    return null;
  }
}
const encode = (text) => new TextEncoder().encode(text);

/** A packet whose orientation is 1; some programs prefer it over the orientation in EXIF. */
export function uprightXmp(xmp) {
  const text = decode(xmp);
  return text === null ? xmp : encode(text.replace(ORIENTATION, (_, before) => `${before}1`));
}

/**
 * The packet without descriptions of further images and videos, which results don't contain; the same if there are none.
 * Null if they can't be removed from the text.
 */
export function withoutCompanions(xmp) {
  const loose = new TextDecoder("latin1").decode(xmp);
  if (!SAYS_SO.some((pattern) => pattern.test(loose))) return xmp;
  const text = xmp.length > LONGEST ? null : decode(xmp), cut = text && cutFrom(text);
  return cut ? encode(cut) : null;
}

/** Null for a packet whose tags don't match. */
function cutFrom(xmp) {
  const goes = unwanted(xmp), kept = [], open = [];
  let at = 0, removed = null; // where the text that is kept continues; how deep the element that is being removed lies
  for (let next = xmp.indexOf("<"); next >= 0; next = xmp.indexOf("<", MARKUP.lastIndex)) {
    MARKUP.lastIndex = next;
    const found = MARKUP.exec(xmp);
    if (!found) return null;
    const [whole, slash, name, attributes] = found, end = next + whole.length;
    MARKUP.lastIndex = end;
    if (name === undefined) continue;
    if (slash) {
      if (open.pop() !== name) return null;
    } else {
      if (removed === null && goes(name)) {
        kept.push(xmp.slice(at, next));
        removed = open.length;
      }
      if (!attributes.endsWith("/")) open.push(name);
    }
    if (removed !== null) at = end;
    else if (attributes) {
      kept.push(xmp.slice(at, end - attributes.length - 1), attributes.replace(ATTRIBUTE, (one, key) => (goes(key) ? "" : one)));
      at = end - 1;
    }
    if (removed === open.length) removed = null;
  }
  return open.length ? null : kept.join("") + xmp.slice(at);
}

/** Whether a name, with its prefix in this packet, is of the COMPANIONS. */
function unwanted(xmp) {
  const names = new Map();
  for (const [namespace, usual, pattern] of COMPANIONS) {
    names.set(usual, pattern);
    for (const [, prefix, , uri] of xmp.matchAll(/xmlns:(\w+)\s*=\s*(["'])([^"'<]*)\2/g)) if (uri === namespace) names.set(prefix, pattern);
  }
  return (name) => {
    const [prefix, local] = name.split(":");
    return local !== undefined && Boolean(names.get(prefix)?.test(local));
  };
}
