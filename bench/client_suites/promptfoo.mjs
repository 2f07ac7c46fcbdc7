// promptfoo with its OpenAI providers and their defaults: chat, completion, responses, a tool, a schema, and embeddings.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const { CHAT_URL, CHAT_MODEL, EMBED_URL, EMBED_MODEL } = process.env;
const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'promptfoo-'));
const common = { apiBaseUrl: CHAT_URL, apiKey: 'none', max_tokens: 60 };
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false };
const city = { type: 'json_schema', json_schema: { name: 'city', strict: true, schema: parameters } };
const embedder = { id: `openai:embedding:${EMBED_MODEL}`, config: { apiBaseUrl: EMBED_URL, apiKey: 'none' } };

const cases = {
  chat: { provider: { id: `openai:chat:${CHAT_MODEL}`, config: common }, assert: [{ type: 'javascript', value: 'output.length > 0' }] },
  completion: { provider: { id: `openai:completion:${CHAT_MODEL}`, config: common }, assert: [{ type: 'javascript', value: 'output.length > 0' }] },
  responses: {
    provider: { id: `openai:responses:${CHAT_MODEL}`, config: { ...common, max_output_tokens: 60 } },
    assert: [{ type: 'javascript', value: 'output.length > 0' }],
  },
  chat_schema: { provider: { id: `openai:chat:${CHAT_MODEL}`, config: { ...common, response_format: city } }, assert: [{ type: 'is-json' }] },
  chat_tool: {
    provider: {
      id: `openai:chat:${CHAT_MODEL}`,
      config: { ...common, tools: [{ type: 'function', function: { name: 'weather', description: 'Weather', parameters } }], tool_choice: 'required' },
    },
    assert: [{ type: 'is-valid-openai-tools-call' }],
  },
  embedding: {
    provider: { id: `openai:chat:${CHAT_MODEL}`, config: common },
    assert: [{ type: 'similar', value: 'anything', threshold: -1, provider: embedder }],
  },
};

for (const [name, { provider, assert }] of Object.entries(cases)) {
  if (process.env.ONLY && !name.includes(process.env.ONLY)) continue;
  const started = performance.now();
  const config = join(folder, `${name}.json`);
  const out = join(folder, `${name}-results.json`);
  writeFileSync(config, JSON.stringify({ providers: [provider], prompts: ['What is the weather in Paris?'], tests: [{ assert }] }));
  const environment = {
    ...process.env, PROMPTFOO_CONFIG_DIR: folder, PROMPTFOO_DISABLE_TELEMETRY: '1', PROMPTFOO_DISABLE_UPDATE: '1',
    PROMPTFOO_DISABLE_REMOTE_GENERATION: '1', OPENAI_API_KEY: 'none',
  };
  const cli = join(here, 'node_modules', 'promptfoo', 'dist', 'src', 'entrypoint.js');
  const done = spawnSync(process.execPath, [cli, 'eval', '-c', config, '--output', out, '--no-cache', '--no-progress-bar', '--no-write'], {
    env: environment, encoding: 'utf8', cwd: folder, timeout: 300_000,
  });
  let outcome = 'wrong';
  let detail = `${done.stderr} ${done.stdout}`.slice(-600);
  try {
    const [result] = JSON.parse(readFileSync(out, 'utf8')).results.results;
    outcome = result.success ? 'passed' : 'wrong';
    detail = result.success ? '' : String(result.error ?? result.failureReason).slice(0, 600);
  } catch {
    // no result was written: what it printed says why
  }
  console.log(JSON.stringify({ case: name, outcome, detail, seconds: Math.round((performance.now() - started) / 100) / 10 }));
}
rmSync(folder, { recursive: true });
