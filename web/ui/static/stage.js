// One stage: figures, charts, subtasks, its harnesses and its transforms.
import { h } from "./dom.js";
import * as f from "./format.js";
import { Chart } from "./chart.js";
import { userMetrics } from "./api.js";
import { harnessTable } from "./harnesses.js";
import { jobHead, table, tile, shares, pressure, stageLink, jobLink, kinds, ended } from "./parts.js";
import { IN, OUT, BYTES_IN, BYTES_OUT, BUSY, BP, WM_IN, WM_OUT, QUEUED, QUEUED_BYTES, BACKLOG, FAILED, LATE, TOTAL_IN, TOTAL_OUT, stageLag } from "./graph.js";

const METRICS_AGE = 10000; // ms between two looks at the metrics of user code

export function page([id, stage]) {
  const charts = [
    new Chart({ title: "Records", format: f.rate, series: [["in", "in"], ["out", "out", "second"]] }),
    new Chart({ title: "Bytes", format: f.byteRate, base: 1024, series: [["bytesIn", "in"], ["bytesOut", "out", "second"]] }),
    new Chart({ title: "Time", note: "share of its slots'", format: f.percent, series: [["busy", "busy"], ["bp", "back-pressured", "warm"]], max: 1 }),
    new Chart({ title: "Watermark lag", format: f.span, series: [["lag", "lag"]] }),
    new Chart({ title: "Queued", note: "records that wait for it", format: f.count, series: [["queued", "queued"]] }),
    new Chart({ title: "Outside", note: "records that wait at the source", format: f.count, series: [["backlog", "backlog"]] }),
  ];
  let metrics = null, asked = 0;
  return {
    path: `ui/live/jobs/${encodeURIComponent(id)}/stages/${stage}`,
    title: (st) => st.stage && `${f.split(st.stage.name)[0]} \u00b7 ${st.job.name}`,
    render: (st) => st.stage && view(st, charts, metrics),
    drawn(st) {
      // Sources alone know what waits outside.
      const shown = charts.filter((c) => c.title !== "Outside" || st.history.series.backlog?.some((v) => v !== null));
      for (const c of shown) c.update(st.history);
      if (st.stage.kind === "user" && Date.now() - asked > METRICS_AGE) {
        asked = Date.now();
        userMetrics(st.job.hex, stage).then((m) => (metrics = m["user-accumulators"])).catch(() => {});
      }
    },
  };
}

function view({ job, stage, figures, history, harnesses, now }, charts, metrics) {
  const r = figures.row, over = ended(job);
  const [first, rest] = f.split(stage.name);
  const lag = stageLag(r, now);
  const withOutside = history.series.backlog?.some((v) => v !== null) || r[BACKLOG] !== null;
  return [
    jobHead(job, now, "graph"),
    h("section", { class: "stagehead", "data-key": "stagehead" },
      h("p", { class: "crumbs" }, h("a", { href: jobLink(job.id) }, "\u2190 Graph"), " / stage"),
      h("h2", {}, first, " ", h("small", {}, kinds[stage.kind] || stage.kind, stage.ended && `, finished at ${f.time(stage.ended)} after ${f.span(stage.took)}`)), rest && h("p", { class: "mono muted path" }, rest),
      h("p", { class: "neighbours" }, links("Reads from", job, stage.inputs), links("Feeds", job, stage.outputs))),
    figures.latency.length > 0 && h("p", { class: "latency", "data-key": "latency", title: "Of bundles of the last one to two minutes, from when their oldest record entered the job to their commit. Records that waited in windows or state are not among them." },
      figures.latency.map((l) => h("span", {}, "Latency from ", h("a", { href: stageLink(job.id, l.source.id), title: l.source.name }, f.split(l.source.name)[0]), `: p50 ${f.span(l.p50)} / p99 ${f.span(l.p99)}`))),
    h("dl", { class: "tiles", "data-key": "tiles" },
      tile("Records in", stage.inputs.length ? f.rate(r[IN]) : f.NONE, stage.inputs.length ? `${f.whole(r[TOTAL_IN])} so far, ${f.byteRate(r[BYTES_IN])}` : "it is a root"),
      tile("Records out", f.rate(r[OUT]), `${f.whole(r[TOTAL_OUT])} so far, ${f.byteRate(r[BYTES_OUT])}`),
      tile("Busy", f.percent(r[BUSY]), shares(r[BUSY], r[BP])),
      tile("Back pressure", over ? f.NONE : f.percent(r[BP]), over ? "" : f.pressure(r[BP]).toUpperCase(), "p-" + f.pressure(r[BP])),
      tile("Watermark lag", r[WM_OUT] >= f.END ? "end of input" : lag === null ? "none yet" : f.lag(lag), `in ${f.watermark(r[WM_IN])}, out ${f.watermark(r[WM_OUT])}`),
      tile("Queued", f.count(r[QUEUED]), `${f.bytes(r[QUEUED_BYTES])}, ${f.count(r[LATE])} dropped late`),
      tile("State", f.bytes(figures.state), figures.state === null ? "not known" : "keys and values", "", "Looked at every 10 s. Of a large state only a part each time: then it is an estimate, and may be some minutes old."),
      tile("Bundles", f.count(figures.bundles), `${f.count(r[FAILED])} failed, ${f.count(figures.splits)} splits`, r[FAILED] > 0 ? "hot" : "")),
    h("section", { class: "charts", "data-key": "charts", "aria-label": "Last 15 minutes" }, charts.filter((c) => c.title !== "Outside" || withOutside).map((c) => c.holder())),
    h("h2", { "data-key": "h-sub" }, "Subtasks"),
    table({
      label: "Subtasks", cls: "cards", rows: figures.subtasks, key: (_, k) => "sub" + k, empty: "The job does not run.",
      columns: [
        { head: "Slot", cell: (_, k) => h("span", { class: "main" }, String(k)) },
        { head: "In", cls: "n", cell: (t) => (stage.inputs.length ? f.rate(t[0]) : f.NONE) },
        { head: "Out", cls: "n", cell: (t) => f.rate(t[1]) },
        { head: "Busy", cell: (t) => h("span", { class: "busy" }, shares(t[2], t[3]), h("small", {}, f.percent(t[2]))) },
        { head: "Back pressure", cell: (t) => (over ? f.NONE : pressure(t[3])) },
        { head: "Queued", cls: "n", cell: (t) => [f.count(t[4]), t[5] > 0 && h("small", {}, " " + f.bytes(t[5]))] },
        { head: "Outside", cls: "n", cell: (t) => f.count(t[6]) },
        { head: "Running", cls: "n", title: "bundles", cell: (t) => f.count(t[7]) },
        { head: "Records in", cls: "n", cell: (t) => f.whole(t[8]) },
        { head: "Records out", cls: "n", cell: (t) => f.whole(t[9]) },
      ],
    }),
    h("div", { class: "grid two", "data-key": "more" },
      h("section", {}, h("h2", {}, "Transforms ", h("small", {}, `${stage.transforms.length} fused`)),
        h("ol", { class: "card list mono" }, stage.transforms.map((t) => h("li", {}, t)))),
      h("section", {}, h("h2", {}, "Metrics of its code"), userTable(metrics, stage.kind === "user"))),
    stage.environment && [h("h2", { "data-key": "h-har" }, "Harness"), harnessTable(harnesses.list, now, over ? "The job has ended, and its harnesses with it." : "The functions of this stage are linked into the runner: it needs no harness.")],
  ];
}

function links(text, job, list) {
  if (!list.length) return null;
  return h("span", {}, text + " ", list.map((l, k) => [k > 0 && ", ", h("a", { href: stageLink(job.id, l.id), title: l.name }, f.split(l.name)[0]), l.keyed && h("small", {}, " by key")]));
}

function userTable(metrics, user) {
  if (!user) return h("p", { class: "none" }, "The runner itself runs this stage.");
  if (!metrics?.length) return h("p", { class: "none" }, metrics ? "Its functions count nothing." : "Loading \u2026");
  return table({
    label: "Metrics of user code", rows: metrics, key: (m) => m.name,
    columns: [{ head: "Name", cell: (m) => h("span", { class: "mono wrap" }, m.name) }, { head: "Type", cell: (m) => m.type }, { head: "Value", cls: "n", cell: (m) => m.value }],
  });
}
