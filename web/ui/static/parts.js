// What several pages have in common.
import { h, s, show } from "./dom.js";
import * as f from "./format.js";
import * as api from "./api.js";

// Each state has a shape of its own, so that colour is never all that tells.
const SHAPES = {
  RUNNING: ["run", "M5 3.5v9l7.5-4.5z", "running"],
  FINISHED: ["done", "M3.5 8.5l3 3 6-7", "finished"],
  FAILED: ["bad", "M4 4l8 8M12 4l-8 8", "failed"],
  CANCELED: ["off", "M4 8h8", "cancelled"],
  CANCELLING: ["off", "M4 8h8", "cancelling"],
  SUSPENDED: ["off", "M5.5 4v8M10.5 4v8", "suspended"],
  COMPLETED: ["done", "M3.5 8.5l3 3 6-7", "complete"],
  IN_PROGRESS: ["off", "M8 4v4l3 2", "in progress"],
  INITIALIZING: ["off", "M8 4v4l3 2", "starting"],
};

export function state(name, draining) {
  const [cls, path, text] = SHAPES[name] || ["off", "M4 8h8", name.toLowerCase()];
  return h("span", { class: "state " + cls }, s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: path })), draining ? "draining" : text);
}

// shares of time as one bar: busy is solid, back-pressured hatched, idle empty.
export function shares(busy, bp) {
  const text = `busy ${f.percent(busy)}, back-pressured ${f.percent(bp)}`;
  return h("span", { class: "shares", role: "img", "aria-label": text, title: text },
    h("i", { class: "b", style: { width: 100 * (busy || 0) + "%" } }), h("i", { class: "p", style: { width: 100 * (bp || 0) + "%" } }));
}

// gauge shows how much of a limit is in use.
export function gauge(used, limit, label) {
  const share = limit > 0 ? Math.min(1, (used || 0) / limit) : 0;
  return h("span", { class: "gauge" + (share > 0.9 ? " hot" : ""), role: "img", "aria-label": `${label || ""} ${f.percent(share)} of ${f.bytes(limit)}`.trim() },
    h("i", { style: { width: 100 * share + "%" } }));
}

export function pressure(v) {
  if (v === null || v === undefined) return f.NONE;
  const level = f.pressure(v);
  return h("span", { class: "pressure " + level }, level === "ok" ? "OK" : level.toUpperCase(), " ", h("small", {}, f.percent(v)));
}

export const tile = (label, value, note, cls, title) =>
  h("div", { class: "tile " + (cls || ""), title }, h("dt", {}, label), h("dd", {}, value, note && h("small", {}, note)));

// table of columns {head, cell(row), cls, sort}; on narrow screens each row is a card, with the heads as labels.
export function table({ label, columns, rows, key, cls, empty, rowCls }) {
  if (!rows.length && empty) return h("p", { class: "none" }, empty);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h("table", { class: cls || "" },
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.cls || "", title: c.title }, c.head)))),
      h("tbody", {}, rows.map((r, k) => h("tr", { "data-key": key ? key(r, k) : undefined, class: rowCls?.(r) || undefined },
        columns.map((c, n) => h(n === 0 ? "th" : "td", { class: c.cls || "", scope: n === 0 ? "row" : undefined, "data-label": typeof c.head === "string" ? c.head : c.label }, c.cell(r, k))))))));
}

// sparkline of the newest points; decoration, as the figure stands beside it.
export function spark(values) {
  const v = (values || []).slice(-45);
  if (v.length < 3) return h("span", { class: "spark" });
  const top = Math.max(...v.map((x) => x || 0)) || 1;
  const d = v.map((x, k) => `${k ? "L" : "M"}${((k / (v.length - 1)) * 80).toFixed(1)} ${(22 - ((x || 0) / top) * 20).toFixed(1)}`).join("");
  return h("span", { class: "spark" }, s("svg", { viewBox: "0 0 80 24", "aria-hidden": "true", preserveAspectRatio: "none" }, s("path", { class: "area", d: d + "L80 24L0 24Z" }), s("path", { class: "line", d })));
}

export const ended = (job) => job.end >= 0;
export const uptime = (job, now) => f.span((ended(job) ? job.end : now) - job.start);

export function lastCheckpoint(job, now) {
  if (!job.checkpointing) return h("span", { class: "muted" }, "off");
  if (!job.cp) return h("span", { class: "muted" }, "none yet");
  return h("span", {}, f.ago(job.cp.end, now), h("small", {}, ` ${f.span(job.cp.end - job.cp.start)}, ${f.bytes(job.cp.size)}`));
}

const TABS = [["graph", "Graph"], ["checkpoints", "Checkpoints"], ["errors", "Errors"], ["harnesses", "Harnesses"], ["logs", "Logs"]];

export const jobLink = (id, tab) => `#/jobs/${encodeURIComponent(id)}${tab && tab !== "graph" ? "/" + tab : ""}`;
export const stageLink = (job, stage) => `#/jobs/${encodeURIComponent(job)}/stages/${stage}`;

function button(text, what, { job, why, cls }) {
  return h("button", { class: cls || "", disabled: !!why, title: why || undefined, onclick: why ? undefined : () => what(job) }, text);
}

// jobHead is the upper part of all pages of a job.
export function jobHead(job, now, tab) {
  const over = ended(job) ? "the job has ended" : job.state !== "RUNNING" ? "the job does not run yet" : "";
  const why = api.about.readOnly ? "this server is read-only: it was started with --read_only" : over;
  const noStore = why || (job.checkpointing ? "" : "this server makes no checkpoints: start it with --checkpoints file:///DIR or s3://BUCKET/PREFIX");
  const early = api.about.readOnly ? why : ended(job) ? over : "";
  return h("div", { class: "jobhead", "data-key": "head" },
    h("div", { class: "row" },
      h("div", { class: "title" }, h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Jobs"), " / ", h("span", { class: "mono" }, job.id)),
        h("h1", { tabindex: "-1" }, job.name, " ", state(job.state, job.draining))),
      h("div", { class: "actions", role: "group", "aria-label": "Actions" },
        button("Checkpoint", api.checkpoint, { job, why: noStore }), button("Savepoint", api.savepoint, { job, why: noStore }),
        button("Rescale", api.rescale, { job, why }), button("Stop", api.stop, { job, why: noStore }),
        button("Cancel", api.cancel, { job, why: early, cls: "danger" }))),
    api.about.readOnly && h("p", { class: "note" }, "This server is read-only: nothing can be changed from here."),
    h("dl", { class: "tiles" },
      tile("Records", f.rate(job.rate), "busiest stage"),
      tile("Watermark lag", f.lag(job.lag), job.streaming ? "furthest behind" : "batch"),
      tile("Back pressure", ended(job) ? f.NONE : f.percent(job.bp), ended(job) ? "" : { ok: "OK", low: "LOW", high: "HIGH" }[f.pressure(job.bp)], "p-" + f.pressure(job.bp)),
      tile("Between stages", f.bytes(job.queued), job.backlog === null ? "queued" : `queued, ${f.count(job.backlog)} outside`),
      tile("Checkpoint", job.cp ? f.ago(job.cp.end, now) : job.checkpointing ? "none yet" : "off", job.cp ? `${f.span(job.cp.end - job.cp.start)}, ${f.bytes(job.cp.size)}` : ""),
      tile(ended(job) ? "Ran for" : "Up for", uptime(job, now), "since " + f.time(job.start)),
      tile("Slots", String(job.slots), `${job.stages} ${job.stages === 1 ? "stage" : "stages"}`),
      tile("Restarts", String(job.restarts), job.failures ? `${job.failures} ${job.failures === 1 ? "error" : "errors"}` : "no errors", job.failures ? "hot" : "")),
    job.error && tab !== "errors" && h("p", { class: "note bad" }, h("b", {}, "Last error "), f.clip(job.error, 240), " ", h("a", { href: jobLink(job.id, "errors") }, "Show it")),
    h("nav", { class: "tabs", "aria-label": "Job" }, TABS.map(([id, text]) =>
      h("a", { href: jobLink(job.id, id), "aria-current": id === tab ? "page" : undefined }, text, id === "errors" && job.failures > 0 && h("span", { class: "num" }, String(job.failures))))));
}

export const kinds = { user: "your code", impulse: "impulse", "group by key": "group by key", source: "source", sink: "sink", "test stream": "test stream", SideInput: "side input" };

export { show };
