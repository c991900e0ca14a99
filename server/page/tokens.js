/** The tokens of an answer. The one under the pointer or the keyboard focus shows its path through the layers. */

import { el, roveFocus, svg } from "./dom.js";
import { drawHeatmap } from "./heatmap.js";
import { pathView } from "./path.js";
import { gateEntropy, mostEntropy, numExperts, routingOverview, typicalExperts } from "./routing.js";

const MOST_SHOWN = 1000;

/** `record` is a TokenRecord, `overview` that of GET /v1/routing or null. Without routing, the tokens alone. */
export function tokensView(record, overview, task) {
  const tokens = record.tokens.slice(0, MOST_SHOWN);
  const detail = el("div", { class: "detail" });
  const buttons = tokens.map((token, at) => button(token, at, shade(token, tokens)));
  const list = el("div", { class: "tokens", role: "toolbar", "aria-label": "Tokens of the answer" }, ...buttons);
  const routed = record.layers.length > 0;
  const sizes = numExperts(record, overview);
  const strip = routed ? entropyStrip(tokens) : null;
  const show = (chosen) => {
    const at = buttons.indexOf(chosen);
    for (const other of buttons) other.setAttribute("aria-pressed", other === chosen);
    strip?.mark(at);
    detail.replaceChildren(...detailOf(tokens[at], record.layers, sizes));
  };
  roveFocus(list, () => buttons, show);
  list.addEventListener("pointerover", (event) => buttons.includes(event.target) && show(event.target));
  list.addEventListener("click", (event) => event.target.focus()); // Safari does not focus what is clicked
  show(buttons[0]);
  return el("div", { class: "routing" }, list, strip?.element, detail, routed ? taskExperts(task) : null);
}

function button(token, at, strength) {
  const likely = token.logprob === undefined ? "" : `, probability ${percent(token.logprob)}`;
  const element = el("button", { type: "button", tabindex: at ? -1 : 0, "aria-label": `${named(token.text)}${likely}` });
  element.textContent = shown(token.text);
  element.style.setProperty("--strength", strength.toFixed(3));
  return element;
}

/** How strongly a token is tinted, 0 to 1: how undecided its router was, or how unlikely it is. */
function shade(token, tokens) {
  if (token.gates.length) return gateEntropy(token) / mostEntropy(tokens.slice(0, 50));
  return token.logprob === undefined ? 0 : 1 - Math.exp(token.logprob);
}

/** White space that can be seen. Parts of a character are written as their bytes. */
function shown(text) {
  return text.replace(/^bytes:/, "").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
}

/** What a token is called where it is not drawn: a button needs a name, even where nothing of its token can be seen. */
function named(text) {
  const name = shown(text).trim();
  return /[^\s\p{C}]/u.test(name) ? name : "space";
}

/** The entropy of the gates along the text, a bar for each token. */
function entropyStrip(tokens) {
  const most = mostEntropy(tokens.slice(0, 50));
  const bars = tokens.map((token, at) => {
    const height = Math.max(0.02, gateEntropy(token) / most) * 20;
    return svg("rect", { x: at + 0.1, y: 20 - height, width: 0.8, height });
  });
  const label = "Entropy of the gates along the text";
  const options = { viewBox: `0 0 ${Math.max(40, tokens.length)} 20`, preserveAspectRatio: "none", class: "strip" };
  const picture = svg("svg", { ...options, role: "img", "aria-label": label }, ...bars);
  const caption = el("figcaption", { class: "note" });
  return {
    element: el("figure", {}, picture, caption),
    mark(at) {
      bars.forEach((bar, other) => bar.classList.toggle("marked", other === at));
      const bits = gateEntropy(tokens[at]).toFixed(2);
      caption.textContent = `${label}: ${bits} of at most ${most.toFixed(2)} bits for this token`;
    },
  };
}

function detailOf(token, layers, sizes) {
  const about = [el("strong", {}, `“${named(token.text)}”`)];
  if (token.logprob !== undefined) about.push(` had a probability of ${percent(token.logprob)}`);
  const others = token.alternatives.slice(0, 3).map((other) => `“${named(other.token)}” ${percent(other.logprob)}`);
  if (others.length) about.push(`; others: ${others.join(", ")}`);
  const text = el("p", {}, ...about);
  if (!token.experts.length) return [text];
  const path = pathView(layers, sizes, token);
  return [text, path, el("p", { class: "note" }, "A row for each layer, a column for each expert; the area is the gate.")];
}

/** Which experts this task uses, on the whole server in the last minutes. */
function taskExperts(task) {
  const canvas = el("canvas", { class: "heatmap", role: "img", "aria-label": `Experts that ${task} uses, by layer` });
  const caption = el("figcaption", { class: "note" });
  const figure = el("figure", { hidden: true }, canvas, caption);
  routingOverview().then((overview) => {
    const found = overview?.tasks.find((entry) => entry.task === task);
    if (!found) return;
    figure.hidden = false;
    drawHeatmap(canvas, found.share);
    const typical = typicalExperts(overview, found).map(
      ({ layer, expert, times }) => `expert ${expert} of layer ${layer} (${times.toFixed(1)} times its usual share)`,
    );
    caption.textContent =
      `Experts that ${task} used in the last ${overview.minutes} minutes` +
      (typical.length ? `; typical of it: ${typical.join(", ")}` : "");
  });
  return figure;
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return `${share >= 10 ? share.toFixed(0) : share.toPrecision(1)} %`;
}
