// Line charts of the last 15 minutes, drawn by hand.
import { h, s, kept } from "./dom.js";
import { time, NONE } from "./format.js";

const H = 112, TOP = 8, BOTTOM = 18, LEFT = 4;

// Chart of series [key in the history, name, class]; base is 1024 for bytes. Values that are not known are gaps.
export class Chart {
  constructor({ title, note, format, series, max, base }) {
    Object.assign(this, { format, series, max, title, base: base || 10 });
    this.read = h("output", {});
    this.svg = s("svg", { tabindex: "0", role: "img" });
    this.el = h("figure", { class: "chart" },
      h("figcaption", {}, h("b", {}, title), note && h("small", {}, " " + note), this.read), this.svg,
      series.length > 1 && h("ul", { class: "legend" }, series.map(([, name, cls]) => h("li", {}, h("i", { class: "line " + (cls || "") }), name))));
    this.svg.addEventListener("pointermove", (e) => this.point(e.clientX - this.svg.getBoundingClientRect().x));
    this.svg.addEventListener("pointerleave", () => this.pick(null));
    this.svg.addEventListener("blur", () => this.pick(null));
    this.svg.addEventListener("keydown", (e) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
      if (!by || !this.data) return;
      e.preventDefault();
      this.pick(Math.max(0, Math.min(this.n - 1, (this.at ?? this.n) + by)));
    });
    new ResizeObserver(() => this.draw()).observe(this.el);
  }

  // holder is what a page renders; the chart itself is never made anew.
  holder() { return kept(this.title, this.el); }

  update(history) {
    if (!history || history === this.data) return;
    this.data = history;
    this.draw();
  }

  x(k) { return LEFT + ((90 - this.n + k) / 89) * (this.w - 2 * LEFT); }

  draw() {
    const w = (this.w = this.el.clientWidth), data = this.data;
    if (!w || !data) return;
    const values = this.series.map(([key]) => data.series[key] || []);
    this.n = Math.max(...values.map((v) => v.length), 0);
    this.values = values;
    const all = values.flat().filter((v) => v !== null);
    const top = this.max || nice(Math.max(...all, 0), this.base);
    const y = (v) => TOP + (1 - Math.min(1, v / top)) * (H - TOP - BOTTOM);
    const parts = [0, 0.5, 1].map((q) => s("line", { class: "grid", x1: 0, x2: w, y1: y(top * q), y2: y(top * q) }));
    parts.push(s("text", { class: "axis", x: 0, y: y(top) + 10 }, all.length ? this.format(top) : ""));
    for (const [k, label] of [[0, "15 min"], [45, "7.5 min"], [89, "now"]]) parts.push(s("text", { class: "axis", x: LEFT + (k / 89) * (w - 2 * LEFT), y: H - 4, "text-anchor": k === 0 ? "start" : k === 89 ? "end" : "middle" }, label));
    values.forEach((v, i) => {
      let d = "", pen = false, from = 0;
      const cls = this.series[i][2] || "";
      const area = (k) => this.series.length === 1 && k - from > 1 && parts.push(s("path", { class: "area " + cls, d: path(from, k) + `L${this.x(k - 1)} ${y(0)}L${this.x(from)} ${y(0)}Z` }));
      const path = (a, b) => { let p = ""; for (let k = a; k < b; k++) p += `${k === a ? "M" : "L"}${this.x(k).toFixed(1)} ${y(v[k]).toFixed(1)}`; return p; };
      for (let k = 0; k <= v.length; k++) {
        const ok = k < v.length && v[k] !== null;
        if (ok && !pen) from = k;
        if (!ok && pen) { area(k); d += path(from, k); if (k - from === 1) parts.push(s("circle", { class: "dot " + cls, cx: this.x(from), cy: y(v[from]), r: 1.8 })); }
        pen = ok;
      }
      parts.push(s("path", { class: "line " + cls, d }));
    });
    if (!all.length) parts.push(s("text", { class: "axis empty", x: w / 2, y: H / 2, "text-anchor": "middle" }, this.n ? "nothing known" : "first point within 10 s"));
    this.hair = s("line", { class: "hair", y1: TOP, y2: H - BOTTOM, visibility: "hidden" });
    parts.push(this.hair);
    this.svg.setAttribute("viewBox", `0 0 ${w} ${H}`);
    this.svg.setAttribute("height", H);
    this.svg.replaceChildren(...parts);
    this.pick(this.at ?? null);
    this.svg.setAttribute("aria-label", `${this.title}, last 15 minutes. ` + this.series.map(([, name], i) => {
      const known = values[i].filter((v) => v !== null);
      return known.length ? `${name}: now ${this.format(values[i].at(-1))}, least ${this.format(Math.min(...known))}, most ${this.format(Math.max(...known))}` : `${name}: nothing yet`;
    }).join(". "));
  }

  point(x) {
    if (!this.n) return;
    this.pick(Math.max(0, Math.min(this.n - 1, Math.round(((x - LEFT) / (this.w - 2 * LEFT)) * 89 - 90 + this.n))));
  }

  // pick tells the values of a point; null: those of the newest.
  pick(k) {
    this.at = k;
    if (!this.n) { this.read.textContent = ""; return; }
    const at = k ?? this.n - 1, show = (v) => (v === null || v === undefined ? NONE : this.format(v));
    const values = this.values.map((v) => show(v[at])).join(" / ");
    this.read.textContent = k === null ? values : `${time(this.data.end - (this.n - 1 - k) * this.data.step)}  ${values}`;
    this.hair?.setAttribute("visibility", k === null ? "hidden" : "visible");
    this.hair?.setAttribute("transform", `translate(${this.x(at).toFixed(1)} 0)`);
  }
}

// nice is a round number not below v, of bytes if the base is 1024.
function nice(v, base) {
  if (!(v > 0)) return 1;
  const unit = base === 10 ? 1 : base ** Math.floor(Math.log(v) / Math.log(base));
  const p = 10 ** Math.floor(Math.log10(v / unit)) * unit;
  return [1, 1.5, 2, 3, 4, 5, 7.5, 10].map((m) => m * p).find((x) => x >= v * 1.0001) || 10 * p;
}
