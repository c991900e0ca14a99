// What both the page and the Node program ask of the server.
export async function ask(OpenAI, baseURL) {
  const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0, dangerouslyAllowBrowser: true });
  const asked = {
    model: "routelm",
    messages: [{ role: "user", content: "How are you?" }],
    max_tokens: 12,
    temperature: 0,
  };
  const whole = (await client.chat.completions.create(asked)).choices[0].message.content;

  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
  }
  const helper = await client.chat.completions.stream(asked).finalContent();
  const refused = await client.chat.completions
    .create({ ...asked, model: "another" })
    .catch((error) => `${error.status} ${error.constructor.name}`);
  return { whole, streamed, helper, refused };
}
