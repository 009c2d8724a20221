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
    return { before: before.value.url, after: after.value?.url ?? null };
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
      await this.of(item);
      // Unlike an image element, this decodes and resizes without blocking the page.
      const image = await createImageBitmap((await this.#urls.get(item).before).blob, { resizeHeight: THUMBNAIL, resizeQuality: "medium" });
      const scale = Math.min(1, THUMBNAIL / Math.max(image.width, image.height));
      canvas.width = Math.max(1, Math.round(image.width * scale));
      canvas.height = Math.max(1, Math.round(image.height * scale));
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      image.close();
    } catch { /* the row still shows the name */ }
  }

  // {url, blob} of an image that browsers can display
  async #drawable(blob) {
    const url = URL.createObjectURL(blob);
    const trial = new Image();
    trial.src = url;
    try {
      await trial.decode();
      return { url, blob };
    } catch {
      URL.revokeObjectURL(url);
      const shown = await this.#backend.preview(blob);
      return { url: URL.createObjectURL(shown), blob: shown };
    }
  }

  async #revoke(promise) {
    try {
      const shown = await promise;
      if (shown) URL.revokeObjectURL(shown.url);
    } catch { /* there was none */ }
  }
}
