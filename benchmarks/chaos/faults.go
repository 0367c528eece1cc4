package main

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"
)

// target of a fault.
type target string

const (
	runner  target = "tinyrunner"
	harness target = "harness"
	store   target = "s3"
	broker  target = "broker"
)

// aim says at which moment tinyrunner is killed.
type aim string

const (
	anyTime    aim = "any time"
	atUpload   aim = "upload"             // an object of a checkpoint appears
	atManifest aim = "manifest"           // a manifest appears: from here on transactions are committed
	atRestore  aim = "restore"            // the next process says that it restores
	atEndTxn   aim = "restored commit"    // the next process says that it commits the restored checkpoint's transactions
	atReady    aim = "before it is ready" // the next process has just begun
)

// fault is one kill, or two for aims at what comes after one.
type fault struct {
	target target
	aim    aim
}

// Times of faults.
const (
	leastPause = 500 * time.Millisecond

	mostWait   = 20 * time.Second      // for new output, before each second fault
	aimTimeout = 4 * time.Second       // then it is killed without an aim
	jitter     = 40 * time.Millisecond // added to an aim, at most: what follows has its turn too
	mostDown   = 2 * time.Second       // of the S3 server
)

// schedule makes a random order of faults with n kills of tinyrunner.
func schedule(r *rand.Rand, n int) []fault {
	var out []fault
	for left := n; left > 0; {
		f := fault{runner, anyTime}
		if r.IntN(2) == 0 {
			f.aim = []aim{atUpload, atManifest, atRestore, atEndTxn, atReady}[r.IntN(5)]
		}
		if f.kills() > left {
			f.aim = anyTime
		}
		left -= f.kills()
		out = append(out, f)
	}
	for t, count := range map[target]int{harness: n / 10, store: n / 10, broker: n / 20} {
		for range max(1, count) {
			out = append(out, fault{t, anyTime})
		}
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// kills is how many kills of tinyrunner a fault is.
func (f fault) kills() int {
	switch {
	case f.target != runner:
		return 0
	case f.aim == atRestore, f.aim == atEndTxn, f.aim == atReady:
		return 2
	default:
		return 1
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// between is a random time.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

// newObject waits until a file appears below dir with part in its path. It reports false when the time is over.
func newObject(ctx context.Context, dir, part string, timeout time.Duration) bool {
	before := objects(dir, part)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for pause(ctx, 2*time.Millisecond) == nil {
		for name := range objects(dir, part) {
			if !before[name] {
				return true
			}
		}
	}
	return false
}

func objects(dir, part string) map[string]bool {
	found := make(map[string]bool)
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { // what goes away meanwhile is not new
		if err == nil && !d.IsDir() && strings.Contains(path, part) {
			found[path] = true
		}
		return nil
	})
	return found
}
