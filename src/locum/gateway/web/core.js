// What panels share: asking the server, making elements, and telling all panels when something is known.
// A panel is a file panel-NAME.js that calls panel({id, title, show}). Text of models reaches the page through
// textContent alone, and the key stands in a header, never in an address.

const KEY = "locum-key";
const panels = [];
export const state = { served: null, mine: new Map() };

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.includes("-") && name !== "list" && name !== "form") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;
export const duration = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`);

// A panel has {id, title, show(served, body)}; show is called with every news of the server.
export function panel(given) {
  const body = element("div");
  const section = element("section", { id: given.id, className: "card", "aria-labelledby": `${given.id}-title` },
    element("h2", { id: `${given.id}-title`, textContent: given.title }), body);
  panels.push({ ...given, section, body });
  document.getElementById("panels").append(section);
  section.hidden = true;
  if (state.served) update();
}

export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
  }
}

// A request with the key, if there is one; a refusal is thrown with the server's own words.
export async function request(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "The server does not answer. Is it still running?", code: "unreachable" });
  }
  if (response.ok) return response;
  let error;
  try { error = (await response.json()).error; } catch { error = { message: `The server answered with status ${response.status}.` }; }
  if (response.status === 401) askForKey(key !== null);
  throw new Refused(response.status, error);
}

// The events of a streamed answer, one JSON object each.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") {
        const found = JSON.parse(data);
        if (found.error) throw new Refused(500, found.error);
        yield found;
      }
    }
  }
}

function update() {
  const served = state.served;
  document.getElementById("panels").hidden = false;
  for (const { show, section, body } of panels) section.hidden = show(served, body) === false;
}

// Ask the server what it serves and where the last requests went; all panels are told.
export async function refresh() {
  const problem = document.getElementById("problem");
  try {
    state.served = await (await request("locum/served")).json();
  } catch (error) {
    if (error.status === 401) return; // the form for the key says so
    problem.hidden = false;
    problem.textContent = error.message;
    return;
  }
  problem.hidden = true;
  const { served } = state;
  document.title = `${served.name} · Locum`;
  document.getElementById("name").textContent = served.name;
  document.getElementById("version").textContent = `${served.version} · try the model`;
  document.getElementById("about").textContent = served.instruction || "A plain model: it answers whatever you ask, and nothing is certified.";
  document.getElementById("key").hidden = true;
  update();
}

function askForKey(wrong) {
  const form = document.getElementById("key");
  sessionStorage.removeItem(KEY);
  document.getElementById("panels").hidden = true;
  form.hidden = false;
  const problem = document.getElementById("problem");
  problem.hidden = !wrong;
  problem.textContent = "That is not the key of this server.";
  document.getElementById("key-text").focus();
}

document.getElementById("key").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = document.getElementById("key-text");
  sessionStorage.setItem(KEY, field.value.trim());
  field.value = "";
  await refresh();
  document.querySelector("#panels textarea, #panels input")?.focus();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || !document.getElementById("key").hidden || refresh(), 10000);
refresh();
