// The Vercel AI SDK: text, a stream, a tool and an object, on chat completions and on responses.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.argv[2];
const settings = { name: "routelm", baseURL, apiKey: "unused" };
const models = {
  compatible: createOpenAICompatible({ ...settings, supportsStructuredOutputs: true })("scripted"),
  chat: createOpenAI(settings).chat("scripted"),
  responses: createOpenAI(settings).responses("scripted"),
};
const weather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const question = "What is the weather in Paris?";
const agent = { prompt: question, tools: { weather }, stopWhen: stepCountIs(3), maxRetries: 0 };

async function ask(model) {
  const { text } = await generateText({ model, prompt: question, maxRetries: 0 });
  const whole = await generateText({ model, ...agent });
  const streamed = streamText({ model, ...agent });
  const parts = [];
  for await (const part of streamed.fullStream) {
    if (part.type === "error") throw part.error;
    parts.push(part.type);
  }
  const schema = z.object({ city: z.string(), sunny: z.boolean() });
  const { object } = await generateObject({ model, schema, prompt: question, maxRetries: 0 });
  return {
    text,
    answer: whole.text,
    results: whole.steps.flatMap((step) => step.toolResults.map((result) => result.output)),
    usage: whole.totalUsage.totalTokens,
    streamed: await streamed.text,
    reasons: (await streamed.steps).map((step) => step.finishReason),
    parts: [...new Set(parts)],
    object,
  };
}

const found = {};
for (const [name, model] of Object.entries(models)) found[name] = await ask(model);
console.log(JSON.stringify(found));
