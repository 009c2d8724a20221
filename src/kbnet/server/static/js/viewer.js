// Before and after: two stacked layers, clipped at a divider that stays in place while the photo moves and zooms. The
// upper layer blends both images, so changing the strength only needs a repaint; other looks are drawn in a canvas.
import { Mixer, isPlain, settled } from "./look.js";

const $ = (id) => document.getElementById(id);
const LARGEST = 32; // screen pixels per image pixel
const SMALL_ENLARGED = 4; // limit when fitting a small image
const STEP = 1.25, MOVE = 60; // for keys and buttons: zoom factor, CSS pixels

export class Viewer {
  #shown = null; // {id, before, after?, name}
  #width = 0;
  #height = 0;
  #scale = 1; // CSS pixels per image pixel
  #x = 0; // of the image's top left corner
  #y = 0;
  #mode = "fit"; // "fit", "one", "free"
  #share = 0.5; // of the canvas that shows the input
  #pointers = new Map();
  #look = {};
  #mixer = null; // of the two images, once a look needs it
  #due = 0; // animation frame

  constructor() {
    const canvas = $("canvas");
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("dblclick", (event) => this.#doubleClick(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    $("divider").addEventListener("keydown", (event) => this.#divideByKey(event));
    $("zoom-in").onclick = () => this.#zoomBy(STEP);
    $("zoom-out").onclick = () => this.#zoomBy(1 / STEP);
    $("zoom-fit").onclick = () => this.#set("fit");
    $("zoom-one").onclick = () => this.#set("one");
    new ResizeObserver(() => this.#resized()).observe(canvas);
  }

  // picture: {id, name, before: URL, after: URL or null}, or null
  async show(picture) {
    const other = picture?.id !== this.#shown?.id;
    const same = picture && !other && picture.before === this.#shown.before && picture.after === this.#shown.after;
    this.#shown = picture;
    $("canvas").hidden = !picture;
    if (!picture) {
      for (const id of ["before", "under", "after"]) $(id).removeAttribute("src");
      return;
    }
    if (same) return;
    this.#mixer = null;
    const { before, after, name } = picture;
    $("before").src = $("under").src = before;
    $("before").alt = after ? `${name}, before` : name;
    if (after) $("after").src = after;
    else $("after").removeAttribute("src");
    $("after").alt = after ? `${name}, after` : "";
    $("canvas").classList.toggle("single", !after);
    await Promise.allSettled([$("before").decode(), after ? $("after").decode() : null]);
    if (this.#shown !== picture) return; // another one was opened in the meantime
    const resized = this.#width !== $("before").naturalWidth || this.#height !== $("before").naturalHeight;
    this.#width = $("before").naturalWidth;
    this.#height = $("before").naturalHeight;
    if (other || resized) {
      const { clientWidth, clientHeight } = $("canvas");
      const large = this.#width * this.#one > clientWidth || this.#height * this.#one > clientHeight;
      this.#set(large ? "one" : "fit");
    } else this.#draw();
    this.setLook(this.#look);
    $("canvas").dataset.shown = picture.id;
  }

  get size() {
    return this.#width ? `${this.#width} × ${this.#height}` : "";
  }

  setLook(look) {
    this.#look = look;
    cancelAnimationFrame(this.#due);
    if (isPlain(look) || !this.#shown?.after) this.#blend(settled(look).strength);
    else this.#due = requestAnimationFrame(() => this.#mix());
  }

  #blend(strength) {
    $("mixed").hidden = true;
    $("after").style.opacity = String(strength);
    $("under").style.opacity = String(1 - strength);
  }

  #mix() {
    const canvas = $("mixed"), before = $("before"), after = $("after");
    if (!before.complete || !after.complete || !after.naturalWidth) return; // show() asks again
    try {
      const [width, height] = [after.naturalWidth, after.naturalHeight];
      const settings = { colorSpace: matchMedia("(color-gamut: p3)").matches ? "display-p3" : "srgb" };
      if (!this.#mixer) Object.assign(canvas, { width, height });
      const context = canvas.getContext("2d", { ...settings, willReadFrequently: true });
      const pixels = (image) => {
        context.clearRect(0, 0, width, height);
        context.drawImage(image, 0, 0, width, height);
        return context.getImageData(0, 0, width, height, settings);
      };
      this.#mixer ||= new Mixer(pixels(before), pixels(after));
      const mixed = context.createImageData(width, height, settings);
      this.#mixer.mix(this.#look, mixed);
      context.putImageData(mixed, 0, 0);
      canvas.hidden = false;
      $("after").style.opacity = $("under").style.opacity = "0";
    } catch { // too large for a canvas of this browser
      this.#blend(settled(this.#look).strength);
    }
  }

  // The scale of 1:1, one image pixel per screen pixel.
  get #one() {
    return 1 / devicePixelRatio;
  }

  get #fit() {
    const { clientWidth, clientHeight } = $("canvas");
    return Math.min(clientWidth / this.#width, clientHeight / this.#height);
  }

  #set(mode, point) {
    if (!this.#width) return;
    this.#zoomTo(mode === "one" ? this.#one : Math.min(this.#fit, SMALL_ENLARGED), point);
    if (!point) this.#center();
    this.#mode = mode;
    this.#draw();
  }

  #center() {
    const { clientWidth, clientHeight } = $("canvas");
    this.#x = (clientWidth - this.#width * this.#scale) / 2;
    this.#y = (clientHeight - this.#height * this.#scale) / 2;
  }

  #zoomBy(factor, point) {
    this.#zoomTo(this.#scale * factor, point);
    this.#draw();
  }

  // Zooms around `point` of the canvas, by default its centre.
  #zoomTo(scale, point) {
    const { clientWidth, clientHeight } = $("canvas");
    const { x, y } = point || { x: clientWidth / 2, y: clientHeight / 2 };
    const least = Math.min(this.#fit, this.#one);
    scale = Math.max(least, Math.min(scale, LARGEST * this.#one));
    this.#x = x - ((x - this.#x) * scale) / this.#scale;
    this.#y = y - ((y - this.#y) * scale) / this.#scale;
    this.#scale = scale;
    this.#mode = "free";
  }

  #resized() {
    if (!this.#width || !$("canvas").clientWidth) return;
    if (this.#mode === "fit") this.#set("fit");
    else this.#draw();
  }

  #draw() {
    if (!this.#width) return;
    const { clientWidth, clientHeight } = $("canvas");
    const wide = this.#width * this.#scale, high = this.#height * this.#scale;
    const kept = (at, size, room) => (size <= room ? (room - size) / 2 : Math.max(room - size, Math.min(0, at)));
    this.#x = kept(this.#x, wide, clientWidth);
    this.#y = kept(this.#y, high, clientHeight);
    for (const id of ["floor", "before", "under", "after", "mixed"]) {
      const { style } = $(id);
      style.width = `${this.#width}px`;
      style.height = `${this.#height}px`;
      style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})`;
      style.imageRendering = this.#scale * devicePixelRatio >= 2 ? "pixelated" : "auto";
    }
    const percent = 100 * this.#scale * devicePixelRatio;
    $("zoom-now").textContent = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)}%`;
    $("zoom-fit").setAttribute("aria-pressed", this.#mode === "fit");
    $("zoom-one").setAttribute("aria-pressed", Math.abs(this.#scale - this.#one) < 1e-9);
    this.#divide();
  }

  #divide() {
    const { clientWidth } = $("canvas");
    const single = $("canvas").classList.contains("single");
    const across = this.#share * clientWidth;
    $("divider").style.left = `${across}px`;
    $("layer-before").style.clipPath = single ? "none" : `inset(0 ${clientWidth - across}px 0 0)`;
    $("layer-after").style.clipPath = `inset(0 0 0 ${across}px)`;
    const percent = Math.round(100 * this.#share);
    $("divider").setAttribute("aria-valuenow", percent);
    $("divider").setAttribute("aria-valuetext", `${percent}% before, ${100 - percent}% after`);
  }

  #point({ clientX, clientY }) {
    const box = $("canvas").getBoundingClientRect();
    return { x: clientX - box.left, y: clientY - box.top };
  }

  #wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 20 : 1);
    this.#zoomBy(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.0015)), this.#point(event));
  }

  #down(event) {
    if (event.button || event.target.closest("#zoom")) return;
    const dividing = Boolean(event.target.closest("#divider"));
    this.#pointers.set(event.pointerId, { ...this.#point(event), dividing });
    $("canvas").setPointerCapture(event.pointerId);
    $("canvas").classList.add("held");
  }

  #move(event) {
    const last = this.#pointers.get(event.pointerId);
    if (!last) return;
    const now = this.#point(event);
    this.#pointers.set(event.pointerId, { ...now, dividing: last.dividing });
    if (last.dividing) {
      this.#share = Math.max(0, Math.min(1, now.x / $("canvas").clientWidth));
      return this.#divide();
    }
    const others = [...this.#pointers].filter(([id, pointer]) => id !== event.pointerId && !pointer.dividing);
    if (others.length) {
      const [, other] = others[0];
      const apart = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1;
      this.#zoomTo((this.#scale * apart(now)) / apart(last), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
      this.#x += (now.x - last.x) / 2;
      this.#y += (now.y - last.y) / 2;
    } else {
      this.#x += now.x - last.x;
      this.#y += now.y - last.y;
    }
    this.#draw();
  }

  #up(event) {
    this.#pointers.delete(event.pointerId);
    if (!this.#pointers.size) $("canvas").classList.remove("held");
  }

  #doubleClick(event) {
    if (event.target.closest("#zoom, #divider")) return;
    if (this.#mode === "fit") this.#set("one", this.#point(event));
    else this.#set("fit");
  }

  #key(event) {
    if (event.target !== $("canvas") || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [MOVE, 0], ArrowRight: [-MOVE, 0], ArrowUp: [0, MOVE], ArrowDown: [0, -MOVE] };
    if (moves[event.key]) {
      this.#x += moves[event.key][0];
      this.#y += moves[event.key][1];
      this.#draw();
    } else if (event.key === "+" || event.key === "=") this.#zoomBy(STEP);
    else if (event.key === "-") this.#zoomBy(1 / STEP);
    else if (event.key === "0") this.#set("fit");
    else if (event.key === "1") this.#set("one");
    else return;
    event.preventDefault();
  }

  #divideByKey(event) {
    const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageUp: 0.1, PageDown: -0.1, Home: -1, End: 1 };
    if (!(event.key in steps)) return;
    this.#share = Math.max(0, Math.min(1, this.#share + steps[event.key]));
    this.#divide();
    event.preventDefault();
  }
}
