// One answer as a person wants to know it: who gave it, how sure the student was, why it went there, what covers it.

import { element, percent, duration } from "./core.js";

const BELOW = /confidence ([\d.]+) below ([\d.]+)/;

// Who answered, in a word or two.
export function who(route, served) {
  if (route === "local") return served.certificate ? "Answered here" : "Answered by this model";
  if (route === "llm") return `Answered by ${served.llm ?? "the LLM"}`;
  return route === "abstain" ? "Nobody answered" : "No answer";
}

// The server's reason in plain words, where it has none.
export const plainly = (reason) => (reason ?? "").replace("no threshold is certified", "nothing could be proved about this model from the labelled rows");

const otherwise = (served) => (served.llm ? `goes to ${served.llm}` : "is left without an answer, because no LLM is set up");

// Why it went there, in a sentence.
function why(origin, served) {
  const below = BELOW.exec(origin.reason ?? "");
  const unsure = below ? `the small model was ${percent(Number(below[1]))} sure, and answers alone from ${percent(Number(below[2]))}` : plainly(origin.reason);
  if (!served.certificate) return null;
  if (origin.route === "local") {
    if (origin.reason?.startsWith("asked for local only")) return `You asked the small model alone: ${unsure}. Otherwise such a question ${otherwise(served)}.`;
    const audited = origin.reason?.includes("audited") ? ` This one was also sent to ${served.llm}, as one in a hundred is, to see whether both agree.` : "";
    return `The small model was sure enough to answer alone.${audited}`;
  }
  if (origin.route === "llm") return origin.reason === "asked for by name" ? `You asked ${served.llm ?? "the LLM"} directly.` : `Passed on to ${served.llm ?? "the LLM"}, because ${unsure}.`;
  return `Left without an answer, because ${unsure.replace(" and there is no LLM", "")}${served.llm ? "" : ", and no LLM is set up that could answer instead"}.`;
}

function covered(origin, served) {
  if (!served.certificate) return null;
  const link = element("a", { href: "#certificate", textContent: "certificate" });
  if (origin.certificate) return element("li", {}, "Covered by the ", link, `: ${promise(served)}`);
  if (origin.certificate_void) return element("li", {}, "Covered by nothing: no ", link, " is in force.");
  return element("li", {}, "Not covered by the ", link, ", which speaks only of answers that the small model gives alone.");
}

// The first part of the certificate's statement: the promise, without the count behind it.
export const promise = (served) => `${served.certificate.statement.split(";")[0].replace(/\.$/, "")}.`;

// The student's confidence against the threshold.
export function bar(sure, threshold) {
  const below = threshold !== null && threshold !== undefined && sure < threshold;
  const fill = element("i"), made = element("div", { className: below ? "bar below" : "bar" }, fill);
  fill.style.width = `${100 * sure}%`;
  const box = element("div", { className: "sure", role: "img" }, element("span", { className: "note", textContent: `The small model is ${percent(sure)} sure` }), made);
  let label = `The small model is ${percent(sure)} sure.`;
  if (threshold !== null && threshold !== undefined) {
    const tick = element("b"), text = element("span", { textContent: `answers alone from ${percent(threshold)}`, className: threshold > 0.75 ? "late" : threshold < 0.25 ? "early" : "" });
    tick.style.left = text.style.left = `${100 * threshold}%`;
    made.append(tick);
    box.append(element("div", { className: "scale" }, text));
    label += ` It answers alone from ${percent(threshold)}.`;
  }
  box.setAttribute("aria-label", label);
  return box;
}

// Everything beside the answer itself.
export function about(origin, served, ms) {
  const below = BELOW.exec(origin.reason ?? "");
  const sure = origin.confidence ?? (below ? Number(below[1]) : null);
  const items = [why(origin, served)].filter(Boolean).map((text) => element("li", { textContent: text }));
  const cover = covered(origin, served);
  if (cover) items.push(cover);
  const meta = [duration(ms)];
  if (origin.truncated_tokens) meta.push(`${origin.truncated_tokens} tokens at the end were not read`);
  items.push(element("li", { className: "meta", textContent: meta.join(" · ") }));
  return [sure === null || sure === undefined ? null : bar(sure, served.threshold), element("ul", { className: "facts" }, ...items)];
}
