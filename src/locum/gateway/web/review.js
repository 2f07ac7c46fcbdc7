// Right, wrong, and what the right answer is: kept as a row in the file that the operator named with --review.

import { element, request } from "./core.js";
import { correction } from "./kinds.js";

// Buttons below an answer; nothing where nobody asked for a file. asked and answer are what was sent and came.
export function review(served, model, asked, answer, origin) {
  if (!served.review) return null;
  const said = element("p", { className: "note", role: "status" });
  const editor = element("form", { hidden: true, className: "answer" });
  const send = async (verdict, right) => {
    const body = { model, input: asked.value, answer: answer ?? "", verdict, route: origin.route, confidence: origin.confidence ?? null };
    if (right !== undefined) body.right = right;
    try {
      const { labelled } = await (await request("locum/review", body)).json();
      said.textContent = labelled ? `Kept in ${served.review}.` : `Kept in ${served.review}. If you know the right answer, say it: only then can anything be learned from it.`;
      return true;
    } catch (error) {
      said.textContent = error.message;
      return false;
    }
  };
  const form = correction(served, asked, answer);
  editor.append(...form.nodes, element("div", { className: "row" }, element("button", { className: "primary", textContent: "Save" })));
  const open = () => {
    editor.hidden = false;
    other.setAttribute("aria-expanded", "true");
    editor.querySelector("select, textarea, input")?.focus();
  };
  editor.addEventListener("submit", async (event) => {
    event.preventDefault();
    let value;
    try { value = form.read(); } catch (error) { said.textContent = error.message; return; }
    if (await send("wrong", value)) {
      editor.hidden = true;
      for (const button of [right, wrong, other]) button.disabled = true;
    }
  });
  const right = element("button", { type: "button", textContent: "right", async onclick() {
    if (await send("right")) for (const button of [right, wrong, other]) button.disabled = true;
  } });
  const wrong = element("button", { type: "button", textContent: "wrong", async onclick() {
    if (await send("wrong")) { right.disabled = wrong.disabled = true; open(); }
  } });
  const other = element("button", { type: "button", textContent: "the right answer is …", "aria-expanded": "false", onclick: open });
  const verdicts = answer === null ? [other] : [right, wrong, other];
  return element("div", { className: "answer", role: "group", "aria-label": "Is the answer right?" },
    element("div", { className: "row" }, ...verdicts), editor, said);
}
