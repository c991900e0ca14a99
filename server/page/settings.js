/** The sliders: what goes with every request. A slider that was not moved leaves its field out. */

import { el, find } from "./dom.js";

const NOTES = [
  [0, "Always the likeliest token: the same answer every time."],
  [0.7, "Close to what the model finds likely."],
  [1.2, "Varied."],
  [Infinity, "Wild: expect nonsense."],
];

class Slider {
  constructor(name, onChange = () => {}) {
    this.input = find(`#${name}`);
    this.output = find(`#${name}-value`);
    this.reset = find(`#${name}-reset`);
    this.value = null;
    this.onChange = onChange;
    this.input.addEventListener("input", () => this.set(Number(this.input.value)));
    this.reset.addEventListener("click", () => this.set(null));
  }

  set(value) {
    this.value = value;
    this.output.textContent = value ?? "as the model";
    this.reset.disabled = value === null;
    this.onChange(value);
  }
}

export class Settings {
  constructor() {
    this.temperature = new Slider("temperature", (value) => (find("#temperature-note").textContent = note(value)));
    this.experts = new Slider("experts-per-token", markColumn);
  }

  /** `bounds` of GET /v1/routing, null where the number cannot be chosen; `quality`: measured, by number. */
  offerExperts(bounds, quality) {
    find("#experts").hidden = !bounds || bounds.min === bounds.max;
    if (!bounds) return;
    Object.assign(this.experts.input, { min: bounds.min, max: bounds.max, value: bounds.current });
    find("#experts-quality").replaceChildren(...qualityRows(quality ?? [], bounds));
  }

  /** The fields of a request. */
  get fields() {
    const given = Object.entries({ temperature: this.temperature.value, experts_per_token: this.experts.value });
    return Object.fromEntries(given.filter(([, value]) => value !== null));
  }
}

function note(value) {
  return value === null ? "" : NOTES.find(([most]) => value <= most)[1];
}

/** The measured scores: a row for each task, a column for each number of experts. */
function qualityRows(quality, { min, max }) {
  const offered = quality.filter(({ experts_per_token: number }) => min <= number && number <= max);
  if (!offered.length) return [];
  const cell = (tag, { experts_per_token: number }, text) => el(tag, { "data-experts": number }, text);
  const head = offered.map((entry) => cell("th", entry, entry.experts_per_token));
  const rows = Object.keys(offered[0].scores).map((name) => {
    const scores = offered.map((entry) => cell("td", entry, entry.scores[name].toFixed(name.includes("bits") ? 2 : 1)));
    return el("tr", {}, el("th", { scope: "row" }, name), ...scores);
  });
  const title = el("caption", {}, "Measured quality, by experts per token");
  return [title, el("thead", {}, el("tr", {}, el("td", {}), ...head)), el("tbody", {}, ...rows)];
}

function markColumn(value) {
  for (const cell of document.querySelectorAll("#experts-quality [data-experts]")) {
    cell.classList.toggle("marked", Number(cell.dataset.experts) === value);
  }
}
