// The graph of a job's stages, with a table of the same figures below.
import { h, s, kept } from "./dom.js";
import * as f from "./format.js";
import { layout } from "./layout.js";
import { Chart } from "./chart.js";
import { jobHead, table, shares, pressure, stageLink, kinds, ended } from "./parts.js";

const SIZE = { width: 236, height: 96, gapX: 104, gapY: 26 };

// Columns of a stage's row, see row in liveviews.go.
export const IN = 0, OUT = 1, BYTES_IN = 2, BYTES_OUT = 3, BUSY = 4, BP = 5, WM_IN = 6, WM_OUT = 7, QUEUED = 8, QUEUED_BYTES = 9, BACKLOG = 10,
  RUNNING = 11, FAILED = 12, LATE = 13, TOTAL_IN = 14, TOTAL_OUT = 15, FINISHED = 16;

export const stageLag = (row, now) => (row[WM_OUT] === null || row[WM_OUT] >= f.END ? null : Math.max(0, now - row[WM_OUT]));

export function page([id]) {
  const graph = new Graph(id);
  let all = false; // whether the table shows all stages of a large job
  const charts = [
    new Chart({ title: "Records", note: "busiest stage", format: f.rate, series: [["rate", "records"]] }),
    new Chart({ title: "Watermark lag", note: "furthest behind", format: f.span, series: [["lag", "lag"]] }),
    new Chart({ title: "Back pressure", note: "of the stage with the most", format: f.percent, series: [["bp", "back pressure", "warm"]], max: 1 }),
  ];
  const self = {
    path: "ui/live/jobs/" + encodeURIComponent(id),
    title: (st) => st.job?.name,
    stop: () => graph.stop(),
    render: (st) => st.job && [
      jobHead(st.job, st.now, "graph"),
      kept("graph", graph.el, { class: "graphbox" }),
      h("section", { class: "charts three", "data-key": "charts", "aria-label": "Last 15 minutes" }, charts.map((c) => c.holder())),
      h("h2", { "data-key": "stages" }, "Stages"),
      stages(st, all),
      !all && st.graph.stages.length > FEW && h("p", { class: "more", "data-key": "more" }, h("button", { onclick: () => { all = true; self.redraw(); } }, `Show all ${st.graph.stages.length} stages`)),
    ],
    drawn(st) {
      graph.update(st);
      for (const c of charts) c.update(st.history);
    },
  };
  return self;
}

const FEW = 60; // stages in the table, unless somebody asks for more

function stages({ job, graph, rows, now }, all) {
  if (!graph.stages.length) return h("p", { class: "none" }, "This pipeline has no stages.");
  const list = graph.stages.slice(0, all ? Infinity : FEW).map((g, k) => ({ ...g, row: rows.rows[k] }));
  return table({
    label: "Stages", cls: "cards", rows: list, key: (g) => g.id,
    columns: [
      { head: "Stage", cell: (g) => [h("a", { class: "main", href: stageLink(job.id, g.id), title: g.name }, f.split(g.name)[0]), h("small", { class: "under", title: g.name }, f.clip(f.split(g.name)[1], 64, "end") || kinds[g.kind] || g.kind)] },
      { head: "In", cls: "n", cell: (g) => (g.in.length ? f.rate(g.row[IN]) : f.NONE) },
      { head: "Out", cls: "n", cell: (g) => f.rate(g.row[OUT]) },
      { head: "Busy", cell: (g) => h("span", { class: "busy" }, shares(g.row[BUSY], g.row[BP]), h("small", {}, f.percent(g.row[BUSY]))) },
      { head: "Back pressure", cell: (g) => (ended(job) ? f.NONE : pressure(g.row[BP])) },
      { head: "Watermark lag", cls: "n", cell: (g) => (g.row[WM_OUT] >= f.END ? "end of input" : f.lag(stageLag(g.row, now))) },
      { head: "Queued", cls: "n", cell: (g) => [f.count(g.row[QUEUED]), g.row[QUEUED_BYTES] > 0 && h("small", {}, " " + f.bytes(g.row[QUEUED_BYTES]))] },
      { head: "Outside", cls: "n", title: "records that a source knows to be waiting", cell: (g) => f.count(g.row[BACKLOG]) },
      { head: "Failed bundles", cls: "n", cell: (g) => f.count(g.row[FAILED]) },
    ],
  });
}

// Graph is the drawing. It is made once for a graph; updates change figures and colours.
class Graph {
  constructor(job) {
    this.job = job;
    this.nodes = [];
    this.scene = s("g", {});
    this.svg = s("svg", { role: "group", "aria-label": "Stages from left to right. Arrow keys go from stage to stage, Enter opens one, plus and minus zoom." },
      s("defs", {}, s("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("rect", { width: 6, height: 6, class: "hatch0" }), s("rect", { width: 3, height: 6, class: "hatch1" }))),
      this.scene);
    const tool = (text, label, act) => h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    this.el = h("div", { class: "graph" }, this.svg,
      h("div", { class: "zoom", role: "group", "aria-label": "Zoom" }, tool("+", "Zoom in", () => this.zoom(1.3)), tool("\u2212", "Zoom out", () => this.zoom(1 / 1.3)), tool("Fit", "Show the whole graph", () => { this.fit(0); this.touched = true; })),
      h("ul", { class: "legend", "aria-label": "Legend" }, h("li", {}, h("i", { class: "b" }), "busy"), h("li", {}, h("i", { class: "p" }), "back-pressured"), h("li", {}, h("i", {}), "idle")));
    this.pan();
    this.svg.addEventListener("keydown", (e) => this.key(e));
    this.resized = new ResizeObserver(() => this.made && !this.touched && this.fit());
    this.resized.observe(this.el);
  }

  stop() { this.resized.disconnect(); }

  update({ graph, rows, now, job }) {
    if (this.made !== graph) {
      const same = this.made && this.made.stages.map((g) => g.id).join() === graph.stages.map((g) => g.id).join();
      this.made = graph;
      if (!same) this.make(graph);
    }
    rows.rows.forEach((row, k) => this.figures(k, row, now, ended(job)));
    for (const e of this.edges) this.flow(e, rows.rows, now);
  }

  make(graph) {
    const l = (this.layout = layout(graph.stages.map((g) => g.in), SIZE));
    const fan = graph.stages.map(() => 0);
    graph.stages.forEach((g) => g.in.forEach((p) => fan[p]++));
    this.edges = l.edges.map((e) => {
      const end = e.points.at(-1), start = e.points.at(-2);
      const d = e.points.map(([x, y], k) => {
        if (!k) return `M${x} ${y}`;
        const [px, py] = e.points[k - 1], m = (x + px) / 2;
        return k % 2 ? `C${m} ${py} ${m} ${y} ${x} ${y}` : `L${x} ${y}`;
      }).join("");
      const text = s("text", { class: "rate", x: (start[0] + end[0]) / 2, y: (start[1] + end[1]) / 2 - 8 });
      const lag = s("text", { class: "lag", x: (start[0] + end[0]) / 2, y: (start[1] + end[1]) / 2 + 17 });
      // What goes along an edge is known where the producer has no other consumer, or the consumer no other producer.
      const by = graph.stages[e.to].in.length === 1 ? [e.to, IN] : fan[e.from] === 1 ? [e.from, OUT] : null;
      const ys = e.points.map((p) => p[1]), box = [e.points[0][0], Math.min(...ys) - 30, end[0], Math.max(...ys) + 30];
      return { ...e, box, by, text, lag, path: s("path", { class: "edge", d }), tip: s("path", { class: "tip", d: `M${end[0] - 7} ${end[1] - 5}L${end[0]} ${end[1]}L${end[0] - 7} ${end[1] + 5}` }) };
    });
    for (const e of this.edges) e.parts = [e.path, e.tip, e.text, e.lag];
    this.nodes = graph.stages.map((g, k) => this.node(g, l.nodes[k], k));
    for (const n of this.nodes) n.parts = [n.el];
    this.scene.replaceChildren(...this.edges.flatMap((e) => [e.path, e.tip, e.text, e.lag]), ...this.nodes.map((n) => n.el));
    this.nodes[0]?.el.setAttribute("tabindex", "0");
    this.touched = false;
    this.fit();
  }

  node(g, at, k) {
    const { width: w, height: hh } = SIZE, [first, rest] = f.split(g.name), kind = kinds[g.kind] || g.kind;
    const text = (cls, x, y, v) => s("text", { class: cls, x, y }, v || "");
    const n = { at, name: g.name, kind, root: !g.in.length };
    n.rates = text("fig", 14, 58);
    n.state = s("text", { class: "sub end", x: w - 12, y: 58, "text-anchor": "end" });
    n.busy = s("rect", { class: "b", x: 14, y: 67, height: 6, width: 0 });
    n.bp = s("rect", { class: "p", x: 14, y: 67, height: 6, width: 0, fill: "url(#hatch)" });
    n.foot = text("sub", 14, 87);
    n.box = s("rect", { class: "box", width: w, height: hh, rx: 8 });
    n.el = s("a", { class: "node", href: stageLink(this.job, g.id), transform: `translate(${at.x} ${at.y})`, tabindex: "-1" },
      n.box, s("rect", { class: "side", width: 5, height: hh, rx: 2.5 }),
      text("name", 14, 21, f.clip(first, 25)), text("sub path", 14, 37, rest ? f.clip(rest, 31, "end") : kind), text("far", 16, 52, f.clip(first, 17)),
      n.rates, n.state, s("rect", { class: "track", x: 14, y: 67, height: 6, width: w - 28, rx: 3 }), n.busy, n.bp, n.foot, s("title", {}, g.name));
    n.el.addEventListener("focus", () => this.focused(k));
    return n;
  }

  figures(k, row, now, over) {
    const n = this.nodes[k];
    if (!n || !row) return;
    const level = over ? "ok" : f.pressure(row[BP]), w = SIZE.width - 28;
    const done = row[FINISHED] === 1;
    set(n.el, "class", `node p-${level}${done ? " done" : ""}${row[RUNNING] > 0 ? " on" : ""}${n.gone ? " out" : ""}`);
    write(n.rates, n.root ? `out ${f.rate(row[OUT])}` : `in ${f.rate(row[IN])}  \u2192  out ${f.rate(row[OUT])}`);
    write(n.state, done ? "\u2713 done" : level === "ok" ? "" : `\u25b2 ${level === "high" ? "HIGH" : "LOW"} ${f.percent(row[BP])}`);
    set(n.busy, "width", (w * (row[BUSY] || 0)).toFixed(1));
    set(n.bp, "width", (w * (row[BP] || 0)).toFixed(1));
    set(n.bp, "x", (14 + w * (row[BUSY] || 0)).toFixed(1));
    const lag = stageLag(row, now);
    const foot = [`busy ${f.percent(row[BUSY])}`, row[QUEUED] > 0 && `${f.count(row[QUEUED])} queued`, row[BACKLOG] > 0 && `${f.count(row[BACKLOG])} outside`, lag !== null && `lag ${f.lag(lag)}`].filter(Boolean).join(" \u00b7 ");
    write(n.foot, f.clip(foot, 40));
    set(n.el, "aria-label", `${n.name}, ${n.kind}. In ${f.rate(row[IN])}, out ${f.rate(row[OUT])}. Busy ${f.percent(row[BUSY])}, back pressure ${f.percent(row[BP])}. ${lag === null ? "" : `Watermark lag ${f.lag(lag)}.`} ${row[QUEUED]} records queued.${done ? " Finished." : ""}`);
  }

  flow(e, rows, now) {
    const rate = e.by && rows[e.by[0]]?.[e.by[1]], from = rows[e.from];
    write(e.text, rate === null || rate === undefined || !e.by ? "" : f.rate(rate));
    const lag = from && stageLag(from, now);
    write(e.lag, from?.[WM_OUT] >= f.END ? "end" : lag === null || lag === undefined ? "" : "lag " + f.lag(lag));
    const level = from && from[FINISHED] !== 1 ? f.pressure(from[BP]) : "ok";
    const more = (rate > 0 ? " on" : "") + (e.gone ? " out" : "");
    set(e.path, "class", `edge e-${level}${more}`);
    set(e.tip, "class", `tip e-${level}${more}`);
    set(e.path, "stroke-width", (1.25 + Math.log10(1 + (rate || 0)) * 0.7).toFixed(2));
  }

  // fit shows the whole graph. At first it shows only so much of it that names can be read: people can move on from there.
  fit(least = 0.36) {
    const box = this.el.clientWidth, l = this.layout;
    if (!box || !l) return;
    const pad = 20, most = Math.max(260, innerHeight * 0.62);
    const full = Math.min(1, (box - 2 * pad) / l.width, (most - 2 * pad) / l.height);
    // On a phone a whole graph would be unreadable: begin at its left and let people move it.
    this.scale = Math.max(full, least && box < 430 ? 0.62 : least);
    const tools = 44; // below the graph, for the legend and the buttons
    const height = Math.max(150, Math.min(most, l.height * Math.max(this.scale, 0.36) + 2 * pad + tools));
    this.svg.style.height = height + "px";
    this.x = Math.max(pad, (box - l.width * this.scale) / 2);
    this.y = Math.max(pad, (height - tools - l.height * this.scale) / 2);
    this.touched = false;
    this.move();
  }

  move() {
    this.scene.setAttribute("transform", `translate(${this.x.toFixed(1)} ${this.y.toFixed(1)}) scale(${this.scale.toFixed(4)})`);
    const detail = this.scale >= 0.5 ? "" : this.scale >= 0.16 ? "mid" : "tiny";
    if (this.svg.getAttribute("class") !== detail) this.svg.setAttribute("class", detail);
    this.cull();
  }

  // cull leaves out what is out of sight: a large graph moves smoothly only so.
  cull() {
    const w = this.el.clientWidth / this.scale, hh = (parseFloat(this.svg.style.height) || 0) / this.scale, x = -this.x / this.scale, y = -this.y / this.scale, pad = 60;
    const out = (o, x0, y0, x1, y1) => {
      const gone = x1 < x - pad || x0 > x + w + pad || y1 < y - pad || y0 > y + hh + pad;
      if (gone === !!o.gone) return;
      o.gone = gone;
      for (const el of o.parts) el.classList.toggle("out", gone);
    };
    for (const n of this.nodes) out(n, n.at.x, n.at.y, n.at.x + SIZE.width, n.at.y + SIZE.height);
    for (const e of this.edges) out(e, e.box[0], e.box[1], e.box[2], e.box[3]);
  }

  zoom(by, cx = this.el.clientWidth / 2, cy = this.svg.clientHeight / 2) {
    const scale = Math.min(2, Math.max(0.03, this.scale * by));
    this.x = cx - ((cx - this.x) * scale) / this.scale;
    this.y = cy - ((cy - this.y) * scale) / this.scale;
    this.scale = scale;
    this.touched = true;
    this.move();
  }

  // pan moves with the pointer; two of them, or the wheel with Ctrl, zoom.
  pan() {
    const down = new Map();
    let moved = 0;
    this.svg.addEventListener("pointerdown", (e) => { down.set(e.pointerId, [e.clientX, e.clientY]); moved = 0; });
    this.svg.addEventListener("pointermove", (e) => {
      const old = down.get(e.pointerId);
      if (!old) return;
      const others = [...down].filter(([id]) => id !== e.pointerId).map(([, p]) => p);
      if (others.length) {
        const [ox, oy] = others[0], r = this.svg.getBoundingClientRect(), far = (x, y) => Math.hypot(x - ox, y - oy) || 1;
        this.zoom(far(e.clientX, e.clientY) / far(...old), (e.clientX + ox) / 2 - r.x, (e.clientY + oy) / 2 - r.y);
      } else {
        this.x += e.clientX - old[0];
        this.y += e.clientY - old[1];
        this.touched = true;
        this.move();
      }
      moved += Math.abs(e.clientX - old[0]) + Math.abs(e.clientY - old[1]);
      if (moved > 6 && !this.svg.hasPointerCapture(e.pointerId)) this.svg.setPointerCapture(e.pointerId);
      down.set(e.pointerId, [e.clientX, e.clientY]);
    });
    for (const end of ["pointerup", "pointercancel"]) this.svg.addEventListener(end, (e) => down.delete(e.pointerId));
    this.svg.addEventListener("click", (e) => moved > 6 && e.preventDefault(), true);
    this.svg.addEventListener("dragstart", (e) => e.preventDefault());
    this.svg.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && !e.metaKey) return;
      e.preventDefault();
      const r = this.svg.getBoundingClientRect();
      this.zoom(Math.exp(-e.deltaY / 300), e.clientX - r.x, e.clientY - r.y);
    }, { passive: false });
  }

  // focused makes a node the one that Tab comes back to, and moves it into sight.
  focused(k) {
    this.nodes.forEach((n, i) => n.el.setAttribute("tabindex", i === k ? "0" : "-1"));
    const { at } = this.nodes[k], w = this.el.clientWidth, hh = this.svg.clientHeight;
    const x = this.x + at.x * this.scale, y = this.y + at.y * this.scale, r = x + SIZE.width * this.scale, b = y + SIZE.height * this.scale;
    if (x < 8) this.x += 8 - x; else if (r > w - 8) this.x -= r - w + 8;
    if (y < 8) this.y += 8 - y; else if (b > hh - 8) this.y -= b - hh + 8;
    this.move();
  }

  key(e) {
    const zooms = { "+": 1.3, "=": 1.3, "-": 1 / 1.3 };
    if (zooms[e.key]) return this.zoom(zooms[e.key]);
    if (e.key === "0") return this.fit(0);
    const dir = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[e.key];
    const here = this.nodes.findIndex((n) => n.el === document.activeElement);
    if (!dir || here < 0) return;
    e.preventDefault();
    const from = this.nodes[here].at;
    let best = -1, least = Infinity;
    this.nodes.forEach(({ at }, k) => {
      const dx = at.x - from.x, dy = at.y - from.y, along = dx * dir[0] + dy * dir[1];
      if (k === here || along < 1) return;
      const cost = along + 2.5 * Math.abs(dir[0] ? dy : dx);
      if (cost < least) [least, best] = [cost, k];
    });
    this.nodes[best]?.el.focus({ preventScroll: true });
  }
}

const set = (el, k, v) => el.getAttribute(k) !== String(v) && el.setAttribute(k, v);
const write = (el, v) => el.textContent !== v && (el.textContent = v);
