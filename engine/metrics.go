package engine

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/metric"
)

// metrics adds up the monitoring infos of a job's bundles. The zero value is empty. Goroutine safe.
//
// Each bundle brings tens of infos, nearly all of them of series that are known: finding and adding to these does not
// allocate, but for the types that are sets.
type metrics struct {
	mu    sync.Mutex
	byKey map[seriesKey][]*series // guarded by mu, also what is in the series
}

// seriesKey is the URN, the type and the labels that most metrics have. Series that differ in others (MonitoringInfoLabels)
// share a key.
type seriesKey struct {
	urn, typ, transform, collection, namespace, name string
}

// series is what bundles told of one metric: infos of the same URN, type and labels.
type series struct {
	info       *pipepb.MonitoringInfo // without payload; never changes
	order      string                 // sorts by URN, labels and type
	committed  metric.Value           // nil: no bundle with this metric was committed
	attempted  metric.Value           // nil: the same as committed, no bundle with this metric was abandoned
	unreadable bool                   // some payload was
}

// add takes the metrics of one bundle; committed says whether its effect counts. An info with an unreadable payload is
// left out, and the error tells of it: of each metric once, as what goes wrong in one bundle does in the next ones.
func (m *metrics) add(infos []*pipepb.MonitoringInfo, committed bool) error {
	if len(infos) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byKey == nil {
		m.byKey = make(map[seriesKey][]*series)
	}
	var errs []error
	for _, in := range infos {
		s := m.find(in)
		if err := s.add(in.GetPayload(), committed); err != nil && !s.unreadable {
			s.unreadable = true
			errs = append(errs, fmt.Errorf("add up metric %s %v: %w", in.GetUrn(), in.GetLabels(), err))
		}
	}
	return errors.Join(errs...)
}

// snapshot returns the sums so far, ordered by URN and labels. They do not change later; their labels must not be changed.
func (m *metrics) snapshot() (attempted, committed []*pipepb.MonitoringInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Concat(slices.Collect(maps.Values(m.byKey))...)
	slices.SortFunc(all, func(a, b *series) int { return strings.Compare(a.order, b.order) })
	for _, s := range all {
		if s.committed != nil {
			committed = append(committed, s.encode(s.committed))
		}
		if v := cmp.Or(s.attempted, s.committed); v != nil {
			attempted = append(attempted, s.encode(v))
		}
	}
	return attempted, committed
}

// reset forgets everything.
func (m *metrics) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byKey = nil
}

// find returns the series of an info, a new one if need be. REQUIRES: m.mu.
func (m *metrics) find(in *pipepb.MonitoringInfo) *series {
	labels := in.GetLabels()
	k := seriesKey{in.GetUrn(), in.GetType(), labels["PTRANSFORM"], labels["PCOLLECTION"], labels["NAMESPACE"], labels["NAME"]}
	for _, s := range m.byKey[k] {
		if maps.Equal(s.info.GetLabels(), labels) {
			return s
		}
	}
	s := &series{info: &pipepb.MonitoringInfo{Urn: k.urn, Type: k.typ, Labels: maps.Clone(labels), StartTime: in.GetStartTime()}}
	s.order = s.info.GetUrn() + "\x00" + labelList(s.info) + "\x00" + s.info.GetType()
	m.byKey[k] = append(m.byKey[k], s)
	return s
}

// add merges a payload. If it cannot be read, nothing changes.
func (s *series) add(payload []byte, committed bool) error {
	if committed && s.attempted == nil {
		return s.grow(&s.committed, payload)
	}
	if s.attempted == nil && s.committed != nil { // the first bundle that was abandoned: from here on they differ
		v := metric.New(s.info.GetType())
		if err := v.Add(s.committed.Append(nil)); err != nil {
			return err
		}
		s.attempted = v
	}
	if err := s.grow(&s.attempted, payload); err != nil || !committed {
		return err
	}
	return s.grow(&s.committed, payload)
}

// grow merges a payload into a value, which it makes for the first one.
func (s *series) grow(v *metric.Value, payload []byte) error {
	if *v != nil {
		return (*v).Add(payload)
	}
	first := metric.New(s.info.GetType())
	if err := first.Add(payload); err != nil {
		return err
	}
	*v = first
	return nil
}

func (s *series) encode(v metric.Value) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: s.info.GetUrn(), Type: s.info.GetType(), Labels: s.info.GetLabels(), StartTime: s.info.GetStartTime(), Payload: v.Append(nil),
	}
}

// labelList returns key, value, key, value, ... by key, each with a zero byte behind it.
func labelList(in *pipepb.MonitoringInfo) string {
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(in.GetLabels())) {
		out.WriteString(k + "\x00" + in.GetLabels()[k] + "\x00")
	}
	return out.String()
}
