// Where every megabyte is.
import { h } from "./dom.js";
import * as f from "./format.js";
import { Chart } from "./chart.js";
import { table, tile, gauge, jobLink } from "./parts.js";

// Parts of the process's memory, see memoryParts in liveprocess.go.
const PARTS = {
  pool: ["Buffer pool", "records between stages, in Go's heap"],
  cache: ["State: block cache", "blocks of Pebble's files that were read"],
  memtables: ["State: memtables", "writes that are not in files yet"],
  heap: ["Go heap: all else", "objects of the runner and of linked-in functions, with those that wait to be collected"],
  free: ["Go heap: free", "kept by the Go runtime for what comes next"],
  stacks: ["Stacks", "of goroutines"],
  runtime: ["Go runtime", "what it needs itself: spans, tables, profiles"],
  program: ["Program", "pages of the executable, shared with the file cache"],
  rest: ["Other", "not accounted for: C libraries, kernel buffers"],
};

export function page() {
  const charts = [
    new Chart({ title: "Resident", note: "the whole process", format: f.bytes, base: 1024, series: [["resident", "resident"]] }),
    new Chart({ title: "Go heap", note: "objects", format: f.bytes, base: 1024, series: [["heap", "heap"]] }),
    new Chart({ title: "Buffers and state", format: f.bytes, base: 1024, series: [["pool", "buffer pool"], ["state", "cache and memtables", "second"]] }),
    new Chart({ title: "CPU", note: "1.0 is one core", format: (v) => v.toFixed(2), series: [["cpu", "cores"]] }),
  ];
  return {
    path: "ui/live/memory",
    title: () => "Memory",
    render: (st) => st.memory && view(st.memory, charts),
    drawn: (st) => charts.forEach((c) => c.update(st.history)),
  };
}

function view(m, charts) {
  const total = m.parts.reduce((a, p) => a + p.bytes, 0) || 1, parts = m.parts.filter((p) => p.bytes > 0);
  const harness = m.harnesses.filter((x) => x.resident !== null).reduce((a, x) => a + x.resident, 0);
  return [
    h("div", { class: "row head" }, h("h1", { tabindex: "-1" }, "Memory ", h("small", {}, m.resident === null ? "the system does not tell what is resident" : `${f.bytes(m.resident)} of ${f.bytes(m.limit)}`, harness > 0 && `, harnesses ${f.bytes(harness)} besides`))),
    h("section", { class: "card", "data-key": "whole" },
      h("div", { class: "stack", role: "img", "aria-label": parts.map((p) => `${PARTS[p.name][0]} ${f.bytes(p.bytes)}`).join(", ") },
        parts.map((p) => h("i", { class: "m-" + p.name, title: `${PARTS[p.name][0]}: ${f.bytes(p.bytes)}`, style: { "flex-grow": String(Math.max(p.bytes / total, 0.002)) } })),
        m.resident !== null && m.limit > total && h("i", { class: "m-left", title: `below the limit: ${f.bytes(m.limit - total)}`, style: { "flex-grow": String((m.limit - total) / total) } })),
      h("div", { class: "scroll bare" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Part"), h("th", { scope: "col", class: "n" }, "Bytes"), h("th", { scope: "col", class: "n" }, "Share"), h("th", { scope: "col", class: "what" }, "What it is"))),
        h("tbody", {}, m.parts.map((p) => h("tr", { "data-key": p.name }, h("th", { scope: "row" }, h("i", { class: "key m-" + p.name, "aria-hidden": "true" }), PARTS[p.name][0]), h("td", { class: "n" }, f.bytes(p.bytes)), h("td", { class: "n" }, f.percent(p.bytes / total)), h("td", { class: "wrap muted what" }, PARTS[p.name][1]))))))),
    h("dl", { class: "tiles", "data-key": "tiles" },
      tile("Buffer pool", f.bytes(m.pool.used), [`of ${f.bytes(m.pool.limit)} `, gauge(m.pool.used, m.pool.limit, "buffer pool")]),
      tile("Spilled to files", f.bytes(m.spilled), "records between stages"),
      tile("State in memory", f.bytes(m.stateCache.used), m.stateCache.used === null ? "no job runs" : [`of ${f.bytes(m.stateCache.limit)} `, gauge(m.stateCache.used, m.stateCache.limit, "state")]),
      tile("Go heap", f.bytes(m.heap), `${f.bytes(m.mapped)} mapped by Go`),
      tile("Goroutines", f.whole(m.goroutines), ""),
      tile("Collections", f.whole(m.gc), `${f.span(m.gcMillis)} of CPU`)),
    h("section", { class: "charts four", "data-key": "charts", "aria-label": "Last 15 minutes" }, charts.map((c) => c.holder())),
    h("h2", {}, "Harness processes"),
    table({
      label: "Harness processes", cls: "cards", rows: m.harnesses, key: (x) => `${x.job}/${x.environment}/${x.index}`, empty: "None: no job needs one.",
      columns: [
        { head: "Harness", cell: (x) => [h("span", { class: "main mono" }, x.worker || "waiting for one"), h("small", { class: "under" }, x.from)] },
        { head: "Job", cell: (x) => h("a", { href: jobLink(x.job, "harnesses") }, x.jobName) },
        { head: "Process", cls: "n", cell: (x) => (x.pid ? String(x.pid) : h("span", { class: "muted" }, "not ours")) },
        { head: "Memory", cls: "n", cell: (x) => (x.resident === null ? h("span", { class: "muted" }, "not known") : f.bytes(x.resident)) },
      ],
    }),
  ];
}
