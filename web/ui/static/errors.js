// What made a job fail or go back to a checkpoint.
import { h } from "./dom.js";
import * as f from "./format.js";
import { jobHead } from "./parts.js";

export function page([id]) {
  return {
    path: `ui/live/jobs/${encodeURIComponent(id)}/errors`,
    title: (st) => st.job && `Errors \u00b7 ${st.job.name}`,
    render: (st) => st.errors && [
      jobHead(st.job, st.now, "errors"),
      st.errors.list.length
        ? st.errors.list.map((e, k) => one(e, k, st))
        : h("p", { class: "none" }, "No error has ended a run of this job. Bundles that failed and ran again are counted with their stages, and told of in the log."),
      h("h2", {}, "What the job went through"),
      h("ol", { class: "card timeline" }, st.errors.changes.map((c) => h("li", {}, h("span", { class: "mono muted" }, f.time(c.at)), h("b", {}, c.state.toLowerCase())))),
    ],
  };
}

// one error: its first line says what, the last line of a traceback why.
function one(e, k, st) {
  const text = e.text.trim(), lines = text.split("\n");
  const last = lines.length > 1 ? lines.findLast((l) => l.trim() && !/^\s/.test(l)) : "";
  return h("article", { class: "card error", "data-key": "e" + e.at + "/" + (st.errors.list.length - k) },
    h("div", { class: "row" }, h("h3", {}, last ? f.clip(last.trim(), 300) : f.clip(lines[0], 300)), h("span", { class: "muted when" }, `${f.time(e.at)}, ${f.ago(e.at, st.now)}`)),
    h("pre", { tabindex: "0", "aria-label": "Whole error" }, text));
}
