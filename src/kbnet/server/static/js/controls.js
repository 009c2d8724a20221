// The controls: what to remove, which model to use, and how the result looks. The look controls come from one table, so a
// backend that can blend colour and detail separately only has to list them.
import { settled } from "./look.js";
import { element } from "./words.js";

const LOOKS = [
  { name: "strength", label: "Strength", title: "0% = original, 100% = fully restored" },
  { name: "colour", label: "Colour strength", title: "The same for colour only: removes colour noise and keeps the grain" },
  { name: "detail", label: "Detail", title: "How much of the fine detail that was removed comes back" },
];
const PRESETS = { fast: "Fast", best: "Best (slower)" };
const FORMATS = { png: "PNG", jpeg: "JPEG", tiff: "TIFF", webp: "WebP", avif: "AVIF", heic: "HEIC" };

const $ = (id) => document.getElementById(id);

export class Controls extends EventTarget {
  #tasks = [];
  #looks = [];

  // description: the result of the backend's describe()
  fill({ tasks, formats, looks }) {
    this.#tasks = tasks;
    this.#looks = LOOKS.filter(({ name }) => looks.includes(name));
    radios($("tasks"), "task", tasks.map(({ name, label }) => [name, label]), () => this.#chosen());
    radios($("presets"), "preset", Object.entries(PRESETS), () => this.#chosen());
    $("looks").replaceChildren(...this.#looks.map((look) => this.#slider(look)));
    $("format").append(...formats.map((name) => element("option", { value: name, textContent: FORMATS[name] || name })));
    $("format").onchange = () => this.dispatchEvent(new Event("format"));
    this.#offer();
    this.setLook(null);
  }

  get wish() {
    const task = this.#task;
    if (!task) return null;
    const preset = document.querySelector("[name=preset]:checked").value;
    return { task: task.name, preset: task.presets.includes(preset) ? preset : "fast" };
  }

  set wish({ task, preset }) {
    for (const [name, value] of [["task", task], ["preset", preset]]) {
      const input = document.querySelector(`[name=${name}][value="${CSS.escape(value)}"]`);
      if (input) input.checked = true;
    }
    this.#offer();
  }

  get format() {
    return $("format").value;
  }

  // look: {strength, colour, detail}, each optional, or null if there is no result
  setLook(look) {
    const now = settled(look || {});
    for (const { name } of this.#looks) {
      const slider = $(`look-${name}`);
      slider.disabled = !look;
      const percent = Math.round(100 * now[name]);
      slider.value = String(percent);
      $(`look-${name}-now`).textContent = `${percent}%`;
    }
  }

  get #task() {
    const checked = document.querySelector("[name=task]:checked");
    return this.#tasks.find(({ name }) => name === checked?.value);
  }

  #slider({ name, label, title }) {
    const now = element("output", { id: `look-${name}-now`, htmlFor: `look-${name}` });
    const slider = element("input", { id: `look-${name}`, type: "range", min: 0, max: 100, step: 1, title });
    slider.oninput = () => {
      now.textContent = `${slider.value}%`;
      this.dispatchEvent(new CustomEvent("look", { detail: { [name]: Number(slider.value) / 100 } }));
    };
    return element("label", { className: "look" }, element("span", { textContent: label }), slider, now);
  }

  #chosen() {
    this.#offer();
    this.dispatchEvent(new Event("wish"));
  }

  #offer() {
    $("presets").hidden = !this.#task || this.#task.presets.length < 2;
  }
}

function radios(place, name, choices, chosen) {
  const labels = choices.map(([value, text], index) =>
    element("label", {}, element("input", { type: "radio", name, value, checked: index === 0, onchange: chosen }), element("span", { textContent: text })));
  place.replaceChildren(place.querySelector("legend"), element("div", { className: "segments" }, ...labels));
}
