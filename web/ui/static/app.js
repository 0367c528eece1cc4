// The frame around all pages: routes, the connection, keyboard.
import { h, show } from "./dom.js";
import { watch } from "./live.js";
import { about, loadAbout } from "./api.js";

// Pages by the parts of the URL's hash. Each module has page(parameters), which returns what to watch and how to show it.
const ROUTES = [
  [/^\/?$/, "jobs", () => import("./jobs.js")],
  [/^\/jobs\/([^/]+)$/, "jobs", () => import("./graph.js")],
  [/^\/jobs\/([^/]+)\/stages\/([0-9a-f]+)$/, "jobs", () => import("./stage.js")],
  [/^\/jobs\/([^/]+)\/checkpoints$/, "jobs", () => import("./checkpoints.js")],
  [/^\/jobs\/([^/]+)\/errors$/, "jobs", () => import("./errors.js")],
  [/^\/jobs\/([^/]+)\/harnesses$/, "jobs", () => import("./harnesses.js")],
  [/^\/jobs\/([^/]+)\/logs$/, "jobs", () => import("./logs.js")],
  [/^\/harnesses$/, "harnesses", () => import("./harnesses.js")],
  [/^\/memory$/, "memory", () => import("./memory.js")],
  [/^\/logs$/, "logs", () => import("./logs.js")],
];

const main = document.getElementById("main");
const link = document.getElementById("link");
const lost = document.getElementById("lost");
let stop = () => {};
let present = "";

function connection(kind, detail, code) {
  link.className = "link " + kind;
  link.lastChild.textContent = kind === "live" ? "live" : kind === "lost" ? "lost" : "refused";
  lost.hidden = kind === "live";
  lost.textContent = kind === "lost" ? "Connection lost, trying again \u2026 What you see is as it was." : kind === "refused" ? (code === 404 ? detail + "." : `The server refused: ${detail}. Trying again \u2026`) : "";
  if (kind === "live" && connection.was === "lost") again();
  connection.was = kind;
}

// again is called when the server is back: it may be another version.
async function again() {
  const had = about.version;
  await loadAbout().catch(() => {});
  if (had && about.version !== had) location.reload();
}

async function go(first) {
  const [path, query] = location.hash.slice(1).split("?");
  for (const [pattern, nav, load] of ROUTES) {
    const m = pattern.exec(path);
    if (!m) continue;
    if (present === path && !first) return; // only the filter has changed: the page has done that itself
    stop();
    present = path;
    document.querySelectorAll("[data-nav]").forEach((a) => (a.dataset.nav === nav ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current")));
    const mine = present;
    const page = (await load()).page(m.slice(1).map(decodeURIComponent), new URLSearchParams(query));
    if (mine !== present) return;
    start(page, first);
    return;
  }
  stop();
  present = path;
  show(main, h("h1", { tabindex: "-1" }, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "All jobs")));
}

// start shows a page from now on.
function start(page, first) {
  let fresh = true;
  main.replaceChildren(h("p", { class: "loading" }, "Loading \u2026"));
  let newest;
  page.redraw = () => newest && draw(newest);
  const draw = (state) => {
    newest = state;
    const nodes = page.render(state);
    if (!nodes) return;
    if (fresh) main.replaceChildren();
    show(main, nodes);
    page.drawn?.(state);
    document.title = [page.title(state), "tinyrunner"].filter(Boolean).join(" \u00b7 ");
    if (fresh && !first) {
      scrollTo(0, 0);
      main.querySelector("h1")?.focus({ preventScroll: true });
    }
    fresh = false;
  };
  const end = watch(page.path, {
    update: draw, line: page.line,
    status: (kind, detail, code) => {
      connection(kind, detail, code);
      if (kind === "refused" && code === 404 && fresh) {
        main.replaceChildren(h("h1", { tabindex: "-1" }, "Not here"), h("p", {}, detail), h("p", {}, h("a", { href: "#/" }, "All jobs")));
      }
    },
  });
  stop = () => {
    end();
    page.stop?.();
  };
}

document.getElementById("skip").onclick = (e) => {
  e.preventDefault(); // the hash is the route
  main.focus();
};
addEventListener("hashchange", () => go(false));
loadAbout().then(() => (document.getElementById("readonly").hidden = !about.readOnly)).catch(() => {});
go(true);
