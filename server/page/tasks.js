/** The tabs of the tasks: a form each, and its answers below, the newest first. */

import { Answer } from "./answer.js";
import { postJson } from "./api.js";
import { Composer } from "./composer.js";
import { el, find } from "./dom.js";
import { hasExperts, streamWithRouting } from "./routing.js";

const MOST_ANSWERS = 10;

/** What each task asks with, made of the fields of its form; `routed`: it takes `return_routing`. */
const TASKS = {
  translate: { routed: true, body: (fields) => fields },
  summarize: { routed: false, body: (fields) => fields },
  generate: { routed: true, body: ({ max_tokens: most, ...fields }) => ({ ...fields, max_tokens: Number(most) }) },
};

export function setUpTasks(server) {
  for (const [name, task] of Object.entries(TASKS)) {
    setUp(server, name, async (fields, signal) => {
      const body = { ...task.body(fields), ...server.settings.fields };
      if (task.routed && hasExperts(server.routing)) body.return_routing = true;
      const shown = newAnswer(name, body, server);
      await shown.during(readStream(shown, body, signal));
    });
  }
  setUp(server, "analyze", async ({ text, labels }, signal) => {
    const body = { text, labels: labels.split(",").map((label) => label.trim()).filter(Boolean) };
    const shown = newAnswer("analyze", body, server);
    await shown.during(readScores(shown, body, signal));
  });
}

function setUp(server, name, send) {
  const form = find(`#${name} form`);
  new Composer(form, server.ready, (signal) => send(Object.fromEntries(new FormData(form)), signal));
}

function newAnswer(name, body, server) {
  const answers = find(`#${name} .answers`);
  const shown = new Answer({ path: `v1/${name}`, body }, server);
  answers.prepend(shown.element);
  while (answers.children.length > MOST_ANSWERS) answers.lastChild.remove();
  return shown;
}

async function readStream(shown, body, signal) {
  for await (const event of streamWithRouting(shown.request.path, body, signal)) {
    shown.append(event.delta ?? "");
    shown.record.add(event.routing);
    shown.note({ usage: event.usage, reason: event.finish_reason, warnings: event.warnings });
  }
}

async function readScores(shown, body, signal) {
  const { results, usage, warnings } = await postJson(shown.request.path, body, signal);
  const scores = Object.entries(results[0].scores).sort(([, a], [, b]) => b - a);
  shown.body.append(el("dl", { class: "scores" }, ...scores.map(([label, score]) => scoreRow(label, score))));
  shown.note({ usage, warnings });
}

function scoreRow(label, score) {
  const percent = `${(100 * score).toFixed(1)} %`;
  return el("div", {}, el("dt", {}, label), el("dd", {}, el("meter", { value: score, "aria-label": label }), percent));
}
