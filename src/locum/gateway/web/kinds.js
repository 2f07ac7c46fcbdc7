// How the input and the answer of each kind of task look: fields in, elements out. Nothing here asks the server.

import { element, percent } from "./core.js";

const letters = (text) => Array.from(text); // spans count characters, where JavaScript counts UTF-16 units

// As the server normalises what a student reads, so that spans stand where it found them.
export function normal(text) {
  return text
    .replace(/\r\n|\r|\u0085|\u2028|\u2029/g, "\n")
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f]/g, "")
    .replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u00ad\u180e\u200b\u2060-\u2064\ufeff]/g, "")
    .normalize("NFC").trim();
}

let fields_made = 0;

function field(name, hint, control) {
  control.id = `field-${++fields_made}`; // columns may have any name, and a form by the schema the same ones
  return element("div", { className: "field" },
    element("label", { htmlFor: control.id }, name, hint ? element("small", { textContent: ` ${hint}` }) : null), control);
}

const area = (rows) => element("textarea", { rows, spellcheck: false });

// The fields of a task's input: {nodes, read}. read gives the text to ask and the value by column, or null when empty.
export function inputs(served) {
  const names = served.input ?? ["input"];
  if (served.kind === "rank") {
    const query = area(2), list = area(6);
    return {
      nodes: [field(names[0], "", query), field(names[1], "one candidate a line", list)],
      lines: true,
      read() {
        const candidates = list.value.split("\n").map((line) => line.trim()).filter(Boolean);
        if (!query.value.trim() || !candidates.length) return null;
        const value = { [names[0]]: query.value, [names[1]]: candidates };
        return { text: JSON.stringify(value), value, brief: query.value };
      },
    };
  }
  const fields = names.map((name, place) => [name, area(names.length === 1 ? 5 : place ? 5 : 2)]);
  const nodes = fields.map(([name, control]) => field(names.length === 1 ? "Your text" : name, "", control));
  return {
    nodes,
    lines: names.length > 1,
    read() {
      if (!fields.some(([, control]) => control.value.trim())) return null;
      if (fields.length === 1) {
        const text = fields[0][1].value;
        return { text, value: text, brief: text };
      }
      const value = Object.fromEntries(fields.map(([name, control]) => [name, control.value]));
      const text = fields.map(([name, control]) => `${name}: ${control.value}`.trimEnd()).join("\n");
      return { text, value, brief: fields[0][1].value };
    },
  };
}

const parsed = (text) => { try { return JSON.parse(text); } catch { return undefined; } };

// The answer as its kind is best read; as text where it is not what the kind promises.
export function shown(served, asked, answer, sureOf) {
  const value = ["tag", "extract", "rank"].includes(served.kind) ? parsed(answer) : undefined;
  if (served.kind === "tag" && Array.isArray(value)) return marked(served, asked.text, value);
  if (served.kind === "rank" && Array.isArray(value)) {
    const candidates = asked.value[served.input[1]];
    return element("ol", { className: "ranking" }, ...value.map((number) => element("li", {}, element("span", { textContent: candidates[number] ?? `candidate ${number}` }))));
  }
  if (value && typeof value === "object" && !Array.isArray(value)) return listed(value, sureOf ?? {});
  return element("p", { className: served.kind === "classify" ? "said label" : "said", textContent: answer });
}

function marked(served, raw, spans) {
  const text = letters(normal(raw)), kinds = served.labels ?? [];
  const made = element("p", { className: "said" });
  let at = 0;
  for (const [start, end, label] of [...spans].sort((one, other) => one[0] - other[0])) {
    made.append(text.slice(at, start).join(""), element("mark", { className: `c${Math.max(0, kinds.indexOf(label)) % 3}` },
      text.slice(start, end).join(""), element("small", { textContent: label })));
    at = end;
  }
  made.append(text.slice(at).join(""));
  if (spans.length) return made;
  return element("div", {}, made, element("p", { className: "note", textContent: "Nothing is marked: the answer is that this text holds none of them." }));
}

function listed(value, sureOf) {
  const rows = Object.entries(value).map(([name, inner]) => {
    const flat = inner === null || typeof inner !== "object";
    const shownAs = flat ? element("dd", { textContent: inner === null ? "—" : String(inner) }) : element("dd", {}, element("pre", { textContent: JSON.stringify(inner, null, 2) }));
    const sure = sureOf[name];
    return element("div", {}, element("dt", { textContent: name }), shownAs, element("dd", { className: "how", textContent: sure === undefined ? "" : `${percent(sure)} sure` }));
  });
  return element("dl", { className: "fields" }, ...rows);
}

// Where a person says the right answer: {nodes, read}; read gives it as a row of the task has it, or throws an Error.
export function correction(served, asked, answer) {
  const value = parsed(answer);
  if (served.kind === "classify") return chooser(served.labels, answer);
  if (served.kind === "tag") return marking(served, normal(asked.text), Array.isArray(value) ? value : []);
  if (served.kind === "rank") return relevant(asked.value[served.input[1]]);
  if (served.kind === "extract" && served.answer_schema?.properties) return byschema(served.answer_schema, value ?? {});
  const text = element("textarea", { id: "right-text", rows: 4, value: answer ?? "" });
  return { nodes: [element("label", { htmlFor: text.id, textContent: "The right answer" }), text], read: () => needed(text.value) };
}

function needed(text) {
  if (!text.trim()) throw new Error("Say the right answer first.");
  return text;
}

function chooser(labels, answer) {
  const select = element("select", { id: "right-text" }, element("option", { value: "", textContent: "choose…" }),
    ...labels.filter((label) => label !== answer).map((label) => element("option", { value: label, textContent: label })));
  return { nodes: [element("label", { htmlFor: select.id, textContent: "The right answer" }), select], read: () => needed(select.value) };
}

function relevant(candidates) {
  const boxes = candidates.map((text, place) => ({ place, box: element("input", { type: "checkbox" }), text }));
  const group = element("fieldset", {}, element("legend", { textContent: "Which of them are right?" }),
    ...boxes.map(({ box, text }) => element("label", { className: "choice" }, box, element("span", { textContent: text }))));
  return {
    nodes: [group],
    read() {
      const chosen = boxes.filter(({ box }) => box.checked).map(({ place }) => place);
      if (!chosen.length) throw new Error("Tick at least one of them.");
      return chosen;
    },
  };
}

function marking(served, text, given) {
  const spans = given.map(([start, end, label]) => ({ start, end, label }));
  const box = element("textarea", { id: "right-text", rows: 4, readOnly: true, value: text });
  const label = element("select", { "aria-label": "Label of the mark" }, ...served.labels.map((name) => element("option", { value: name, textContent: name })));
  const list = element("ul", { className: "spans" });
  const said = element("p", { className: "note", role: "status" });
  const draw = () => {
    spans.sort((one, other) => one.start - other.start);
    list.replaceChildren(...spans.map((span) => {
      const quote = letters(text).slice(span.start, span.end).join("");
      return element("li", {}, element("span", { textContent: `${quote}: ${span.label}` }), element("button", {
        type: "button", className: "quiet", textContent: "remove", "aria-label": `Remove the mark on ${quote}`,
        onclick() { spans.splice(spans.indexOf(span), 1); draw(); box.focus(); },
      }));
    }));
    if (!spans.length) list.append(element("li", { className: "note", textContent: "No marks: say so with Save." }));
  };
  const add = element("button", {
    type: "button", textContent: "Mark what is selected",
    onclick() {
      const start = letters(text.slice(0, box.selectionStart)).length, end = letters(text.slice(0, box.selectionEnd)).length;
      if (start === end) said.textContent = "Select some of the text first.";
      else if (spans.some((span) => start < span.end && span.start < end)) said.textContent = "Marks may not overlap; remove the other one first.";
      else { said.textContent = ""; spans.push({ start, end, label: label.value }); draw(); }
    },
  });
  draw();
  return { nodes: [element("label", { htmlFor: box.id, textContent: "Select a part of the text, and mark it" }), box, element("div", { className: "row" }, label, add), said, list], read: () => spans };
}

// A form with a field for each member of a JSON object; what is itself an object or a list is written as JSON.
function byschema(schema, value) {
  const fields = Object.entries(schema.properties).map(([name, part]) => {
    const types = [part.type ?? []].flat(), known = part.enum ?? (types.includes("boolean") ? [true, false] : null);
    const simple = known || types.some((type) => ["string", "number", "integer"].includes(type));
    const now = value[name];
    let control;
    if (known) control = element("select", {}, element("option", { value: "", textContent: "—" }), ...known.map((each) => element("option", { value: JSON.stringify(each), textContent: String(each), selected: each === now })));
    else if (simple) control = element("input", { type: "text", value: now === undefined || now === null ? "" : String(now) });
    else control = element("textarea", { className: "code", rows: 4, value: now === undefined ? "" : JSON.stringify(now, null, 2) });
    const read = () => {
      const text = control.value;
      if (text === "" && !(types.includes("string") && schema.required?.includes(name))) return types.includes("null") ? null : undefined;
      if (types.includes("string") && !known) return text;
      const found = parsed(text);
      if (found === undefined) throw new Error(`${name}: ${simple ? "a number" : "JSON"} is needed.`);
      return found;
    };
    return { name, read, node: field(name, types.join(" or "), control) };
  });
  return {
    nodes: fields.map(({ node }) => node),
    read: () => Object.fromEntries(fields.map(({ name, read }) => [name, read()]).filter(([, found]) => found !== undefined)),
  };
}
