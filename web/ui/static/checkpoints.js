// The checkpoints of a job.
import { h, s } from "./dom.js";
import * as f from "./format.js";
import { jobHead, table, tile, state } from "./parts.js";

export function page([id]) {
  return {
    path: `ui/live/jobs/${encodeURIComponent(id)}/checkpoints`,
    title: (st) => st.job && `Checkpoints \u00b7 ${st.job.name}`,
    render: (st) => st.checkpoints && view(st),
  };
}

const took = (c, now) => (c.end >= 0 ? c.end : now) - c.start;

function view({ job, checkpoints: c, now }) {
  const done = c.list.filter((x) => x.status === "COMPLETED");
  const mean = (pick) => (done.length ? done.reduce((a, x) => a + pick(x), 0) / done.length : null);
  const head = jobHead(job, now, "checkpoints");
  if (!c.enabled) {
    return [head, h("p", { class: "none" }, "This job makes no checkpoints: it ends with the process, and its state with it. Start the server with ",
      h("code", {}, "--checkpoints file:///DIR"), " or ", h("code", {}, "s3://BUCKET/PREFIX"), " to keep jobs.")];
  }
  return [
    head,
    h("dl", { class: "tiles", "data-key": "tiles" },
      tile("Completed", f.whole(c.completed), `of ${f.whole(c.total)}`),
      tile("Failed", f.whole(c.failed), c.inProgress ? `${c.inProgress} in progress` : "none in progress", c.failed ? "hot" : ""),
      tile("Duration", f.span(mean((x) => took(x, now))), "mean"),
      tile("Pause of commits", f.span(mean((x) => x.pause)), "mean"),
      tile("Uploaded", f.bytes(mean((x) => x.up)), "mean, of " + f.bytes(mean((x) => x.size))),
      tile("Interval", f.span(c.interval), ""),
      tile("Began from", c.from ? `checkpoint ${c.from.id}` : "the beginning", c.from ? f.ago(c.from.restored, now) : "nothing was restored")),
    h("p", { class: "muted place" }, "They lie at ", h("span", { class: "mono" }, c.location)),
    done.length > 1 && h("section", { class: "charts", "data-key": "charts" },
      bars("Duration", done, (x) => took(x, now), f.span), bars("Size", done, (x) => x.size, f.bytes, (x) => x.up), bars("Pause of commits", done, (x) => x.pause, f.span)),
    h("h2", {}, "History ", h("small", {}, "the newest ", String(c.list.length))),
    table({
      label: "Checkpoints", cls: "cards", rows: c.list, key: (x) => "c" + x.id, empty: "None yet.",
      columns: [
        { head: "Checkpoint", cell: (x) => [h("span", { class: "main" }, String(x.id)), x.savepoint && h("small", { class: "under mono" }, "savepoint ", x.savepoint), x.error && h("small", { class: "bad under" }, f.clip(x.error, 300))] },
        { head: "State", cell: (x) => state(x.status) },
        { head: "Began", cls: "n", cell: (x) => [f.time(x.start), h("small", {}, " " + f.ago(x.start, now))] },
        { head: "Took", cls: "n", cell: (x) => f.span(took(x, now)) },
        { head: "Pause", cls: "n", title: "how long commits waited for it", cell: (x) => (x.status === "COMPLETED" ? f.span(x.pause) : f.NONE) },
        { head: "Size", cls: "n", cell: (x) => (x.status === "COMPLETED" ? f.bytes(x.size) : f.NONE) },
        { head: "Uploaded", cls: "n", title: "what the store did not have", cell: (x) => (x.status === "COMPLETED" ? f.bytes(x.up) : f.NONE) },
        { head: "In flight", cls: "n", title: "records between stages", cell: (x) => (x.status === "COMPLETED" ? [f.whole(x.inflight), x.bytes > 0 && h("small", {}, " " + f.bytes(x.bytes))] : f.NONE) },
      ],
    }),
  ];
}

// bars of checkpoints, oldest first; part is a share of the value that stands out.
function bars(title, list, value, format, part) {
  const v = list.slice(0, 60).reverse(), top = Math.max(...v.map(value)) || 1, w = 100 / Math.max(20, v.length);
  const rect = (x, k, n, cls) => s("rect", { class: cls, x: (k * w).toFixed(2), y: (100 - (100 * n) / top).toFixed(2), width: (w * 0.72).toFixed(2), height: ((100 * n) / top).toFixed(2) }, s("title", {}, `${x.id}: ${format(value(x))}`));
  return h("figure", { class: "chart" }, h("figcaption", {}, h("b", {}, title), h("small", {}, ` most ${format(top)}`), h("output", {}, format(value(v.at(-1))))),
    s("svg", { class: "bars", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": `${title} of the last ${v.length} checkpoints: newest ${format(value(v.at(-1)))}, most ${format(top)}` },
      v.map((x, k) => [rect(x, k, value(x), part ? "bar soft" : "bar"), part && rect(x, k, Math.min(part(x), value(x)), "bar")])),
    part && h("ul", { class: "legend" }, h("li", {}, h("i", { class: "b" }), "uploaded"), h("li", {}, h("i", { class: "soft" }), "already there")));
}
