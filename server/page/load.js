/** What the server does now, from the counters of /metrics: requests, tokens per second, and the experts' share. */

import { getTextQuietly } from "./api.js";
import { find, svg } from "./dom.js";
import { drawHeatmap } from "./heatmap.js";

const INTERVAL = 2000; // milliseconds
const HISTORY = 60; // samples of the curve
const WINDOW = 15; // samples over which the experts' share is taken
const SERIES = /^([\w:]+)(?:\{(.*)\})? (\S+)$/;

export function startLoad() {
  const samples = [];
  const poll = async () => {
    if (!document.hidden) await takeSample(samples).catch(showNothing);
    setTimeout(poll, INTERVAL);
  };
  poll();
}

async function takeSample(samples) {
  samples.push(parse(await getTextQuietly("metrics")));
  find("#load").hidden = false;
  if (samples.length > HISTORY + 1) samples.shift();
  const newest = samples.at(-1);
  const rates = samples.slice(1).map((sample, at) => rate(samples[at], sample));
  show("running", newest.running);
  show("waiting", newest.waiting);
  show("tokens-per-second", rates.length ? Math.round(rates.at(-1)) : 0);
  drawCurve(find("#load-curve"), rates);
  showShare(samples);
}

/** Running, waiting, generated tokens, and the tokens of each expert by layer, at a moment in seconds. */
function parse(text) {
  const sample = { at: performance.now() / 1000, running: 0, waiting: 0, tokens: 0, experts: new Map() };
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = SERIES.exec(line) ?? [];
    if (name === "vllm:num_requests_running") sample.running += Number(value);
    if (name === "vllm:num_requests_waiting") sample.waiting += Number(value);
    if (name === "vllm:generation_tokens_total") sample.tokens += Number(value);
    if (name === "routelm:moe_expert_tokens_total") addExpert(sample.experts, labels, Number(value));
  }
  return sample;
}

function addExpert(experts, labels, tokens) {
  const layer = Number(/layer="(\d+)"/.exec(labels)[1]);
  const expert = Number(/expert="(\d+)"/.exec(labels)[1]);
  if (!experts.has(layer)) experts.set(layer, []);
  experts.get(layer)[expert] = tokens;
}

function rate(before, after) {
  return Math.max(0, (after.tokens - before.tokens) / (after.at - before.at));
}

/** Of the last half minute; of all time where nothing was computed in it. */
function showShare(samples) {
  const newest = samples.at(-1).experts;
  find("#share").hidden = newest.size === 0;
  if (newest.size === 0) return;
  const oldest = samples.at(Math.max(-WINDOW, -samples.length)).experts;
  const recent = [...newest].map(([layer, tokens]) => tokens.map((n, expert) => n - (oldest.get(layer)?.[expert] ?? 0)));
  const busy = recent.flat().some((tokens) => tokens > 0);
  find("#share-when").textContent = busy ? "of the last half minute" : "since the start";
  drawHeatmap(find("#share canvas"), busy ? recent : [...newest.values()]);
}

function drawCurve(curve, rates) {
  const top = Math.max(1, ...rates);
  const padded = [...Array(HISTORY + 1 - rates.length).fill(0), ...rates];
  const points = padded.map((value, at) => `${at},${(30 - (28 * value) / top).toFixed(1)}`);
  curve.replaceChildren(svg("polyline", { points: points.join(" ") }));
}

function show(name, value) {
  find(`#${name}`).textContent = value;
}

/** Not every key may see the load. */
function showNothing(error) {
  find("#load").hidden = error.status === 403;
  for (const name of ["running", "waiting", "tokens-per-second"]) show(name, "–");
}
