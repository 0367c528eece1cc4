// Calls that change something: Flink's REST API.
import { h, newID } from "./dom.js";

export const about = { readOnly: false, savepointDir: "", jobEndpoint: "", version: "", revision: "" };

async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, { method, headers: body ? { "Content-Type": "application/json" } : {}, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("the server cannot be reached");
  }
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.errors?.[0] || `the server answered ${answer.status}`);
  return data;
}

const pause = (ms) => new Promise((ok) => setTimeout(ok, ms));

// done waits for a triggered operation and returns its result.
async function done(path) {
  for (let wait = 200; ; wait = Math.min(2000, wait * 1.5)) {
    const { status, operation } = await call("GET", path);
    if (status.id === "COMPLETED") {
      const cause = operation?.["failure-cause"];
      if (cause) throw new Error(String(cause["stack-trace"] || cause.class || "it failed").split("\n")[0]);
      return operation || {};
    }
    await pause(wait);
  }
}

// toast shows what is going on until it is over. work is a promise's function; say makes the last words of its result.
export async function toast(what, work, say) {
  const text = h("span", {}, what + " \u2026");
  const el = h("div", { class: "toast busy" }, h("i", { "aria-hidden": "true" }), text);
  document.getElementById("toasts").append(el);
  const end = (cls, words, ms) => {
    el.className = "toast " + cls;
    text.textContent = words;
    el.append(h("button", { class: "x", "aria-label": "Close this message", onclick: () => el.remove() }, "\u00d7"));
    if (ms) setTimeout(() => el.remove(), ms);
  };
  try {
    end("ok", say(await work()), 8000);
  } catch (e) {
    end("bad", `${what} failed: ${e.message}`, 0);
  }
}

// ask shows a dialog and calls ok with the values of its fields.
export function ask({ title, text, fields = [], button, danger, ok }) {
  const id = newID();
  const inputs = fields.map((f) => h("input", { id: id + f.name, name: f.name, type: f.type || "text", value: f.value ?? "", min: f.min, max: f.max, placeholder: f.placeholder, required: f.required, autocomplete: "off" }));
  const form = h("form", { method: "dialog" },
    h("h2", { id }, title), text && h("p", {}, text),
    fields.map((f, k) => h("label", { for: id + f.name }, h("span", {}, f.label), inputs[k])),
    h("div", { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: () => box.close() }, "Leave it"),
      h("button", { class: danger ? "danger" : "primary" }, button)));
  const box = h("dialog", { "aria-labelledby": id }, form);
  form.onsubmit = () => ok(Object.fromEntries(inputs.map((i) => [i.name, i.value.trim()])));
  box.onclose = () => box.remove();
  document.body.append(box);
  box.showModal();
}

const target = (dir) => dir || undefined;
const dirField = () => ({ name: "dir", label: "Directory", value: "", required: !about.savepointDir, placeholder: about.savepointDir || "file:///savepoints or s3://bucket/prefix" });

export const checkpoint = (job) => toast("Checkpoint of " + job.name,
  async () => done(`jobs/${job.hex}/checkpoints/${(await call("POST", `jobs/${job.hex}/checkpoints`, {}))["request-id"]}`),
  (r) => `Checkpoint ${r.checkpointId ?? ""} of ${job.name} is complete`);

export const savepoint = (job) => ask({
  title: "Savepoint of " + job.name, text: "A copy of the state that is kept until somebody removes it. The job goes on.", fields: [dirField()], button: "Make savepoint",
  ok: ({ dir }) => toast("Savepoint of " + job.name,
    async () => done(`jobs/${job.hex}/savepoints/${(await call("POST", `jobs/${job.hex}/savepoints`, { "target-directory": target(dir) }))["request-id"]}`),
    (r) => `Savepoint of ${job.name} lies at ${r.location}`),
});

export const stop = (job) => ask({
  title: `Stop ${job.name} with a savepoint`, text: "The job makes a savepoint and ends. It can be started again from there.", fields: [dirField()], button: "Stop the job", danger: true,
  ok: ({ dir }) => toast("Stop of " + job.name,
    async () => done(`jobs/${job.hex}/savepoints/${(await call("POST", `jobs/${job.hex}/stop`, { targetDirectory: target(dir), drain: false }))["request-id"]}`),
    (r) => `${job.name} has stopped, its savepoint lies at ${r.location}`),
});

export const cancel = (job) => ask({
  title: `Cancel ${job.name}`, text: "The job ends at once, without a savepoint. What it has not checkpointed is lost.", button: "Cancel the job", danger: true,
  ok: () => toast("Cancellation of " + job.name, () => call("PATCH", `jobs/${job.hex}?mode=cancel`), () => `${job.name} is cancelled`),
});

export const rescale = (job) => ask({
  title: "Rescale " + job.name, text: `All stages run in the same number of slots, ${job.slots} now. The job goes on while it changes.`,
  fields: [{ name: "slots", label: `Slots (1 to ${job.max})`, type: "number", min: 1, max: job.max, value: job.slots, required: true }], button: "Rescale",
  ok: ({ slots }) => toast(`Rescaling of ${job.name} to ${slots}`, async () => {
    const old = await call("GET", `jobs/${job.hex}/resource-requirements`);
    const want = Object.fromEntries(Object.keys(old).map((id) => [id, { parallelism: { lowerBound: 1, upperBound: Number(slots) } }]));
    await call("PUT", `jobs/${job.hex}/resource-requirements`, want);
    for (let k = 0; k < 60; k++) {
      const { vertices } = await call("GET", `jobs/${job.hex}`);
      if (vertices[0]?.parallelism === Number(slots)) return;
      await pause(500);
    }
    throw new Error("it has not happened within 30 s: see the log");
  }, () => `${job.name} runs in ${slots} slots`),
});

export const userMetrics = (job, stage) => call("GET", `jobs/${job}/vertices/${stage}/accumulators`);
export const loadAbout = async () => Object.assign(about, await call("GET", "ui/about"));
