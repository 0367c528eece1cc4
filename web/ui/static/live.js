// The stream of what a page shows: lines of JSON, each an object whose field t says what it is.

const SILENT = 9000; // ms after which a connection counts as lost: there is a line every 2 s
const RETRY = [500, 1000, 2000, 4000];

// watch calls update(state) whenever something has changed; state has the newest object of each t. status(text, detail) is
// told of the connection: "live", "lost", or "refused" with the server's words. It returns a function that ends it.
export function watch(path, { update, status, line }) {
  let control, timer, tries = 0, stopped = false, state = {};

  const again = () => {
    clearTimeout(timer);
    if (!stopped && !document.hidden) timer = setTimeout(run, RETRY[Math.min(tries++, RETRY.length - 1)]);
  };

  async function run() {
    clearTimeout(timer);
    control?.abort();
    const mine = (control = new AbortController());
    let silent = setTimeout(() => mine.abort(), SILENT);
    try {
      const answer = await fetch(path, { signal: mine.signal, cache: "no-store" });
      if (!answer.ok) {
        const body = await answer.json().catch(() => ({}));
        status("refused", body.errors?.[0] || `the server answered ${answer.status}`, answer.status);
        return again();
      }
      state = {};
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the stream has ended");
        clearTimeout(silent);
        silent = setTimeout(() => mine.abort(), SILENT);
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const text of lines) {
          const o = JSON.parse(text);
          if (o.t === "now") state.now = o.now;
          else state[o.t] = o;
          line?.(o);
        }
        if (!lines.length) continue;
        if (state.gone) {
          status("refused", state.gone.error);
          mine.abort();
          return again();
        }
        tries = 0;
        status("live");
        update(state);
      }
    } catch (e) {
      if (mine !== control || stopped) return;
      if (document.hidden) return;
      if (e instanceof TypeError && tries === 0 && !navigator.onLine) tries = 1;
      status("lost", e.message);
      again();
    } finally {
      clearTimeout(silent);
    }
  }

  // A page that nobody sees costs the server nothing.
  const visible = () => {
    if (document.hidden) {
      control?.abort();
      clearTimeout(timer);
    } else run();
  };
  document.addEventListener("visibilitychange", visible);
  if (!document.hidden) run();
  return () => {
    stopped = true;
    control?.abort();
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", visible);
  };
}
