/** The chat: a conversation that goes on, streamed. */

import { Answer } from "./answer.js";
import { Composer } from "./composer.js";
import { el, find } from "./dom.js";
import { hasExperts, streamWithRouting } from "./routing.js";

const PATH = "v1/chat/completions";
const ALTERNATIVES = 4; // tokens that were likely too

export function setUpChat(server) {
  const panel = find("#chat");
  const input = find("textarea", panel);
  let conversation = [];
  const composer = new Composer(find("form", panel), server.ready, async (signal) => {
    const text = input.value.trim();
    if (!text) return;
    input.value = "";
    find(".answers", panel).append(el("p", { class: "question" }, text));
    showStarted(panel, true);
    const messages = conversation; // a new one may begin while this answer comes
    const question = { role: "user", content: text };
    const answered = await answer(server, panel, [...messages, question], signal);
    if (answered) messages.push(question, { role: "assistant", content: answered });
    else if (messages === conversation) input.value ||= text;
  });
  find(".examples", panel).addEventListener("click", ({ target }) => {
    if (target.tagName !== "BUTTON" || composer.running) return;
    input.value = target.textContent;
    find("form", panel).requestSubmit();
    input.focus();
  });
  find("#new-chat").addEventListener("click", () => {
    composer.stop();
    conversation = [];
    find(".answers", panel).replaceChildren();
    showStarted(panel, false);
    input.focus();
  });
}

function showStarted(panel, started) {
  find(".examples", panel).hidden = started;
  find("#new-chat").hidden = !started;
}

/** The text of the answer; nothing if there is none. */
async function answer(server, panel, messages, signal) {
  const body = {
    model: server.model.id,
    messages,
    ...server.settings.fields,
    ...(hasExperts(server.routing) && { return_routing: true }),
    logprobs: true,
    top_logprobs: ALTERNATIVES,
    stream: true,
    stream_options: { include_usage: true },
  };
  const shown = new Answer({ path: PATH, body }, server);
  find(".answers", panel).append(shown.element);
  shown.element.scrollIntoView({ block: "nearest" });
  await shown.during(readStream(shown, body, signal));
  find("form", panel).scrollIntoView({ block: "nearest" });
  return shown.text;
}

async function readStream(shown, body, signal) {
  for await (const event of streamWithRouting(PATH, body, signal)) {
    const [choice] = event.choices;
    shown.append(choice?.delta.content ?? "");
    shown.appendReasoning(choice?.delta.reasoning_content ?? "");
    shown.record.add(choice?.routing, choice?.logprobs);
    shown.note({ usage: event.usage, reason: choice?.finish_reason, warnings: event.warnings });
  }
}
