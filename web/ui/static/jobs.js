// The list of jobs.
import { h } from "./dom.js";
import * as f from "./format.js";
import { about } from "./api.js";
import { state, table, spark, gauge, pressure, lastCheckpoint, uptime, ended, jobLink, tile } from "./parts.js";

export function page() {
  return { path: "ui/live/jobs", title: () => "Jobs", render: (st) => st.jobs && view(st.jobs, st.now) };
}

function view(o, now) {
  const groups = [["running", (j) => !ended(j)], ["failed", (j) => j.state === "FAILED"], ["ended", (j) => ended(j) && j.state !== "FAILED"]];
  const counts = groups.map(([name, is]) => [o.jobs.filter(is).length, name]).filter(([n]) => n).map(([n, name]) => `${n} ${name}`);
  return [
    h("div", { class: "row head" }, h("h1", { tabindex: "-1" }, "Jobs ", h("small", {}, counts.join(", "))),
      h("dl", { class: "tiles small" },
        tile("Slots in use", `${o.slots - o.free} of ${o.slots}`),
        tile("Memory", f.bytes(o.resident), [" of " + f.bytes(o.limit), gauge(o.resident, o.limit, "memory")]))),
    o.jobs.length ? list(o.jobs, now) : teach(),
  ];
}

const list = (jobs, now) => table({
  label: "Jobs", cls: "cards jobs", rows: jobs, key: (j) => j.id,
  columns: [
    { head: "Job", cell: (j) => [h("a", { class: "main", href: jobLink(j.id) }, j.name), h("small", { class: "mono under" }, j.id), j.error && h("small", { class: "bad under" }, f.clip(j.error, 120))] },
    { head: "State", cell: (j) => state(j.state, j.draining) },
    { head: "Records", cls: "n", title: "records a second through the busiest stage", cell: (j) => h("span", { class: "withspark" }, ended(j) ? f.NONE : f.rate(j.rate), spark(j.history)) },
    { head: "Watermark lag", cls: "n", cell: (j) => f.lag(j.lag) },
    { head: "Back pressure", cell: (j) => (ended(j) ? f.NONE : pressure(j.bp)) },
    { head: "Last checkpoint", cell: (j) => lastCheckpoint(j, now) },
    { head: "Slots", cls: "n", cell: (j) => String(j.slots) },
    { head: "Restarts", cls: "n", cell: (j) => String(j.restarts) },
    { head: "Up for", cls: "n", cell: (j) => uptime(j, now) },
  ],
});

// teach is shown where there is nothing yet.
function teach() {
  const endpoint = about.jobEndpoint || "localhost:8099";
  const block = (name, lang, text) => h("section", { class: "card" }, h("h3", {}, name), h("p", { class: "muted" }, lang), h("pre", {}, text));
  return h("div", { class: "teach" },
    h("h2", {}, "No job yet. Send one:"),
    h("p", {}, "Any Apache Beam pipeline will do. The job endpoint of this server is ", h("code", {}, endpoint), ". A job shows up here as soon as it is submitted."),
    h("div", { class: "grid" },
      block("Python", "pip install apache-beam", `python -m apache_beam.examples.wordcount \\\n  --input README.md --output /tmp/counts \\\n  --runner=PortableRunner \\\n  --job_endpoint=${endpoint} \\\n  --environment_type=LOOPBACK`),
      block("Go", "in the directory of your pipeline", `go run . --runner=universal \\\n  --endpoint=${endpoint} \\\n  --environment_type=LOOPBACK`),
      block("Just to look", "a demo with a Kafka of its own", "tinyrunner demo --http_port 8081")));
}
