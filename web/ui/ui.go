// Package ui holds the pages of the web UI: one page of plain modules and style sheets, as the browser gets them. There is
// nothing to build.
//
// The page is served at /, and says where the assets are: under a path that has a hash of all of them, so that browsers may
// keep them for ever and still never mix those of two versions.
package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed static
var static embed.FS

// policy lets the page load what this server has, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Pages serves the page and its assets. It is immutable.
type Pages struct {
	version string // of all assets
	page    asset
	assets  map[string]asset // by path within static
}

// asset is a file as it goes over the wire.
type asset struct {
	kind       string // Content-Type
	plain      []byte
	compressed func() []byte // made when it is first asked for; nil: not worth it
	tag        string        // ETag
}

// New reads the embedded files.
func New() (*Pages, error) {
	p := &Pages{assets: make(map[string]asset)}
	sum := sha256.New()
	err := fs.WalkDir(static, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %d\n", name, len(data))
		sum.Write(data)
		a, err := newAsset(name, data)
		p.assets[strings.TrimPrefix(name, "static/")] = a
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the web UI: %w", err)
	}
	p.version = hex.EncodeToString(sum.Sum(nil)[:6])
	index := bytes.ReplaceAll(p.assets["index.html"].plain, []byte("{{version}}"), []byte(p.version))
	delete(p.assets, "index.html")
	p.page, err = newAsset("index.html", index)
	return p, err
}

func newAsset(name string, data []byte) (asset, error) {
	kinds := map[string]string{
		".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	}
	a := asset{kind: kinds[path.Ext(name)], plain: data}
	if a.kind == "" {
		return a, fmt.Errorf("file %s is of no kind that is served", name)
	}
	sum := sha256.Sum256(data)
	a.tag = hex.EncodeToString(sum[:8])
	a.compressed = sync.OnceValue(func() []byte { return compress(data) })
	return a, nil
}

// compress returns nil if that would not make data much smaller.
func compress(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	if err = errors.Join(err, z.Close()); err != nil || b.Len() > len(data)*9/10 {
		return nil // a buffer takes everything
	}
	return bytes.Clone(b.Bytes())
}

// Version changes with any of the files.
func (p *Pages) Version() string { return p.version }

// Page serves the page.
func (p *Pages) Page(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache") // but its ETag spares sending it again
	p.page.serve(w, r)
}

// Asset serves a file under /ui/VERSION/. false: there is none.
func (p *Pages) Asset(version, name string, w http.ResponseWriter, r *http.Request) bool {
	a, ok := p.assets[name]
	if !ok || version != p.version {
		return false
	}
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Security-Policy", policy)
	a.serve(w, r)
	return true
}

func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Vary", "Accept-Encoding")
	data, tag := a.plain, `"`+a.tag+`"`
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		if small := a.compressed(); small != nil {
			data, tag = small, `"`+a.tag+`-gz"`
			h.Set("Content-Encoding", "gzip")
		}
	}
	h.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", fmt.Sprint(len(data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // that the browser has gone is no error
	}
}
