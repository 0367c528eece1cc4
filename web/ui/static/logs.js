// The log, live, with filters. They stand in the URL, so that a view of it can be passed on.
import { h, s, kept } from "./dom.js";
import { jobHead, show } from "./parts.js";
import { watch } from "./live.js";

const KEPT = 2500; // lines in the page
const LEVELS = ["DEBUG", "INFO", "WARN", "ERROR"];

// rank of a level: slog writes what lies between two as INFO+2.
const rank = (level) => Math.max(0, LEVELS.findLastIndex((l) => level.startsWith(l)));

const two = (n) => String(n).padStart(2, "0");
function clock(text) {
  const d = new Date(text);
  return isNaN(d) ? "" : `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, "0")}`;
}

const pairs = (l) => { const out = []; for (let k = 0; k + 1 < (l.attrs || []).length; k += 2) out.push([l.attrs[k], l.attrs[k + 1]]); return out; };

// logLine is one record. Attributes follow the text.
export function logLine(l, hide = ["job", "worker", "harness"]) {
  const level = LEVELS[rank(l.level)];
  return h("div", { class: "ll l-" + level, "data-key": "l" + l.n }, h("time", { datetime: l.time, title: l.time }, clock(l.time)), h("b", {}, l.level || "INFO"),
    h("span", {}, l.text, pairs(l).filter(([k]) => !hide.includes(k)).map(([k, v]) => h("span", { class: "attr", title: k === "at" ? v : undefined }, " ", h("i", {}, k + "="), k === "at" ? v.slice(v.lastIndexOf("/") + 1) : v))));
}

export function page([id], query) {
  const filter = { level: query.get("level") || "", text: query.get("text") || "", job: id || query.get("job") || "" };
  const lines = [], list = h("div", { class: "loglines card tall", tabindex: "0", role: "log", "aria-label": "Log", "aria-live": "off" });
  let follow = true, lost = 0, jobs = new Set(), seen = -1;
  const note = h("p", { class: "muted lognote", role: "status" });

  const hit = (l) => {
    if (filter.level && rank(l.level) < LEVELS.indexOf(filter.level)) return false;
    if (filter.job && l.job !== filter.job) return false;
    return !filter.text || l.hay.includes(filter.text.toLowerCase());
  };
  const hidden = filter.job ? ["job"] : [];
  const draw = () => {
    list.replaceChildren(...lines.filter(hit).map((l) => logLine(l, hidden)));
    told();
    if (follow) list.scrollTop = list.scrollHeight;
  };
  const told = () => {
    const shown = list.childElementCount;
    note.textContent = `${shown} of ${lines.length} lines` + (lost ? `, ${lost} were too many to keep` : "") + (follow ? "" : ". Paused: scroll to the end to follow");
  };
  const refine = () => {
    const q = new URLSearchParams(Object.entries(filter).filter(([k, v]) => v && !(id && k === "job")));
    history.replaceState(null, "", location.hash.split("?")[0] + (q.size ? "?" + q : ""));
    draw();
  };
  const add = (o) => {
    lost += o.lost || 0;
    const fresh = o.lines.filter((l) => l.n > seen);
    for (const l of fresh) {
      seen = l.n;
      const p = pairs(l);
      l.job = p.find(([k]) => k === "job")?.[1] || "";
      l.hay = [l.text, ...p.flat()].join(" ").toLowerCase();
      lines.push(l);
      if (l.job && !jobs.has(l.job)) { jobs.add(l.job); options(); }
    }
    const over = lines.length - KEPT;
    if (over > 0) lines.splice(0, over);
    list.append(...fresh.filter(hit).map((l) => logLine(l, hidden)));
    while (list.childElementCount > KEPT) list.firstChild.remove();
    if (follow) list.scrollTop = list.scrollHeight;
    told();
  };
  list.addEventListener("scroll", () => {
    follow = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
    told();
  });

  const level = h("select", { "aria-label": "Least level", onchange: (e) => { filter.level = e.target.value; refine(); } },
    [["", "All levels"], ...LEVELS.map((l) => [l, l + " and above"])].map(([v, t]) => h("option", { value: v, selected: v === filter.level }, t)));
  const text = h("input", { type: "search", placeholder: "Text, worker, transform \u2026", value: filter.text, "aria-label": "Text in the line", oninput: (e) => { filter.text = e.target.value; refine(); } });
  const job = h("select", { "aria-label": "Job", onchange: (e) => { filter.job = e.target.value; refine(); } });
  const options = () => job.replaceChildren(...["", ...new Set([...jobs, filter.job].filter(Boolean))].map((j) => h("option", { value: j, selected: j === filter.job }, j || "All jobs and the runner")));
  options();
  const bar = h("div", { class: "filters", role: "search" }, level, !id && job, text, note);

  // The page of a job shows the job's figures, too: a second stream.
  let state = null, stopJob = () => {};
  if (id) stopJob = watch(`ui/live/jobs/${encodeURIComponent(id)}/errors`, { update: (st) => { state = st; if (bar.isConnected) show(bar.closest("main"), body()); }, status: () => {} });
  const body = () => [
    id ? (state?.job ? jobHead(state.job, state.now, "logs") : h("div", { "data-key": "head" })) : h("div", { class: "row head" }, h("h1", { tabindex: "-1" }, "Logs ", h("small", {}, "the runner and its harnesses"))),
    kept("filters", bar), kept("lines", list),
  ];
  return {
    path: "ui/live/logs",
    title: () => ["Logs", state?.job?.name].filter(Boolean).join(" \u00b7 "),
    line: (o) => o.t === "logs" && add(o),
    render: (st) => st.logs && body(),
    drawn: () => { if (follow) list.scrollTop = list.scrollHeight; },
    stop: stopJob,
  };
}
