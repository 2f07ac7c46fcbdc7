// The certificate in full: what is promised, what must hold for it, and what ends it.

import { element, panel } from "./core.js";
import { plainly, promise } from "./answers.js";

const list = (items) => element("ul", {}, ...items.map((textContent) => element("li", { textContent })));

panel({
  id: "certificate",
  title: "The certificate",
  show(served, body) {
    const { certificate, certificate_void: ended, llm } = served;
    if (!certificate) return false;
    if (body.dataset.shown === `${certificate.id} ${ended}`) return true; // what a reader has unfolded stays so
    body.dataset.shown = `${certificate.id} ${ended}`;
    const rest = llm ? `goes to ${llm}` : "is left without an answer";
    const first = ended
      ? `Nothing is promised now, because ${plainly(ended)}. So every question ${rest}.`
      : `${promise(served)} That is for the answers that the small model gives alone; every other question ${rest}.`;
    body.replaceChildren(element("p", { textContent: first }),
      element("details", {}, element("summary", { textContent: "The whole statement, and what it rests on" }),
        element("p", { textContent: certificate.statement }),
        element("p", { textContent: "It is true if:" }), list(certificate.assumptions),
        element("p", { textContent: "It ends with:" }), list(certificate.voided_by),
        element("p", { className: "note", textContent: `Certificate ${certificate.id}, from ${certificate.issued_at.slice(0, 10)} to ${certificate.expires_at.slice(0, 10)}.` })));
    return true;
  },
});
