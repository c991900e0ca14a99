/** One answer: its text while it comes, then what it took, its tokens with their routing, and its code. */

import { el } from "./dom.js";
import { TokenRecord } from "./routing.js";
import { snippetsView } from "./snippets.js";
import { tokensView } from "./tokens.js";

const REASONS = {
  length: "cut off at the length limit",
  timeout: "cut off at the deadline",
  abort: "cut off by the server",
  stopped: "stopped",
}; // other reasons need no words
const shownWarnings = new Set(); // each is shown once
let tokensOpen = true; // as the person left them

export class Answer {
  /** `request` is its path and body; `server` is what app.js knows of the server. */
  constructor(request, server) {
    this.request = request;
    this.server = server;
    this.started = performance.now();
    this.text = "";
    this.record = new TokenRecord();
    this.usage = null;
    this.reason = null;
    this.warnings = [];
    this.body = el("div", { class: "text" });
    this.element = el("article", { class: "answer", "aria-busy": "true" }, this.body);
  }

  append(text) {
    this.text += text;
    if (text) this.body.append(text);
  }

  /** Reasoning comes before the answer, folded. */
  appendReasoning(text) {
    if (!text) return;
    if (!this.reasoning) {
      this.reasoning = el("div", { class: "text" });
      this.element.prepend(el("details", { class: "reasoning" }, el("summary", {}, "Reasoning"), this.reasoning));
    }
    this.reasoning.append(text);
  }

  note({ usage, reason, warnings }) {
    this.usage = usage ?? this.usage;
    this.reason = reason ?? this.reason;
    this.warnings.push(...(warnings ?? []));
  }

  /** Waits for `work`, which fills the answer, and completes it, whether or not it was stopped or failed. */
  async during(work) {
    try {
      await work;
    } catch (error) {
      this.reason = error.name === "AbortError" ? "stopped" : "failed";
      if (this.reason === "failed") this.element.append(el("p", { class: "error", role: "alert" }, error.message));
    }
    this.element.removeAttribute("aria-busy");
    this.complete();
  }

  complete() {
    const seconds = (performance.now() - this.started) / 1000;
    this.element.append(el("p", { class: "meta" }, summary(this, seconds)));
    for (const warning of newWarnings(this.warnings)) this.element.append(el("p", { class: "note" }, warning));
    if (this.record.tokens.length) this.element.append(this.tokens());
    this.element.append(folded("curl and Python", "code", () => snippetsView(this.request)));
  }

  /** Open in the newest answer alone. */
  tokens() {
    for (const other of document.querySelectorAll("details.path-of-tokens")) other.open = false;
    const title = this.record.layers.length ? "Tokens and their path through the layers" : "Tokens";
    const task = this.request.path.replace("v1/", "");
    const view = () => tokensView(this.record, this.server.routing, task);
    const details = folded(title, "path-of-tokens", view, tokensOpen);
    details.firstChild.addEventListener("click", () => (tokensOpen = !details.open));
    return details;
  }
}

/** Details whose content is made when they are opened. */
function folded(title, name, content, open = false) {
  const details = el("details", { class: name, open }, el("summary", {}, title));
  details.addEventListener("toggle", () => details.open && (details.children[1] ?? details.append(content())));
  return details;
}

/** Quality is told by the limits of the tab. */
function newWarnings(warnings) {
  const found = warnings.filter((warning) => !warning.startsWith("low_quality.") && !shownWarnings.has(warning));
  for (const warning of found) shownWarnings.add(warning);
  return found;
}

function summary({ usage, reason }, seconds) {
  const parts = [];
  if (usage?.completion_tokens) parts.push(`${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s`);
  const experts = usage?.experts_per_token;
  if (experts) parts.push(`${experts} expert${experts > 1 ? "s" : ""} per token`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached) parts.push(`${cached} of ${usage.prompt_tokens} prompt tokens from the cache`);
  if (REASONS[reason]) parts.push(REASONS[reason]);
  return parts.join(" · ");
}
