// Vercel's AI SDK with its two OpenAI providers: text, streams, objects, tools and embeddings.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from 'ai';

const { CHAT_URL, CHAT_MODEL, EMBED_URL, EMBED_MODEL } = process.env;
const openai = createOpenAI({ baseURL: CHAT_URL, apiKey: 'none' });
const compatible = createOpenAICompatible({
  name: 'locum', baseURL: CHAT_URL, apiKey: 'none', includeUsage: true, supportsStructuredOutputs: true,
});
const embedder = createOpenAI({ baseURL: EMBED_URL, apiKey: 'none' });
const models = {
  responses: openai(CHAT_MODEL), chat: openai.chat(CHAT_MODEL), compatible: compatible(CHAT_MODEL),
};
const common = { maxOutputTokens: 120, temperature: 0, maxRetries: 0 };
const city = jsonSchema({
  type: 'object', properties: { name: { type: 'string' }, country: { type: 'string' } },
  required: ['name', 'country'], additionalProperties: false,
});
const weather = tool({
  description: 'Weather of a city',
  inputSchema: jsonSchema({
    type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false,
  }),
  execute: async ({ city }) => `18 degrees in ${city}`,
});
const ask = 'What is the weather in Paris? Use the tool.';

function must(value, what) {
  if (!value) throw new Error(`no ${what}`);
}

const cases = {};
for (const [name, model] of Object.entries(models)) {
  cases[`${name}_text`] = async () => {
    const found = await generateText({ model, prompt: 'Say hi.', ...common });
    must(found.text, 'text');
    must(found.usage.outputTokens > 0, 'usage');
  };
  cases[`${name}_streamed`] = async () => {
    let failure;
    const found = streamText({ model, prompt: 'Say hi.', ...common, onError: ({ error }) => { failure = error; } });
    let text = '';
    for await (const part of found.textStream) text += part;
    if (failure) throw failure;
    must(text, 'text');
  };
  cases[`${name}_object`] = async () => {
    const found = await generateText({ model, prompt: 'Paris is in France.', output: Output.object({ schema: city }), ...common });
    must(found.output.name !== undefined, 'object');
  };
  cases[`${name}_tool_required`] = async () => {
    const found = await generateText({ model, prompt: ask, tools: { weather }, toolChoice: 'required', ...common });
    must(found.toolCalls.length > 0, 'call');
  };
  cases[`${name}_tool_named`] = async () => {
    const choice = { type: 'tool', toolName: 'weather' };
    const found = await generateText({ model, prompt: ask, tools: { weather }, toolChoice: choice, ...common });
    must(found.toolCalls[0]?.input.city, 'call');
  };
  cases[`${name}_tool_loop`] = async () => {
    const found = await generateText({ model, prompt: ask, tools: { weather }, stopWhen: stepCountIs(3), ...common });
    must(found.steps.length > 0, 'step');
  };
  cases[`${name}_tool_streamed`] = async () => {
    let failure;
    const found = streamText({
      model, prompt: ask, tools: { weather }, toolChoice: 'required', ...common, onError: ({ error }) => { failure = error; },
    });
    for await (const part of found.fullStream) if (part.type === 'error') failure = part.error;
    if (failure) throw failure;
    must((await found.toolCalls).length > 0, 'call');
  };
}
cases.embeddings = async () => {
  const { embeddings } = await embedMany({ model: embedder.embedding(EMBED_MODEL), values: ['a', 'b'], maxRetries: 0 });
  must(embeddings.length === 2, 'vectors');
};

for (const [name, run] of Object.entries(cases)) {
  if (process.env.ONLY && !name.includes(process.env.ONLY)) continue;
  const started = performance.now();
  let outcome = 'passed';
  let detail = '';
  try {
    await run();
  } catch (error) {
    outcome = 'wrong';
    detail = `${error.name}: ${error.message} ${error.responseBody ?? error.cause?.message ?? ''}`.slice(0, 600);
  }
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  console.log(JSON.stringify({ case: name, outcome, detail, seconds }));
}
process.exit(0);
