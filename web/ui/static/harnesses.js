// The harnesses of a job, or of all.
import { h } from "./dom.js";
import * as f from "./format.js";
import { jobHead, table, jobLink, ended } from "./parts.js";
import { logLine } from "./logs.js";

export function page([id]) {
  return {
    path: id ? `ui/live/jobs/${encodeURIComponent(id)}/harnesses` : "ui/live/harnesses",
    title: (st) => ["Harnesses", st.job?.name].filter(Boolean).join(" \u00b7 "),
    render: (st) => st.harnesses && [
      id ? jobHead(st.job, st.now, "harnesses") : h("div", { class: "row head" }, h("h1", { tabindex: "-1" }, "Harnesses ", h("small", {}, sum(st.harnesses.list)))),
      harnessTable(st.harnesses.list, st.now, id ? (ended(st.job) ? "The job has ended, and its harnesses with it." : "This job has none: its functions are linked into the runner.") : "No job with a harness runs. Pipelines whose functions are linked into the runner need none.", !id),
      st.harnesses.list.filter((x) => x.log?.length).map((x) => h("section", { "data-key": "log" + x.worker },
        h("h2", {}, "Last lines of ", h("span", { class: "mono" }, x.worker), " ", h("small", {}, h("a", { href: `${id ? jobLink(id, "logs") : "#/logs"}?text=${encodeURIComponent(x.worker)}` }, "all of its log"))),
        h("div", { class: "loglines card", tabindex: "0", role: "region", "aria-label": "Last lines of " + x.worker }, x.log.map((l) => logLine(l))))),
    ],
  };
}

function sum(list) {
  if (!list.length) return "none";
  const known = list.filter((x) => x.resident !== null), there = list.filter((x) => x.worker).length;
  return `${there} of ${list.length} connected` + (known.length ? `, ${f.bytes(known.reduce((a, x) => a + x.resident, 0))} of memory` : "");
}

// harnessTable also tells of places that wait for a harness.
export const harnessTable = (list, now, empty, withJob) => table({
  label: "Harnesses", cls: "cards", rows: list, key: (x) => `${x.job}/${x.environment}/${x.index}`, empty,
  columns: [
    { head: "Harness", cell: (x) => [h("span", { class: "main mono" }, x.worker || "waiting for one"), h("small", { class: "under" }, x.from), x.error && h("small", { class: "bad under" }, f.clip(x.error, 300))] },
    withJob && { head: "Job", cell: (x) => h("a", { href: jobLink(x.job, "harnesses") }, x.jobName) },
    { head: "State", cell: (x) => h("span", { class: "state " + (x.worker ? "run" : "bad") }, x.worker ? "connected" : x.tries > 1 ? `try ${x.tries}` : "starting") },
    { head: "Memory", cls: "n", title: "of the process and its children", cell: (x) => (x.resident === null ? h("span", { class: "muted", title: "it is not a process that this runner has started" }, "not known") : f.bytes(x.resident)) },
    { head: "Process", cls: "n", cell: (x) => (x.pid ? String(x.pid) : h("span", { class: "muted" }, "not ours")) },
    { head: "Restarts", cls: "n", title: "harnesses that were lost in this place", cell: (x) => String(x.restarts) },
    { head: "Bundles", cls: "n", cell: (x) => [f.whole(x.bundles), x.running > 0 && h("small", {}, ` ${x.running} running`)] },
    { head: "Connected for", cls: "n", cell: (x) => (x.since ? f.span(now - x.since) : f.NONE) },
    { head: "Last call", cls: "n", cell: (x) => f.ago(x.lastCall, now) },
  ].filter(Boolean),
});
