package fnapi

import (
	"context"
	"errors"
	"maps"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// capShortIDs lets SDKs send a metric as an id and its payload (beam_fn_api.proto, MonitoringInfosMetadataRequest).
const capShortIDs = "beam:protocol:monitoring_info_short_ids:v1"

// shortIDs are the metrics that a worker has told the meaning of. The zero value is empty.
type shortIDs struct {
	mu    sync.Mutex
	infos map[string]*pipepb.MonitoringInfo // guarded by mu; the infos are immutable
}

// missing returns the ids in data that are not known yet.
func (s *shortIDs) missing(data map[string][]byte) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range data {
		if s.infos[id] == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *shortIDs) learn(infos map[string]*pipepb.MonitoringInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.infos == nil {
		s.infos = make(map[string]*pipepb.MonitoringInfo)
	}
	maps.Copy(s.infos, infos)
}

// full joins payloads with what is known of their ids. Ids that the SDK could not explain are left out.
func (s *shortIDs) full(data map[string][]byte) []*pipepb.MonitoringInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*pipepb.MonitoringInfo, 0, len(data))
	for id, payload := range data {
		known := s.infos[id]
		if known == nil {
			continue
		}
		out = append(out, &pipepb.MonitoringInfo{
			Urn:       known.GetUrn(),
			Type:      known.GetType(),
			Labels:    known.GetLabels(),
			StartTime: known.GetStartTime(),
			Payload:   payload,
		})
	}
	return out
}

// infos returns metrics in full. SDKs that send them in full, send the same by short ids besides (Python) or not at all.
func (w *Worker) infos(ctx context.Context, full []*pipepb.MonitoringInfo, short map[string][]byte) ([]*pipepb.MonitoringInfo, error) {
	if len(full) > 0 || len(short) == 0 {
		return full, nil
	}
	if ids := w.shorts.missing(short); len(ids) > 0 {
		resp, err := w.call(ctx, &fnpb.InstructionRequest{Request: &fnpb.InstructionRequest_MonitoringInfos{
			MonitoringInfos: &fnpb.MonitoringInfosMetadataRequest{MonitoringInfoId: ids},
		}})
		var refused *refusedError
		if err != nil && !errors.As(err, &refused) {
			return nil, err
		}
		w.shorts.learn(resp.GetMonitoringInfos().GetMonitoringInfo())
	}
	return w.shorts.full(short), nil
}
