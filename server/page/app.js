/** Starts the page: what the server offers decides which tabs and sliders there are. */

import { getJson } from "./api.js";
import { setUpChat } from "./chat.js";
import { el, find } from "./dom.js";
import { setUpKey } from "./key.js";
import { startLoad } from "./load.js";
import { routingOverview } from "./routing.js";
import { Settings } from "./settings.js";
import { Tabs } from "./tabs.js";
import { setUpTasks } from "./tasks.js";

const NEEDS_CHAT_TEMPLATE = ["chat", "translate", "summarize", "analyze"];

const server = { model: null, routing: null, settings: new Settings(), ready };
const tabs = new Tabs();
let starting = null;

setUpKey(start);
setUpChat(server);
setUpTasks(server);
startLoad();
await start();

/** Again when a key was given; one that it asked for itself it already has. */
function start() {
  starting ??= describeOrTell().finally(() => (starting = null));
  return starting;
}

/** Waits until the server is described, and tries again where that failed. Returns whether it is. */
async function ready() {
  if (starting || !server.model) await start();
  return Boolean(server.model);
}

async function describeOrTell() {
  const problem = find("#problem");
  problem.hidden = true;
  try {
    await describe();
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }
}

async function describe() {
  const [model] = (await getJson("v1/models")).data;
  const properties = await getJson("props");
  server.routing = await routingOverview();
  server.model = model;
  server.settings.offerExperts(server.routing?.experts_per_token, model.quality_by_experts_per_token);
  document.title = `${model.id} · RouteLM`;
  find("#model").textContent = `${model.id} · ${model.max_model_len.toLocaleString("en")} tokens of context`;
  tabs.without(properties.chat_template ? [] : NEEDS_CHAT_TEMPLATE);
  showLimits(model.warnings ?? []);
}

/** What the model was measured to be weak at: once, folded, in the tab of the task. */
function showLimits(warnings) {
  for (const panel of document.querySelectorAll("[role=tabpanel]")) {
    find(".limits", panel)?.remove();
    const code = `low_quality.${panel.id}: `;
    const own = warnings.filter((warning) => warning.startsWith(code)).map((warning) => warning.slice(code.length));
    if (own.length) panel.append(el("details", { class: "limits" }, el("summary", {}, "Measured limits"), own.join(" ")));
  }
}
