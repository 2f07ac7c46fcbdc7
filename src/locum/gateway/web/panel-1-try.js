// Ask the model, and see its answer: once for a task, as a conversation with a plain model, in vectors with an embedder.

import { element, events, panel, refresh, request, state, duration, percent } from "./core.js";
import { about, who } from "./answers.js";
import { inputs, shown } from "./kinds.js";
import { review } from "./review.js";

let running = null; // the AbortController of the question under way
let built = null; // of which model the form is

function names(served) {
  const words = { "": "as it is served", local: "the small model alone", llm: `${served.llm ?? "the LLM"} alone` };
  return served.models.map((model) => [model, served.certificate ? `${words[model.split("@")[1] ?? ""]} (${model})` : model]);
}

const talks = (served) => served.generates && (!served.certificate || served.profile === "chat");

// One question, whole or piece by piece; onpiece is called with the text so far.
async function ask(model, messages, stream, signal, onpiece) {
  const began = performance.now();
  const response = await request("v1/chat/completions", { model, messages, ...(stream ? { stream: true } : {}) }, signal);
  const found = { id: response.headers.get("x-request-id"), text: "", refusal: null, origin: null, cut: false };
  const take = (choice) => { found.cut ||= choice?.finish_reason === "length"; };
  if (stream) {
    for await (const event of events(response)) {
      const delta = event.choices?.[0]?.delta ?? {};
      found.origin ??= event.locum;
      found.refusal ??= delta.refusal ?? null;
      take(event.choices?.[0]);
      if (delta.content) onpiece(found.text += delta.content);
    }
  } else {
    const body = await response.json();
    Object.assign(found, { text: body.choices[0].message.content ?? "", refusal: body.choices[0].message.refusal, origin: body.locum });
    take(body.choices[0]);
  }
  found.origin ??= { route: response.headers.get("x-locum-route") };
  return { ...found, ms: performance.now() - began };
}

function result(served, model, asked, found) {
  const nobody = found.origin.route === "abstain";
  const answer = nobody ? null : found.text;
  const parts = [element("span", { className: `badge ${found.origin.route}`, textContent: who(found.origin.route, served) })];
  if (nobody) parts.push(element("p", { className: "said empty", textContent: "No answer" }));
  else parts.push(shown(served, asked, found.text, found.origin.fields));
  if (found.cut) parts.push(element("p", { className: "note", textContent: "The answer was cut at its greatest length." }));
  parts.push(...about(found.origin, served, found.ms));
  const small = served.models.find((name) => name.endsWith("@local"));
  if (small && found.origin.route !== "local") parts.push(guess(served, small, asked));
  parts.push(review(served, model, asked, answer, found.origin));
  return parts.filter(Boolean);
}

// What the small model would have said, where somebody else answered, or nobody.
function guess(served, small, asked) {
  const place = element("div", { className: "row" });
  place.append(element("button", { type: "button", textContent: "What would the small model have said?", async onclick() {
    try {
      const found = await ask(small, [{ role: "user", content: asked.text }], false);
      place.replaceChildren(element("div", {}, element("p", { className: "note", textContent: "The small model would have said, covered by nothing:" }), shown(served, asked, found.text || "nothing", found.origin.fields)));
    } catch (error) { place.replaceChildren(element("p", { className: "note", role: "status", textContent: error.message })); }
  } }));
  return place;
}

function compose(served, body) {
  const select = element("select", { id: "model" }, ...names(served).map(([value, textContent]) => element("option", { value, textContent })));
  const chosen = served.models.length > 1 ? element("div", { className: "field" }, element("label", { htmlFor: "model", textContent: "Who is asked" }), select) : null;
  const out = element("div", { id: "out", "aria-live": "polite" });
  const fields = served.generates ? inputs(served) : embedding();
  const send = element("button", { className: "primary", textContent: served.generates ? "Ask" : "Compare" });
  const stop = element("button", { type: "button", textContent: "Stop", hidden: true, onclick: () => running?.abort() });
  const hint = fields.lines ? "Ctrl+Enter sends." : "Enter sends, Shift+Enter begins a new line.";
  const form = element("form", {}, chosen, ...fields.nodes, element("div", { className: "row" }, send, stop, element("p", { className: "note", textContent: hint })));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing || event.target.tagName !== "TEXTAREA" || event.shiftKey) return;
    if (fields.lines && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    form.requestSubmit();
  });
  const history = [];
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = fields.read();
    if (running || !asked) { if (!asked) form.querySelector("textarea").focus(); return; }
    running = new AbortController();
    stop.hidden = false;
    send.disabled = true;
    out.setAttribute("aria-busy", "true");
    try {
      if (!served.generates) await compare(served, asked, out, running.signal);
      else if (talks(served)) await talk(served, select.value, asked, history, out, running.signal, form);
      else await single(served, select.value, asked, out, running.signal);
    } catch (error) {
      const stopped = error.name === "AbortError";
      out.append(element("p", { className: stopped ? "note" : "notice", textContent: stopped ? "Stopped." : error.message }));
    }
    running = null;
    stop.hidden = true;
    send.disabled = false;
    out.removeAttribute("aria-busy");
    refresh();
  });
  if (talks(served)) body.replaceChildren(out, form);
  else body.replaceChildren(form, out);
}

async function single(served, model, asked, out, signal) {
  const text = element("p", { className: "said" });
  out.replaceChildren(element("div", { className: "answer" }, text));
  text.textContent = "…";
  let found;
  try {
    const stream = served.kind === "generate" || model.endsWith("@llm");
    found = await ask(model, [{ role: "user", content: asked.text }], stream, signal, (so) => { text.textContent = so; });
  } catch (error) { if (text.textContent === "…") text.remove(); throw error; }
  state.mine.set(found.id, asked.brief.slice(0, 200));
  out.replaceChildren(element("div", { className: "answer" }, ...result(served, model, asked, found)));
}

// A conversation; a student answers each message by itself, as its certificate speaks of it.
async function talk(served, model, asked, history, out, signal, form) {
  let list = out.querySelector(".talk");
  if (!list) out.append(list = element("ul", { className: "talk" }));
  const text = element("p", { className: "said", textContent: "…" }), after = element("div");
  list.append(element("li", { className: "you", textContent: asked.text }), element("li", {}, element("p", { className: "who", textContent: model }), text, after));
  form.querySelector("textarea").value = "";
  const messages = served.certificate ? [] : [...history];
  messages.push({ role: "user", content: asked.text });
  let so = "";
  try {
    const found = await ask(model, messages, true, signal, (piece) => { text.textContent = so = piece; });
    text.remove();
    state.mine.set(found.id, asked.brief.slice(0, 200));
    after.append(...result(served, model, asked, found));
  } catch (error) { if (!so) text.remove(); throw error; } finally {
    if (so) history.push({ role: "user", content: asked.text }, { role: "assistant", content: so });
  }
}

function embedding() {
  const list = element("textarea", { id: "in-texts", rows: 6 });
  return {
    nodes: [element("label", { htmlFor: "in-texts" }, "Texts to compare ", element("small", { textContent: "one a line" })), list],
    lines: true,
    read() {
      const texts = list.value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, 50);
      return texts.length ? { texts, brief: texts[0] } : null;
    },
  };
}

async function compare(served, { texts, brief }, out, signal) {
  const began = performance.now();
  const response = await request("v1/embeddings", { model: served.models[0], input: texts }, signal);
  const vectors = (await response.json()).data.map((each) => each.embedding);
  state.mine.set(response.headers.get("x-request-id"), brief);
  const dot = (one, other) => one.reduce((sum, value, place) => sum + value * other[place], 0);
  const like = vectors.map((vector) => dot(vectors[0], vector) / Math.sqrt(dot(vectors[0], vectors[0]) * dot(vector, vector)));
  const order = texts.map((text, place) => [like[place], text]).slice(1).sort((one, other) => other[0] - one[0]);
  out.replaceChildren(element("div", { className: "answer" },
    element("p", { className: "note", textContent: `${vectors[0].length} numbers a text, ${duration(performance.now() - began)}. How alike the others are to the first (cosine):` }),
    element("ol", { className: "ranking" }, ...order.map(([cosine, text]) => element("li", {}, element("span", { textContent: `${percent(cosine)} ${text}` }))))));
}

panel({
  id: "try",
  title: "Try it",
  show(served, body) {
    const same = `${served.name} ${served.models.join()}`;
    if (built !== same) compose(served, body);
    built = same;
  },
});
