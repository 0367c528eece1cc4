package ui_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

const phone = 390 // pixels

// TestPages opens every page of a real server with a job that runs and one that has failed, in both colour schemes and on a
// phone, works with the keyboard alone, steers the job, and loses the server. Screenshots go to .build/screenshots.
func TestPages(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no browser")
	}
	b := startBrowser(t)
	binary, dir := build(t), t.TempDir()
	flags := []string{"--checkpoints=file://" + t.TempDir(), "--checkpoint_interval=1s", "--savepoint_dir=file://" + t.TempDir()}
	s := serve(t, binary, dir, flags...)

	t.Run("empty", func(t *testing.T) {
		b.view(t, "light", 1280, 800)
		b.run(t, chromedp.Navigate(s.url("")))
		b.sees(t, "No job yet", fmt.Sprintf("--job_endpoint=127.0.0.1:%d", s.ports["job_port"]), "0 of 2", "live")
		b.shoot(t, "empty-light-1280")
		b.run(t, chromedp.Navigate(s.url("#/harnesses")))
		b.sees(t, "No job with a harness runs")
		b.quiet(t)
	})
	s.submit(t, "raises.py", "orders")
	s.submit(t, "clicks.py", "clicks", "--streaming")
	b.run(t, chromedp.Navigate(s.url("#/")))
	b.sees(t, "clicks", "orders", "ZeroDivisionError: division by zero")
	job, failed := b.link(t, "clicks"), b.link(t, "orders")
	b.run(t, chromedp.Navigate(s.url(job)))
	b.sees(t, "Number")
	b.await(t, "records on the way", "[...document.querySelectorAll('.rate')].filter((e) => parseFloat(e.textContent) > 0).length > 1")
	stage := b.link(t, "Number")

	t.Run("pages", func(t *testing.T) { everyPage(t, b, s, job, failed, stage) })
	t.Run("keyboard", func(t *testing.T) { keyboard(t, b, s, job) })
	t.Run("filters", func(t *testing.T) { filters(t, b, s, job) })
	t.Run("actions", func(t *testing.T) { actions(t, b, s, job) })
	t.Run("stop", func(t *testing.T) { stop(t, b, s) })
	t.Run("lost", func(t *testing.T) { lost(t, b, s, binary, flags) })
	t.Run("read-only", func(t *testing.T) { readOnly(t, b, binary) })
}

// link returns the hash of the link with a text.
func (b *browser) link(t *testing.T, text string) string {
	t.Helper()
	find := "[...document.querySelectorAll('main a.main')].find((a) => a.textContent === " + quote(text) + ")"
	b.await(t, "a link "+text, find)
	return b.eval(t, find+".getAttribute('href')")
}

func everyPage(t *testing.T, b *browser, s *server, job, failed, stage string) {
	for _, p := range []struct {
		name, hash string
		texts      []string
	}{
		{"jobs", "#/", []string{"1 running, 1 failed", "clicks", "running", "orders", "failed", "2 of 2", "of 250 MB"}},
		{"graph", job, []string{"Checkpoint", "Rescale", "Watermark lag", "Back pressure", "GenSequence", "Count", "/s", "busy", "Failed bundles"}},
		{"stage", stage, []string{"your code", "Reads from", "by key", "Feeds", "keys and values", "Latency from", "/ p99", "Subtasks", "fused", "shop:clicks", "boot.sh", "connected", "MB"}},
		{"checkpoints", job + "/checkpoints", []string{"Pause of commits", "They lie at file://", "complete", "the beginning", "In flight"}},
		{"errors", failed + "/errors", []string{"ZeroDivisionError: division by zero", "raises.py", "order['total'] / order['pieces']", "starting", "running", "failed"}},
		{"noerrors", job + "/errors", []string{"No error has ended a run of this job"}},
		{"jobharnesses", job + "/harnesses", []string{"connected", "PROCESS ", "MB", "Last lines of", "page /page/0 has 1 clicks"}},
		{"joblogs", job + "/logs", []string{"SDK harness connected", "page /page/0 has 1 clicks", "lines"}},
		{"harnesses", "#/harnesses", []string{"1 of 1 connected", "clicks"}},
		{"memory", "#/memory", []string{"Buffer pool", "block cache", "memtables", "Go heap: all else", "Stacks", "Program", "Harness processes", "boot.sh"}},
		{"logs", "#/logs", []string{"tinyrunner is ready", "job state", "All levels"}},
		{"nothing", "#/nothing", []string{"There is no such page"}},
		{"nojob", "#/jobs/nothing", []string{"Job nothing not found"}},
	} {
		t.Run(p.name, func(t *testing.T) {
			b.run(t, chromedp.Navigate("about:blank"), chromedp.Navigate(s.url(p.hash)))
			b.sees(t, p.texts...)
			for _, look := range []struct {
				scheme string
				width  int64
			}{{"light", 1280}, {"dark", 1280}, {"light", phone}, {"dark", phone}} {
				b.view(t, look.scheme, look.width, 844)
				b.sees(t, p.texts[0])
				b.fits(t, look.width)
				b.shoot(t, fmt.Sprintf("%s-%s-%d", p.name, look.scheme, look.width))
			}
			if p.name == "nojob" { // the browser itself tells of the 404
				b.mu.Lock()
				b.problems = nil
				b.mu.Unlock()
			}
			b.quiet(t)
		})
	}
}

// focus is what has the focus.
func (b *browser) focus(t *testing.T) string {
	t.Helper()
	return b.eval(t, "((e) => (e.getAttribute('aria-label') || e.innerText || e.id || e.tagName).trim())(document.activeElement)")
}

func (b *browser) press(t *testing.T, keys ...string) {
	t.Helper()
	for _, k := range keys {
		b.run(t, chromedp.KeyEvent(k))
	}
}

// tabTo presses Tab until something has the focus.
func (b *browser) tabTo(t *testing.T, text string) {
	t.Helper()
	var met []string
	for range 60 {
		b.press(t, kb.Tab)
		at := b.focus(t)
		if strings.HasPrefix(at, text) {
			if b.eval(t, "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement.querySelector('.box') || document.body).strokeWidth") == "none1px" {
				t.Errorf("the focus on %q cannot be seen", text)
			}
			return
		}
		met = append(met, at)
	}
	t.Fatalf("Tab never comes to %q, but to %q", text, met)
}

// keyboard walks from the top of the page to a stage and back, and opens a dialog, with keys alone.
func keyboard(t *testing.T, b *browser, s *server, job string) {
	b.view(t, "light", 1280, 844)
	b.run(t, chromedp.Navigate("about:blank"), chromedp.Navigate(s.url(job)))
	b.sees(t, "Stages", "GenSequence")
	b.press(t, kb.Tab)
	if got := b.focus(t); got != "Skip to the content" {
		t.Errorf("the first stop is %q", got)
	}
	b.press(t, kb.Enter)
	if got := b.eval(t, "document.activeElement.id"); got != "main" {
		t.Errorf("the skip link leads to %q", got)
	}
	b.tabTo(t, "Rescale")
	b.press(t, kb.Enter)
	b.sees(t, "All stages run in the same number of slots")
	if got := b.eval(t, "document.activeElement.name"); got != "slots" {
		t.Errorf("in the dialog the focus is on %q", got)
	}
	b.press(t, kb.Escape)
	b.await(t, "no dialog", "!document.querySelector('dialog')")
	b.tabTo(t, "Clicks/ImpulseElement/Impulse, impulse")
	b.press(t, kb.ArrowRight)
	if got := b.focus(t); !strings.HasPrefix(got, "Clicks/ImpulseElement/FlatMap") {
		t.Errorf("to the right of the first stage is %q", got)
	}
	b.press(t, kb.ArrowRight, kb.ArrowRight)
	if got := b.focus(t); !strings.HasPrefix(got, "Number, your code. In ") {
		t.Errorf("further to the right is %q", got)
	}
	b.press(t, "+")
	b.shoot(t, "keyboard-light-1280")
	b.press(t, kb.Enter)
	b.sees(t, "Subtasks", "Metrics of its code")
	b.await(t, "the focus on the title", "document.activeElement.tagName === 'H1'")
	b.run(t, chromedp.NavigateBack())
	b.sees(t, "Failed bundles")
	b.quiet(t)
}

// fill replaces what is in a field, as typing does.
func (b *browser) fill(t *testing.T, field, text string) {
	t.Helper()
	b.eval(t, "((e) => { e.focus(); e.select() })(document.querySelector("+quote(field)+"))")
	b.press(t, strings.Split(text, "")...)
}

// filters of the log stand in the URL.
func filters(t *testing.T, b *browser, s *server, job string) {
	b.run(t, chromedp.Navigate("about:blank"), chromedp.Navigate(s.url(job+"/logs?level=WARN&text=page/0")))
	b.sees(t, "page /page/0 has 1 clicks")
	if text := b.eval(t, "document.querySelector('.loglines').innerText"); strings.Contains(text, "SDK harness connected") {
		t.Errorf("filtered: %.500s", text)
	}
	b.fill(t, "input[type=search]", "no such line")
	b.await(t, "nothing", "document.querySelector('.loglines').childElementCount === 0 && location.hash.includes('no+such+line')")
	b.quiet(t)
}

// click presses a button of the dialog that is open, else one of the page's actions.
func (b *browser) click(t *testing.T, text string) {
	t.Helper()
	find := "[...(document.querySelector('dialog[open]') || document.querySelector('.actions')).querySelectorAll('button')].find((e) => e.textContent === " + quote(text) + ")"
	b.await(t, "button "+text, find+" && !"+find+".disabled")
	b.eval(t, find+".click()")
}

// actions steers the job: what the page says must have happened.
func actions(t *testing.T, b *browser, s *server, job string) {
	click := func(text string) {
		t.Helper()
		b.click(t, text)
	}
	b.run(t, chromedp.Navigate("about:blank"), chromedp.Navigate(s.url(job+"/checkpoints")))
	b.sees(t, "History")
	click("Checkpoint")
	b.sees(t, "of clicks is complete")
	click("Savepoint")
	click("Make savepoint")
	b.sees(t, "Savepoint of clicks lies at file://", "savepoint file://")
	click("Rescale")
	b.fill(t, "dialog input", "3")
	click("Rescale")
	b.sees(t, "clicks runs in 3 slots")
	b.shoot(t, "actions-light-1280")
	b.run(t, chromedp.Navigate(s.url(job)))
	b.sees(t, "Slots\n3")
	click("Cancel")
	click("Cancel the job")
	b.sees(t, "clicks is cancelled", "cancelled", "Ran for")
	if why := b.eval(t, "document.querySelector('.actions button').title"); why != "the job has ended" {
		t.Errorf("a button that is off says %q", why)
	}
	b.quiet(t)
}

// stop ends another job with a savepoint in a directory that the user names, and finds it there.
func stop(t *testing.T, b *browser, s *server) {
	s.submit(t, "clicks.py", "visits", "--streaming")
	b.run(t, chromedp.Navigate("about:blank"), chromedp.Navigate(s.url("#/")))
	b.sees(t, "visits")
	b.run(t, chromedp.Navigate(s.url(b.link(t, "visits")+"/checkpoints")))
	b.sees(t, "History", "complete")
	dir := t.TempDir()
	b.click(t, "Stop")
	b.sees(t, "Stop visits with a savepoint", "It can be started again from there")
	b.fill(t, "dialog input", "file://"+dir)
	b.shoot(t, "stop-light-1280")
	b.click(t, "Stop the job")
	b.sees(t, "visits has stopped, its savepoint lies at file://"+dir+"/savepoint-", "finished", "savepoint file://"+dir)
	if found, err := filepath.Glob(filepath.Join(dir, "savepoint-*", "savepoint")); err != nil || len(found) != 1 {
		t.Errorf("savepoints on disk: %v, %v", found, err)
	}
	if why := b.eval(t, "document.querySelector('.actions button').title"); why != "the job has ended" {
		t.Errorf("a button that is off says %q", why)
	}
	b.quiet(t)
}

// lost: a server that dies is told of, and one that is back is found.
func lost(t *testing.T, b *browser, s *server, binary string, flags []string) {
	b.run(t, chromedp.Navigate(s.url("#/memory")))
	b.sees(t, "Buffer pool", "live")
	s.kill()
	b.sees(t, "Connection lost, trying again")
	b.shoot(t, "lost-light-1280")
	port := fmt.Sprintf("--http_port=%d", s.ports["http_port"])
	again := serve(t, binary, t.TempDir(), append(flags, port)...)
	b.await(t, "the server", "document.querySelector('.link.live') && document.getElementById('lost').hidden")
	b.mu.Lock()
	b.problems = nil // of calls to nobody
	b.mu.Unlock()

	// A page that is open does not keep the server from ending.
	if err := again.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := again.cmd.Wait(); err != nil {
		t.Errorf("with a page open the server ends with %v", err)
	}
	b.run(t, chromedp.Navigate("about:blank"))
	b.mu.Lock()
	b.problems = nil
	b.mu.Unlock()
}

// readOnly: a server that may not be changed says so, and its buttons why.
func readOnly(t *testing.T, b *browser, binary string) {
	s := serve(t, binary, t.TempDir(), "--read_only")
	s.submit(t, "raises.py", "orders")
	b.run(t, chromedp.Navigate(s.url("")))
	b.sees(t, "read-only", "orders")
	b.run(t, chromedp.Navigate(s.url(b.link(t, "orders"))))
	b.sees(t, "This server is read-only")
	if got := b.eval(t, "[...document.querySelectorAll('.actions button')].filter((e) => e.disabled && e.title.includes('read-only')).length"); got != "5" {
		t.Errorf("%s of 5 buttons are off and say why", got)
	}
	b.quiet(t)
}
