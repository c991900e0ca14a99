/** The routing of an answer: which experts each token went to, and with which weights. */

import { getJson, postStream } from "./api.js";

/** What GET /v1/routing says; null where the key may not see it. */
export async function routingOverview() {
  try {
    return await getJson("v1/routing");
  } catch (error) {
    if (error.status === 401) throw error;
    return null;
  }
}

/** Whether to ask for the routing of tokens: not of a model that is known to have no experts. */
export function hasExperts(overview) {
  return overview === null || overview.layers.length > 0;
}

/** The events of a stream; without the routing where the server refuses it, for instance of an answer that is too long. */
export async function* streamWithRouting(path, body, signal) {
  try {
    yield* postStream(path, body, signal);
  } catch (error) {
    if (error.status !== 400 || error.param !== "return_routing") throw error;
    const { return_routing: refused, ...rest } = body;
    yield* postStream(path, rest, signal);
  }
}

/** Collects the tokens of a stream: their experts (`return_routing`), their probabilities (`logprobs`), or both. */
export class TokenRecord {
  constructor() {
    this.layers = [];
    this.routed = [];
    this.likely = [];
  }

  add(routing, logprobs) {
    if (routing) {
      this.layers = routing.layers;
      this.routed.push(...(routing.tokens ?? []));
    }
    this.likely.push(...(logprobs?.content ?? []));
  }

  /** `{text, experts, gates, logprob, alternatives}` of each token; experts and gates by layer, where known. */
  get tokens() {
    const length = Math.max(this.routed.length, this.likely.length);
    return Array.from({ length }, (_, at) => {
      const { token: routedText, experts = [], gates = [] } = this.routed[at] ?? {};
      const { token: likelyText, logprob, top_logprobs: top = [] } = this.likely[at] ?? {};
      const text = routedText ?? likelyText;
      return { text, experts, gates, logprob, alternatives: top.filter((other) => other.token !== text) };
    });
  }
}

/** How many experts each layer of `record` has, from the overview; without it, as many as are seen. */
export function numExperts(record, overview) {
  const sizes = new Map(overview?.layers.map(({ layer, num_experts: count }) => [layer, count]));
  const seen = (row) => 1 + Math.max(0, ...record.tokens.flatMap(({ experts }) => experts[row] ?? []));
  return record.layers.map((layer, row) => sizes.get(layer) ?? seen(row));
}

/** How undecided the router was about a token: the entropy of its gates in bits, mean over the layers. */
export function gateEntropy({ gates }) {
  const layers = gates.filter((weights) => weights.length);
  return layers.length ? layers.map(entropy).reduce((a, b) => a + b) / layers.length : 0;
}

function entropy(weights) {
  const total = weights.reduce((a, b) => a + b, 0) || 1;
  return weights.reduce((sum, weight) => (weight > 0 ? sum - (weight / total) * Math.log2(weight / total) : sum), 0);
}

/** The most that `gateEntropy` can be: that of equal gates. */
export function mostEntropy(tokens) {
  return Math.log2(Math.max(2, ...tokens.flatMap(({ gates }) => gates.map((weights) => weights.length))));
}

/** The experts that a task uses more than the others do: `{layer, expert, times}`, the most typical first. */
export function typicalExperts(overview, task, count = 3) {
  const found = overview.layers.flatMap(({ layer, share }, row) =>
    share.map((overall, expert) => ({ layer, expert, times: task.share[row][expert] / overall, share: task.share[row][expert] })),
  );
  const often = found.filter(({ times, share }) => Number.isFinite(times) && times > 1.2 && share > 0.05);
  return often.sort((a, b) => b.times - a.times).slice(0, count);
}
