package web

import (
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
)

const (
	// sharedAge is how old an answer may be when somebody else is given it, too. Flink's are older: it looks at jobs every
	// web.refresh-interval of 3 s, at metrics every 10 s.
	sharedAge = time.Second
	// maxShared bounds the bytes of the answers that are kept, in all. One that is larger than a quarter of it is not kept.
	maxShared = 2 << 20
	// maxSharedCount bounds their number: a query that says nothing makes another one.
	maxSharedCount = 2000
)

// sharedAnswers are the newest answers of the calls that only read, as bytes, for all clients who ask the same within a second: an
// answer is made and encoded once, while others wait for it. Who has changed something is never shown what was before: each
// answer bears the mark of what it was made from, and is nobody's when that is another one. Goroutine safe.
type sharedAnswers struct {
	seed    maphash.Seed
	changes atomic.Uint64 // calls and operations that have changed something

	mu    sync.Mutex
	all   map[sharedKey]*sharedAnswer // guarded by mu, as what follows
	bytes int                         // of those that are made
}

// sharedKey is what a call asks for. Who may ask is settled before, and what the headers say makes no difference.
type sharedKey struct{ path, query string }

// mark is what answers must have in common to be the same: the calls that have changed something, and the states of jobs.
type mark struct{ changes, jobs uint64 }

// sharedAnswer is an answer, or will be.
type sharedAnswer struct {
	job    Job // that it is about; nil: it may be about all
	mark   mark
	begun  time.Time
	made   chan struct{} // closed when answer is there
	answer encoded       // the zero one: it has come to nothing
	bytes  int           // of answer; guarded by sharedAnswers.mu
}

func newSharedAnswers() *sharedAnswers {
	return &sharedAnswers{seed: maphash.MakeSeed(), all: make(map[sharedKey]*sharedAnswer)}
}

// keyOf returns the key of a call. false: no other call is the same.
func keyOf(r *http.Request) (sharedKey, bool) {
	return sharedKey{r.URL.Path, r.URL.RawQuery}, r.Method == http.MethodGet && r.URL.RawPath == ""
}

// changed makes all answers so far nobody's: something has been changed that they may tell of. It is called before anybody can
// know that it has.
func (s *sharedAnswers) changed() { s.changes.Add(1) }

// markOf is the mark of an answer that begins now, about a job or about all.
func (h *Handler) markOf(j Job) mark {
	m := mark{changes: h.shared.changes.Load()}
	if j != nil {
		m.jobs = h.shared.state(j)
		return m
	}
	for _, j := range h.Cluster.Jobs() {
		m.jobs = 31*m.jobs + h.shared.state(j)
	}
	return m
}

// state is a hash of what is seen at once when it has changed, as epoch has it.
func (s *sharedAnswers) state(j Job) uint64 {
	i := j.Info()
	return maphash.Comparable(s.seed, struct {
		id                       string
		changes, slots, restarts int
	}{i.ID, len(i.Changes), i.Slots, i.Restarts})
}

// sharedAnswer returns the answer to a call that somebody else is given, if there is one that will do. It needs no route: only calls
// that have one have answers.
func (h *Handler) sharedAnswer(r *http.Request) (encoded, bool) {
	key, ok := keyOf(r)
	if !ok {
		return encoded{}, false
	}
	h.shared.mu.Lock()
	a := h.shared.all[key]
	h.shared.mu.Unlock()
	if a == nil || !a.serves(h.markOf(a.job), time.Now()) {
		return encoded{}, false
	}
	return a.await(r)
}

// share answers a call as somebody else is answered, or makes the answer for all who ask from now on.
func (h *Handler) share(r *http.Request, own func() (encoded, error)) (encoded, error) {
	key, ok := keyOf(r)
	var j Job
	if id := chi.URLParam(r, "job"); id != "" {
		j = h.find(id)
		ok = ok && j != nil
	}
	if !ok {
		return own()
	}
	a, mine := h.shared.begin(key, j, h.markOf(j))
	if mine {
		defer func() { h.shared.end(key, a) }() // also of one that panics
		var err error
		a.answer, err = own()
		return a.answer, err
	}
	if answer, ok := a.await(r); ok {
		return answer, nil
	}
	return own()
}

// serves reports whether the answer will do for a call of a mark.
func (a *sharedAnswer) serves(m mark, now time.Time) bool {
	return a.mark == m && now.Sub(a.begun) < sharedAge
}

// await waits for the answer. false: it has come to nothing, or the client has gone.
func (a *sharedAnswer) await(r *http.Request) (encoded, bool) {
	select {
	case <-a.made:
		return a.answer, a.answer.contentType != ""
	case <-r.Context().Done():
		return encoded{}, false
	}
}

// begin returns the answer to wait for, or one that the caller has to make: true. end must be called for that.
func (s *sharedAnswers) begin(key sharedKey, j Job, m mark) (*sharedAnswer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if a := s.all[key]; a != nil && a.serves(m, now) {
		return a, false
	}
	s.drop(key)
	a := &sharedAnswer{job: j, mark: m, begun: now, made: make(chan struct{})}
	s.all[key] = a
	return a, true
}

// end keeps an answer that was made, if it is one.
func (s *sharedAnswers) end(key sharedKey, a *sharedAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(a.made)
	if s.all[key] != a {
		return // there is a newer one
	}
	n := len(a.answer.data)
	switch {
	case a.answer.contentType == "" || n > maxShared/4:
		s.drop(key)
	case s.bytes+n > maxShared || len(s.all) > maxSharedCount:
		s.all, s.bytes = make(map[sharedKey]*sharedAnswer), 0 // those who wait have what they wait for
	default:
		a.bytes = n
		s.bytes += n
	}
}

// drop REQUIRES: s.mu.
func (s *sharedAnswers) drop(key sharedKey) {
	if a := s.all[key]; a != nil {
		s.bytes -= a.bytes
		delete(s.all, key)
	}
}

// forget drops what is too old. It is called now and then, so that answers that nobody asks for take no memory.
func (s *sharedAnswers) forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, a := range s.all {
		if now.Sub(a.begun) >= sharedAge {
			s.drop(key)
		}
	}
}
