// Object URLs for an item's images, and thumbnails.

const THUMBNAIL = 96; // pixels of the longer side

export class Pictures {
  #backend;
  #urls = new Map(); // per item: {before, after, result}
  #thumbnails = Promise.resolve(); // one after another: each decodes a whole image

  constructor(backend) {
    this.#backend = backend;
  }

  // {before, after}: object URLs; after is null until there is a result.
  async of(item) {
    const urls = this.#urls.get(item) || {};
    this.#urls.set(item, urls);
    urls.before ||= this.#drawable(item.file);
    if (urls.result !== item.result) {
      this.#revoke(urls.after);
      urls.result = item.result;
      urls.after = item.result ? this.#drawable(item.result.blob) : null;
    }
    // Failures are kept, so that an image that can't be displayed is requested only once.
    const [before, after] = await Promise.allSettled([urls.before, urls.after]);
    const failed = [before, after].find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
    return { before: before.value, after: after.value };
  }

  forget(item) {
    const urls = this.#urls.get(item);
    this.#urls.delete(item);
    this.#revoke(urls?.before);
    this.#revoke(urls?.after);
  }

  // Draws a thumbnail into a canvas element, or nothing if the image can't be displayed.
  thumbnail(item, canvas) {
    this.#thumbnails = this.#thumbnails.then(() => this.#paint(item, canvas));
  }

  async #paint(item, canvas) {
    if (item.removed) return;
    try {
      const image = new Image();
      image.src = (await this.of(item)).before;
      await image.decode();
      const scale = Math.min(1, THUMBNAIL / Math.max(image.naturalWidth, image.naturalHeight));
      canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
      canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    } catch { /* the row still shows the name */ }
  }

  async #drawable(blob) {
    const url = URL.createObjectURL(blob);
    const trial = new Image();
    trial.src = url;
    try {
      await trial.decode();
      return url;
    } catch {
      URL.revokeObjectURL(url);
      return URL.createObjectURL(await this.#backend.preview(blob));
    }
  }

  async #revoke(promise) {
    try {
      const url = await promise;
      if (url) URL.revokeObjectURL(url);
    } catch { /* there was none */ }
  }
}
