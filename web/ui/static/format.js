// Figures for people. What is not known is a dash.

export const NONE = "\u2013"; // en dash
const known = (v) => v !== null && v !== undefined && !Number.isNaN(v);

// count: 0, 7, 950, 1.2k, 12.3k, 4.56M.
export function count(v) {
  if (!known(v)) return NONE;
  const a = Math.abs(v);
  if (a > 0 && a < 0.05) return "< 0.1";
  if (a < 1000) return a > 0 && a < 10 && v % 1 ? v.toFixed(1) : String(Math.round(v));
  const units = ["k", "M", "G", "T", "P"];
  let k = -1, x = v;
  while (Math.abs(x) >= 999.5 && k < units.length - 1) { x /= 1000; k++; }
  return (Math.abs(x) < 9.995 ? x.toFixed(2) : Math.abs(x) < 99.95 ? x.toFixed(1) : Math.round(x)) + units[k];
}

export const rate = (v) => (known(v) ? count(v) + "/s" : NONE);

// whole has all digits, in groups.
export const whole = (v) => (known(v) ? Math.round(v).toLocaleString("en-US") : NONE);

// bytes in powers of 1024, named as people do.
export function bytes(v) {
  if (!known(v)) return NONE;
  const units = ["B", "KB", "MB", "GB", "TB"];
  let k = 0, x = v;
  while (Math.abs(x) >= 1023.5 && k < units.length - 1) { x /= 1024; k++; }
  return (k === 0 ? Math.round(x) : Math.abs(x) < 9.95 ? x.toFixed(1) : Math.round(x)) + " " + units[k];
}

export const byteRate = (v) => (known(v) ? bytes(v) + "/s" : NONE);

// span of ms: 0.8 ms, 12 ms, 3.4 s, 2 min 5 s, 3 h 12 min, 4 d 2 h.
export function span(ms) {
  if (!known(ms)) return NONE;
  if (ms < 0) ms = 0;
  if (ms < 9.95) return (ms === 0 ? "0" : ms.toFixed(1)) + " ms";
  if (ms < 999.5) return Math.round(ms) + " ms";
  const sec = ms / 1000;
  if (sec < 9.95) return sec.toFixed(1) + " s";
  if (sec < 59.5) return Math.round(sec) + " s";
  const all = Math.round(sec), m = Math.floor(all / 60), hr = Math.floor(m / 60), d = Math.floor(hr / 24);
  if (hr === 0) return m + " min" + (all % 60 && m < 10 ? " " + (all % 60) + " s" : "");
  if (d === 0) return hr + " h" + (m % 60 ? " " + (m % 60) + " min" : "");
  return d + " d" + (hr % 24 ? " " + (hr % 24) + " h" : "");
}

// lag is a span, coarse enough not to flicker.
export const lag = (ms) => (known(ms) ? (ms < 1000 ? "< 1 s" : span(ms)) : NONE);

export const ago = (at, now) => (at > 0 ? (now - at < 1500 ? "now" : span(now - at) + " ago") : NONE);

export const percent = (v) => (known(v) ? Math.round(100 * v) + " %" : NONE);

const two = (n) => String(n).padStart(2, "0");

// clock time, with the day if it is not today.
export function time(ms) {
  if (!(ms > 0)) return NONE;
  const d = new Date(ms), clock = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  if (new Date().toDateString() === d.toDateString()) return clock;
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock}`;
}

export const END = 8.64e15; // a watermark: nothing more will come

export function watermark(ms) {
  if (!known(ms)) return "none yet";
  return ms >= END ? "end of input" : time(ms);
}

// A stage's name is the path of a transform: the first part is what its author has named.
export function split(name) {
  const k = name.indexOf("/");
  return k < 0 ? [name, ""] : [name.slice(0, k), name.slice(k + 1)];
}

// clip shortens to n characters: of the end if from is "end".
export function clip(text, n, from) {
  if (text.length <= n) return text;
  return from === "end" ? "\u2026" + text.slice(text.length - n + 1) : text.slice(0, n - 1) + "\u2026";
}

// pressure names a share of back-pressured time, with Flink's bounds.
export function pressure(v) {
  if (!(v > 0.1)) return "ok";
  return v > 0.5 ? "high" : "low";
}
