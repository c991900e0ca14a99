/** The curl command and the Python program for a request that was made. The key is named, never shown. */

import { apiKey } from "./api.js";
import { el } from "./dom.js";

const OPENAI_FIELDS = new Set(["model", "messages", "temperature", "logprobs", "top_logprobs"]); // of those we send

export function snippetsView({ path, body }) {
  const python = path === "v1/chat/completions" ? openaiProgram(body) : httpProgram(path, body);
  return el("div", { class: "snippets" }, snippet("curl", curl(path, body)), snippet("Python", python));
}

function snippet(title, text) {
  const copied = el("span", { class: "muted", role: "status" });
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    copied.textContent = navigator.clipboard ? "copied" : "select it and copy";
  };
  const button = el("button", { type: "button", class: "quiet", "aria-label": `Copy ${title}`, click: copy }, "Copy");
  const head = el("p", { class: "row" }, el("strong", {}, title), button, copied);
  return el("div", {}, head, el("pre", { tabindex: 0, "aria-label": title }, text));
}

function curl(path, body) {
  const lines = [`curl ${body.stream ? "-N " : ""}${absolute(path)}`, "-H 'Content-Type: application/json'"];
  if (apiKey.get()) lines.push('-H "Authorization: Bearer $ROUTELM_API_KEY"');
  lines.push(`-d '${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

function openaiProgram(body) {
  const entries = Object.entries(body).filter(([name]) => OPENAI_FIELDS.has(name));
  const others = Object.entries(body).filter(([name]) => !OPENAI_FIELDS.has(name) && !name.startsWith("stream"));
  const given = [...entries, ["stream", true], ...(others.length ? [["extra_body", Object.fromEntries(others)]] : [])];
  const key = apiKey.get() ? 'os.environ["ROUTELM_API_KEY"]' : '"unused"';
  return `${apiKey.get() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(absolute("v1"))}, api_key=${key})
stream = client.chat.completions.create(
${given.map(([name, value]) => `    ${name}=${literal(value, "    ")},`).join("\n")}
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
`;
}

function httpProgram(path, body) {
  const { stream, ...fields } = body;
  const key = apiKey.get();
  const authorization = key ? ', "Authorization": f"Bearer {os.environ[\'ROUTELM_API_KEY\']}"' : "";
  return `import json
${key ? "import os\n" : ""}import urllib.request

body = ${literal(fields)}
headers = {"Content-Type": "application/json"${authorization}}
request = urllib.request.Request(${literal(absolute(path))}, json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as response:
    print(json.load(response))
`;
}

function absolute(path) {
  return new URL(path, document.baseURI).href;
}

/** A value of JSON as Python writes it. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((item) => literal(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`);
  const flat = `${open}${items.join(", ")}${close}`;
  return flat.length <= 72 ? flat : `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
}
