package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// endpoint is a call, with what it can be made about.
type endpoint struct {
	path  string // as the API's document has it
	urls  []string
	bytes int
}

// queries are the parameters with which clients make calls that do little without.
func queries() map[string]string {
	return map[string]string{
		"/jobs/{job}/vertices/{vertex}/subtasks/metrics": "?get=busyTimeMsPerSecond,numRecordsInPerSecond,backPressuredTimeMsPerSecond",
		"/jobs/{job}/vertices/{vertex}/flamegraph":       "?type=on_cpu",
	}
}

// endpoints are all calls that only read, of the API's document.
func (i *instance) endpoints(ctx context.Context) ([]*endpoint, error) {
	var document struct{ Paths map[string]map[string]any }
	var job struct{ Vertices []struct{ ID string } }
	if err := errors.Join(i.get(ctx, "/openapi.json", &document), i.get(ctx, "/jobs/"+i.job, &job)); err != nil {
		return nil, err
	}
	checkpoint, trigger, err := i.checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	fill := strings.NewReplacer("{job}", i.job, "{checkpoint}", checkpoint, "{trigger}", trigger, "{taskmanager}", "tinyrunner",
		"{subtask}", "0", "{attempt}", "0", "{file}", "tinyrunner.log")
	var out []*endpoint
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		if _, ok := document.Paths[path]["get"]; !ok || strings.HasSuffix(path, "/yarn-cancel") {
			continue
		}
		e := &endpoint{path: path}
		url := fill.Replace(path) + queries()[path]
		for _, v := range job.Vertices {
			e.urls = append(e.urls, strings.ReplaceAll(url, "{vertex}", v.ID))
			if !strings.Contains(url, "{vertex}") {
				break
			}
		}
		text, err := i.read(ctx, e.urls[0])
		if err != nil && strings.HasSuffix(path, "/{trigger}") {
			continue // of another kind of operation
		}
		if err != nil {
			return nil, err
		}
		e.bytes = len(text)
		out = append(out, e)
	}
	return out, nil
}

// checkpoint makes one, and returns its id and that of the call.
func (i *instance) checkpoint(ctx context.Context) (id, trigger string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.base+"/jobs/"+i.job+"/checkpoints", bytes.NewReader([]byte("{}")))
	if err != nil {
		return "", "", err
	}
	resp, err := i.client.Do(req)
	if err != nil {
		return "", "", err
	}
	var triggered struct {
		ID string `json:"request-id"`
	}
	if err := errors.Join(json.NewDecoder(resp.Body).Decode(&triggered), resp.Body.Close()); err != nil {
		return "", "", fmt.Errorf("trigger checkpoint: %w", err)
	}
	for range 300 {
		var status struct {
			Operation struct{ CheckpointID int64 }
		}
		if err := i.get(ctx, "/jobs/"+i.job+"/checkpoints/"+triggered.ID, &status); err != nil {
			return "", "", err
		}
		if n := status.Operation.CheckpointID; n > 0 {
			return fmt.Sprint(n), triggered.ID, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", "", errors.New("trigger checkpoint: it is not complete after half a minute")
}
