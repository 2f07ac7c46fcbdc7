// Where requests went: counts, the median latency, and the last twenty, of whoever asks this server.

import { duration, element, panel, percent, state } from "./core.js";

const ROUTES = { local: "here", llm: "LLM", abstain: "nobody", none: "failed" };

panel({
  id: "traffic",
  title: "Since the server was started",
  show({ traffic, llm, certificate }, body) {
    const names = certificate ? [["answered here", traffic.local], [llm ?? "LLM", traffic.llm], ["nobody answered", traffic.abstained]] : [["answered", traffic.local]];
    if (traffic.failed) names.push(["failed", traffic.failed]);
    names.push(["median time", traffic.median_ms === null ? "—" : duration(traffic.median_ms)]);
    const counters = element("dl", { className: "counters" }, ...names.map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value.toLocaleString("en") }))));
    const items = traffic.recent.map((each) => {
      const route = each.error ? "none" : each.route, text = state.mine.get(each.id);
      const sure = each.confidence === null ? "" : ` ${percent(each.confidence)}`;
      return element("li", {}, element("time", { textContent: new Date(1000 * each.time).toLocaleTimeString("en-GB") }),
        element("span", { className: `route-${route}`, textContent: each.error ?? `${route === "llm" && llm ? llm : ROUTES[route]}${sure}` }),
        element("span", { className: "ms", textContent: duration(each.ms) }),
        text ? element("span", { className: "text", textContent: text }) : null);
    });
    body.replaceChildren(counters,
      items.length ? element("ol", { className: "recent", "aria-label": "The last requests, the newest first" }, ...items) : element("p", { className: "note", textContent: "No request yet." }),
      element("p", { className: "note", textContent: "The last 20 requests of everybody. The server keeps when, where and how long, in memory, and never a text; the texts shown are your own, from this tab alone." }));
  },
});
