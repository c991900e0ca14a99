/** Requests to this server: the API key, JSON, and streams of server-sent events. Paths are relative to the page. */

const STORED_KEY = "routelm-api-key";

export class ApiError extends Error {
  constructor(message, status, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(STORED_KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(STORED_KEY, key) : sessionStorage.removeItem(STORED_KEY)),
  /** Asks the person for the key; set by the dialog. Resolves to whether one was given. */
  ask: async () => false,
};

export async function getJson(path) {
  return (await request(path)).json();
}

/** For what is asked for again and again: a missing key is an error, and no question to the person. */
export async function getTextQuietly(path) {
  return (await request(path, {}, false)).text();
}

export async function postJson(path, body, signal) {
  return (await post(path, body, signal)).json();
}

/** The JSON events of a stream. An error event is thrown. */
export async function* postStream(path, body, signal) {
  const response = await post(path, { ...body, stream: true }, signal);
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message, response.status);
    yield event;
  }
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** The response, if it is a good one. Where the key is missing or wrong, asks for it and tries again. */
async function request(path, options = {}, mayAsk = true) {
  const key = apiKey.get();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${utf8(key)}` }) };
  const response = await fetched(path, { ...options, headers });
  if (response.ok) return response;
  const error = await errorOf(response);
  if (response.status === 401 && mayAsk && (await apiKey.ask(key))) return request(path, options);
  throw error;
}

/** The value of a header is bytes, one a character: here those of UTF-8, as other clients send a key. */
function utf8(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

async function fetched(path, options) {
  try {
    return await fetch(path, { ...options, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", 0);
  }
}

async function errorOf(response) {
  const { message, param } = (await response.json().catch(() => ({}))).error ?? {};
  const wait = response.headers.get("Retry-After");
  const text = message ?? `The server answered ${response.status} ${response.statusText}.`;
  return new ApiError(wait ? `${text} Try again in ${wait} s.` : text, response.status, param);
}

/** The data of each event of a stream of bytes; comments, which keep a connection open, are left out. */
async function* serverSentEvents(bytes) {
  let buffered = "";
  for await (const text of chunks(bytes.pipeThrough(new TextDecoderStream()))) {
    const events = (buffered + text).split(/\r?\n\r?\n/);
    buffered = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/** Not every browser can iterate over a ReadableStream. */
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (let part; !(part = await reader.read()).done; ) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
