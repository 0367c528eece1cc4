// Elements, and changing a page in place so that focus, selection and scrolling stay where they are.

const SVG = "http://www.w3.org/2000/svg";

function build(el, attrs, children) {
  for (const [k, v] of Object.entries(attrs || {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith("on")) el[k] = v;
    else if (k === "style") for (const [p, x] of Object.entries(v)) el.style.setProperty(p, x);
    else el.setAttribute(k, v === true ? "" : v);
  }
  append(el, children);
  return el;
}

function append(el, children) {
  for (const c of children) {
    if (c === undefined || c === null || c === false) continue;
    if (Array.isArray(c)) append(el, c);
    else el.append(c);
  }
}

// h makes an HTML element, s one of SVG. Attributes that begin with "on" are handlers, style is an object of properties.
export const h = (tag, attrs, ...children) => build(document.createElement(tag), attrs, children);
export const s = (tag, attrs, ...children) => build(document.createElementNS(SVG, tag), attrs, children);

const HANDLERS = ["onclick", "onchange", "oninput", "onkeydown", "onsubmit", "onpointermove", "onpointerleave"];

// morph makes the element a like b. Elements with data-keep are left alone: who made them changes them. Children with
// data-key stay the same element wherever they move.
export function morph(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName || a.dataset?.key !== b.dataset?.key) {
    a.replaceWith(b);
    return;
  }
  if (a.nodeType === Node.TEXT_NODE) {
    if (a.data !== b.data) a.data = b.data;
    return;
  }
  if (a.nodeType !== Node.ELEMENT_NODE || (a.dataset?.keep && a.dataset.keep === b.dataset?.keep)) return;
  for (const { name } of [...a.attributes]) if (name !== "style" && name !== "open" && !b.hasAttribute(name)) a.removeAttribute(name);
  for (const { name, value } of b.attributes) if (name !== "style" && a.getAttribute(name) !== value) a.setAttribute(name, value);
  if (a.style && a.style.cssText !== b.style.cssText) a.style.cssText = b.style.cssText;
  for (const k of HANDLERS) if (a[k] !== b[k]) a[k] = b[k];
  morphChildren(a, [...b.childNodes]);
}

export function morphChildren(a, want) {
  const keyed = new Map();
  for (const c of a.children) if (c.dataset.key) keyed.set(c.dataset.key, c);
  let at = a.firstChild;
  for (const w of want) {
    const key = w.dataset?.key;
    let have = key ? keyed.get(key) : at;
    if (key && have && have !== at) a.insertBefore(have, at);
    if (!have || (!key && have.dataset?.key)) {
      a.insertBefore(w, at);
      continue;
    }
    at = have.nextSibling;
    morph(have, w);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// show puts children into el, changing what is there.
export function show(el, ...children) {
  const flat = [];
  const add = (list) => list.forEach((c) => (Array.isArray(c) ? add(c) : c !== undefined && c !== null && c !== false && flat.push(typeof c === "object" ? c : document.createTextNode(c))));
  add(children);
  morphChildren(el, flat);
}

// kept puts el into a page that changes: what renders again gets an empty stand-in, which leaves el where it is.
export const kept = (key, el, attrs) => h("div", { ...attrs, "data-key": key, "data-keep": key }, el.isConnected ? null : el);

// id of a new element that others refer to.
let last = 0;
export const newID = () => "n" + ++last;
