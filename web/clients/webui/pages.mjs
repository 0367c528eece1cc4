// Opens every page of Flink's web UI and looks at its text: that UI shows nothing, rather than an error, when a call fails.
//
//   node pages.mjs CHROMIUM URL DIRECTORY < JOBS
//
// JOBS is JSON: names and ids of a job that is live, one that is finished and one that failed. Each line of the output is a JSON
// object: the page, and what is wrong with it, if anything is. A page is wrong, too, when it logs an error to the console, throws,
// or makes a call that fails. DIRECTORY gets a picture of each page; the browser's profile goes to TMPDIR.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

const [executablePath, url, pictures] = process.argv.slice(2);
const jobs = JSON.parse(fs.readFileSync(0, 'utf8'));
const patience = 20_000; // milliseconds; the UI asks again every three seconds

const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'chromium-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 1600, height: 1000 },
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const page = browser.pages()[0] ?? (await browser.newPage());
page.setDefaultTimeout(patience);

let faults = [];
page.on('console', (m) => m.type() === 'error' && faults.push(`console: ${m.text()}`));
page.on('pageerror', (e) => faults.push(`exception: ${e.message}`));
page.on('response', (r) => r.status() >= 400 && faults.push(`HTTP ${r.status()}: ${r.url()}`));
page.on('requestfailed', (r) => {
  // Calls of the page before may be under way when the next one is opened.
  if (r.failure()?.errorText !== 'net::ERR_ABORTED') faults.push(`${r.failure()?.errorText}: ${r.url()}`);
});

/** Waits until the element shows texts that match all patterns. */
async function shows(selector, ...patterns) {
  const end = Date.now() + patience;
  for (;;) {
    const element = page.locator(selector).first();
    const text = (await element.count()) ? (await element.innerText()).replace(/[\s\u00a0]+/g, ' ') : '';
    const absent = patterns.find((p) => !p.test(text));
    if (!absent) return;
    if (Date.now() > end) throw new Error(`no ${absent} in ${selector}: ${text.slice(0, 600) || 'nothing there'}`);
    await page.waitForTimeout(150);
  }
}

const go = (hash) => page.goto(`${url}/#/${hash}`);
const tab = (within, name) => page.locator(`${within} [role=tab]`).filter({ hasText: new RegExp(`^\\s*${name}\\s*$`) }).first().click();
/** Does what shows does, for what is drawn on a canvas: something must be there. */
async function draws(selector) {
  await page.locator(`${selector} canvas`).first().waitFor({ timeout: patience });
  await page.waitForFunction((s) => {
    const c = document.querySelector(`${s} canvas`);
    return c.width > 0 && c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v !== 0);
  }, selector, { timeout: patience });
}

let count = 0;
async function visit(name, look) {
  faults = [];
  let error;
  try {
    await look();
  } catch (e) {
    error = e.message;
  }
  const file = `${String(++count).padStart(2, '0')}-${name.replace(/[^a-z0-9]+/gi, '-')}.png`;
  await page.screenshot({ path: path.join(pictures, file) });
  console.log(JSON.stringify({ page: name, error: [error, ...faults].filter(Boolean).join('\n') }));
}

/** A time, a size and a duration as the UI shows them. */
const time = /\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/;
const size = /[\d.]+ (?:B|KB|MB)/;
const span = /(?:\d+[dhms] )*\d+ms/;

async function cluster() {
  await visit('overview', async () => {
    await go('overview');
    await shows('flink-overview', /Available Task Slots 0 Total Task Slots ?2 ?Task Managers ?1/, /Running Jobs 1 Finished ?1 ?Canceled ?0 ?Failed ?1/,
      /Running Job List .* live .* RUNNING/, /Completed Job List .* FINISHED/, /Completed Job List .* FAILED/);
  });
  await visit('running jobs', async () => {
    await go('job/running');
    await shows('flink-job-list', new RegExp(`live ${time.source}.* RUNNING`));
  });
  await visit('completed jobs', async () => {
    await go('job/completed');
    await shows('flink-job-list', /finished .* FINISHED/, /failed .* FAILED/);
  });
  await visit('submit new job', async () => {
    await go('submit');
    await shows('flink-submit', /Uploaded Jars/, /Add New/, /No Data/);
  });
}

async function taskManager() {
  await visit('task managers', async () => {
    await go('task-manager');
    await shows('flink-task-manager-list', new RegExp(`tinyrunner://127\\.0\\.0\\.1:\\d+ \\d+ ${time.source} 2 0 \\d+ [\\d.]+ GB [\\d.]+ MB [\\d.]+ MB`));
  });
  const within = 'flink-task-manager-status';
  await visit('task manager: metrics', async () => {
    await page.locator('flink-task-manager-list tbody tr', { hasText: 'tinyrunner' }).locator('td').first().click();
    await shows('flink-task-manager-metrics', /Task Heap [\d.]+ MB/, /Managed Memory [\d.]+ MB/, /Network [\d.]+ MB .* \/ 32\.0 MB/, /Go \d+ \d+/);
  });
  await visit('task manager: logs', async () => {
    await tab(within, 'Logs');
    await shows('flink-task-manager-logs', /tinyrunner is ready/);
  });
  await visit('task manager: stdout', async () => {
    await tab(within, 'Stdout');
    await shows('flink-task-manager-stdout', /^1$/); // one empty line
  });
  await visit('task manager: log list', async () => {
    await tab(within, 'Log List');
    await shows('flink-task-manager-log-list', new RegExp(`tinyrunner\\.log ${time.source}[.\\d]* [\\d.]+`));
  });
  await visit('task manager: log', async () => {
    await page.locator('flink-task-manager-log-list a', { hasText: 'tinyrunner.log' }).click();
    await shows('flink-task-manager-log-detail', /tinyrunner is ready/);
  });
  await visit('task manager: thread dump', async () => {
    await go('task-manager/tinyrunner/thread-dump');
    await shows('flink-task-manager-thread-dump', /\d+ @ 0x[0-9a-f]+/);
  });
  await visit('task manager: profiler', async () => {
    await tab(within, 'Profiler');
    await shows('flink-task-manager-profiler', /Create Profiling Instance/, /No Data/);
  });
}

async function jobManager() {
  const within = 'flink-job-manager';
  await visit('job manager: metrics', async () => {
    await go('job-manager/metrics');
    await shows('flink-job-manager-metrics', /JVM Heap [\d.]+ MB [\d.]+% [\d.]+ MB \/ [\d.]+ MB/, /All \d+ \d+/);
  });
  await visit('job manager: configuration', async () => {
    await tab(within, 'Configuration');
    await shows('flink-job-manager-configuration', /jobmanager\.scheduler adaptive/, /checkpoint_interval 2s/);
  });
  await visit('job manager: logs', async () => {
    await tab(within, 'Logs');
    await shows('flink-job-manager-logs', /tinyrunner is ready/);
  });
  await visit('job manager: stdout', async () => {
    await tab(within, 'Stdout');
    await shows('flink-job-manager-stdout', /^1$/);
  });
  await visit('job manager: log list', async () => {
    await tab(within, 'Log List');
    await shows('flink-job-manager-log-list', new RegExp(`tinyrunner\\.log ${time.source}[.\\d]* [\\d.]+`));
  });
  await visit('job manager: log', async () => {
    await page.locator('flink-job-manager-log-list a', { hasText: 'tinyrunner.log' }).click();
    await shows('flink-job-manager-log-detail', /tinyrunner is ready/);
  });
  await visit('job manager: thread dump', async () => {
    await go('job-manager/thread-dump');
    await shows('flink-job-manager-thread-dump', /\d+ @ 0x[0-9a-f]+/);
  });
  await visit('job manager: profiler', async () => {
    await tab(within, 'Profiler');
    await shows('flink-job-manager-profiler', /Create Profiling Instance/, /No Data/);
  });
}

/** The graph of the live job, and every tab of its stage RunningSum. */
async function vertex() {
  const drawer = 'flink-job-overview-drawer';
  await visit('job: graph', async () => {
    await go(`job/running/${jobs.live}/overview`);
    await shows('flink-job-overview', /RunningSum Parallelism: 2 Backpressured \(max\): \d+% Busy \(max\): [1-9]\d*% Data Skew: \d+% Low Watermark: \d{13}/,
      /HASH/, /RunningSum RUNNING [\d.]+ KB [\d,]+/);
  });
  await visit('vertex: detail', async () => {
    await page.locator('flink-job-overview-list tr', { hasText: 'RunningSum' }).locator('a').first().click();
    await shows(drawer, /RunningSum State RUNNING Parallelism 2 Max Parallelism 128/, /Records Received [\d,]+/);
  });
  await visit('vertex: subtasks', async () => {
    await tab(drawer, 'SubTasks');
    await shows(drawer, new RegExp(` 0 [\\d.]+ KB [\\d,]+ .*127\\.0\\.0\\.1:\\d+ ${time.source}.* RUNNING.* 1 [\\d.]+ KB`));
  });
  await visit('vertex: subtasks, aggregated', async () => {
    await page.locator(drawer).getByText('Aggregated Metrics').click();
    await shows(drawer, /Metric Min Max Avg Sum Median/, /Read Records [1-9][\d,]* [1-9]/, /RUNNING Duration/);
  });
  await visit('vertex: task managers', async () => {
    await tab(drawer, 'TaskManagers');
    await shows(drawer, new RegExp(`127\\.0\\.0\\.1:\\d+ [\\d.]+ KB [\\d,]+ .*${time.source}.* RUNNING`));
  });
  await visit('vertex: watermarks', async () => {
    await tab(drawer, 'Watermarks');
    await shows(drawer, / 0 \d{13} \d+\/\d+\/\d{4}/, / 1 \d{13} \d+\/\d+\/\d{4}/);
  });
  await visit('vertex: accumulators', async () => {
    await tab(drawer, 'Accumulators');
    await shows(drawer, /clients:ticks LongCounter [\d,]+/);
  });
  await visit('vertex: accumulators by subtask', async () => {
    await page.locator(drawer).getByText('SubTask Accumulators').click();
    await shows(drawer, /SubTask Accumulators .*Name/);
  });
  await visit('vertex: back pressure', async () => {
    await tab(drawer, 'BackPressure');
    await shows(drawer, /Back Pressure Status: (OK|LOW|HIGH)/, / 0 \[attempt-1\] \d+% \d+% [\d.]+% (OK|LOW|HIGH)/, / 1 \[attempt-1\] \d+%/);
  });
  await visit('vertex: metrics', async () => {
    await tab(drawer, 'Metrics');
    await page.locator(`${drawer} nz-select`).click();
    await page.locator('.ant-select-item', { hasText: '0.numRecordsIn' }).first().click();
    await shows(drawer, /0\.numRecordsIn/);
  });
  await visit('vertex: flame graph', async () => {
    await tab(drawer, 'FlameGraph');
    await shows(drawer, /On-CPU Off-CPU Mixed/, /Measurement: .* ago .*root .*engine/);
  });
  await visit('vertex: flame graph, off CPU', async () => {
    await page.locator(drawer).getByText('Off-CPU').click();
    await shows(drawer, /Measurement: .* ago .*root /);
  });
}

async function job() {
  await visit('job: exceptions, none', async () => {
    await go(`job/running/${jobs.live}/exceptions`);
    await shows('flink-job-exceptions', /No Root Exception/);
  });
  await visit('job: data skew', async () => {
    await go(`job/running/${jobs.live}/dataskew`);
    await shows('flink-data-skew', /RunningSum \d+%/i);
  });
  await visit('job: timeline', async () => {
    await go(`job/running/${jobs.live}/timeline`);
    await shows('flink-job-timeline', /Vertex TimeLine/);
    await draws('flink-job-timeline');
  });
  await visit('job: timeline of a vertex', async () => {
    await page.waitForTimeout(1000); // the bars grow into place
    await page.locator('flink-job-timeline canvas').first().click({ position: { x: 400, y: 55 } });
    await shows('flink-job-timeline', /SubTask TimeLine/i);
  });
  await visit('job: checkpoints, overview', async () => {
    await go(`job/running/${jobs.live}/checkpoints`);
    await shows('flink-job-checkpoints', /Triggered: \d+ In Progress: \d+ Completed: [1-9]\d* Failed: 0 Restored: 0/,
      new RegExp(`ID: \\d+ Completion Time: ${time.source}`), /Checkpoint Type: unaligned checkpoint/, /RunningSum 2\/2 \(100%\)/,
      /Latest Savepoint ID: \d+ .*Path: file:/);
  });
  await visit('job: checkpoints, history', async () => {
    await tab('flink-job-checkpoints', 'History');
    await shows('flink-job-checkpoints', new RegExp(`\\d+ COMPLETED (\\d+)/\\1 ${time.source}[.\\d]* ${time.source}[.\\d]* ${span.source} ${size.source} ${size.source}`));
  });
  await visit('job: checkpoints, one of the history', async () => {
    await page.locator('flink-job-checkpoints .ant-table-row-expand-icon:visible').first().click();
    await shows('flink-job-checkpoints', /RunningSum 2\/2 \(100%\)/);
  });
  await visit('job: checkpoints, subtasks', async () => {
    await page.locator('flink-job-checkpoints-detail tr:visible', { hasText: 'RunningSum' }).locator('.ant-table-row-expand-icon:visible').first().click();
    await shows('flink-job-checkpoints-subtask', new RegExp(`Unaligned Checkpoint 0 ${time.source}[.\\d]* ${span.source} .* true 1 ${time.source}`));
  });
  await visit('job: checkpoints, summary', async () => {
    await tab('flink-job-checkpoints', 'Summary');
    await shows('flink-job-checkpoints', new RegExp(`Minimum ${span.source} ${size.source}`), new RegExp(`99% percentile ${span.source}`));
  });
  await visit('job: checkpoints, configuration', async () => {
    await tab('flink-job-checkpoints', 'Configuration');
    await shows('flink-job-checkpoints', /Checkpointing Mode Exactly Once/, /State Backend Pebble/, /Interval 2s/);
  });
  await visit('job: configuration', async () => {
    await go(`job/running/${jobs.live}/configuration`);
    await shows('flink-job-configuration', /Job parallelism 2/, /job_name live/);
  });
}

async function ended() {
  await visit('failed job: root exception', async () => {
    await go(`job/completed/${jobs.failed}/exceptions`);
    await shows('flink-job-exceptions', new RegExp(time.source), /raise ValueError\('three is not allowed'\)/);
  });
  await visit('failed job: exception history', async () => {
    await tab('flink-job-exceptions', 'Exception History');
    await shows('flink-job-exceptions', new RegExp(`${time.source}.* ValueError: three is not allowed.* Create/`));
  });
  await visit('failed job: graph', async () => {
    await go(`job/completed/${jobs.failed}/overview`);
    await shows('flink-job-overview', /CANCELED/);
  });
  await visit('finished job: graph', async () => {
    await go(`job/completed/${jobs.finished}/overview`);
    await shows('flink-job-overview', /Parallelism: 2/, /FINISHED [\d.]+ (B|KB) \d/);
  });
}

try {
  for (const part of [cluster, taskManager, jobManager, vertex, job, ended]) await part();
} finally {
  await browser.close();
  fs.rmSync(profile, { recursive: true, force: true });
}
