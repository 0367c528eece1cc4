package web

import (
	"fmt"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/tinyrunner/tinyrunner/web/ui"
)

// mountUI adds the web UI: its page at /, all else under /ui.
func (h *Handler) mountUI(r chi.Router) error {
	pages, err := ui.New()
	if err != nil {
		return fmt.Errorf("make web UI: %w", err)
	}
	r.Get("/", pages.Page)
	r.Head("/", pages.Page)
	r.Get("/ui/about", func(w http.ResponseWriter, _ *http.Request) { h.answer(w, http.StatusOK, h.about(pages.Version())) })
	for path, newView := range h.liveRoutes() {
		r.Get(path, h.stream(newView))
	}
	r.Get("/ui/{version}/*", func(w http.ResponseWriter, r *http.Request) {
		if !pages.Asset(chi.URLParam(r, "version"), chi.URLParam(r, "*"), w, r) {
			h.notFound(w, r)
		}
	})
	return nil
}

// aboutJSON is what pages need to know once.
type aboutJSON struct {
	Version      string `json:"version"` // of the UI: pages of another one load themselves again
	Revision     string `json:"revision"`
	ReadOnly     bool   `json:"readOnly"`
	SavepointDir string `json:"savepointDir"` // "": savepoints need a place
	JobEndpoint  string `json:"jobEndpoint"`
}

func (h *Handler) about(version string) aboutJSON {
	return aboutJSON{version, h.Revision, h.ReadOnly, h.SavepointDir, h.JobEndpoint}
}
