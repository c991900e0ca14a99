/** The path of one token through the layers: a row for each layer, a column for each expert. */

import { svg } from "./dom.js";

const WIDTH = 640;
const LEFT = 30; // for the numbers of the layers
const FAINTEST = 0.02; // links that are fainter are left out

/** `numExperts` by layer; `experts` and `gates` of the token, by layer. */
export function pathView(layers, numExperts, { text, experts, gates }) {
  const grid = new Grid(layers.length, Math.max(...numExperts));
  const description = layers.map((layer, row) => `Layer ${layer}: ${weighted(experts[row], gates[row])}.`).join(" ");
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${grid.height}`, class: "path", role: "img", "aria-label": `Path of ${text}. ${description}` },
    svg("g", { class: "labels" }, ...layers.map((layer, row) => rowLabel(grid, layer, row))),
    svg("g", { class: "grid" }, ...numExperts.flatMap((count, row) => dots(grid, count, row))),
    svg("g", { class: "links" }, ...layers.slice(1).flatMap((_, row) => links(grid, row, experts, gates))),
    svg("g", { class: "chosen" }, ...layers.flatMap((layer, row) => chosen(grid, layer, row, experts[row], gates[row]))),
  );
}

class Grid {
  constructor(rows, columns) {
    this.column = (WIDTH - LEFT) / columns;
    this.row = Math.min(34, Math.max(10, 480 / rows));
    this.radius = Math.min(this.column, this.row) / 2 - 1;
    this.height = rows * this.row;
  }

  x(expert) {
    return round(LEFT + (expert + 0.5) * this.column);
  }

  y(row) {
    return round((row + 0.5) * this.row);
  }
}

function rowLabel(grid, layer, row) {
  return svg("text", { x: LEFT - 8, y: grid.y(row), "font-size": Math.min(12, grid.row) }, layer);
}

function dots(grid, count, row) {
  const r = round(Math.min(2, grid.radius / 3));
  return Array.from({ length: count }, (_, expert) => svg("circle", { cx: grid.x(expert), cy: grid.y(row), r }));
}

/** From every expert of a layer to every one of the next, as strong as the product of their gates. */
function links(grid, row, experts, gates) {
  return (experts[row] ?? []).flatMap((from, i) =>
    (experts[row + 1] ?? []).flatMap((to, j) => {
      const strength = gates[row][i] * gates[row + 1][j];
      return strength < FAINTEST ? [] : [link(grid, row, from, to, Math.min(1, strength))];
    }),
  );
}

function link(grid, row, from, to, strength) {
  const [x1, y1, x2, y2] = [grid.x(from), grid.y(row), grid.x(to), grid.y(row + 1)];
  const middle = (y1 + y2) / 2;
  const d = `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`;
  return svg("path", { d, "stroke-opacity": round(0.1 + 0.8 * strength), "stroke-width": round(1 + 4 * strength) });
}

/** The area of a circle is its gate. */
function chosen(grid, layer, row, experts = [], gates = []) {
  return experts.map((expert, at) => {
    const r = round(Math.max(1.5, grid.radius * Math.sqrt(Math.min(1, gates[at]))));
    const title = svg("title", {}, `layer ${layer}, expert ${expert}: ${percent(gates[at])}`);
    return svg("circle", { cx: grid.x(expert), cy: grid.y(row), r }, title);
  });
}

function weighted(experts = [], gates = []) {
  return experts.map((expert, at) => `expert ${expert} ${percent(gates[at])}`).join(", ") || "no expert";
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function round(value) {
  return Math.round(100 * value) / 100;
}
