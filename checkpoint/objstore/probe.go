package objstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// ProbePrefix is where Probe writes. Objects under it are nobody else's, and come and go.
const ProbePrefix = "probe/"

// probeRivals is how many creates of one name Probe lets race.
const probeRivals = 4

// Probe finds out whether b can be trusted with checkpoints: that it can be written, read, listed and deleted in with the
// credentials at hand, and that of two Creates of a name the second fails, one after the other and at once. It takes about
// twelve requests, and leaves nothing behind. A store that overwrites gives ErrUnfenced: whoever goes on in spite of it
// must himself make sure that only one process uses the location.
func Probe(ctx context.Context, b Bucket) error {
	err := probe(ctx, b, ProbePrefix+rand.Text()+"/")
	if errors.Is(err, ErrUnfenced) {
		return &Error{Op: "probe", URL: fmt.Sprint(b), Err: err, Hint: "use a store with conditional writes (If-None-Match on PutObject: " +
			"AWS S3, MinIO, Ceph, R2; versitygw without --nometa), or allow an unfenced store and never start a job twice"}
	}
	if err != nil {
		return fmt.Errorf("probe %v: %w", b, err)
	}
	return nil
}

func probe(ctx context.Context, b Bucket, prefix string) (err error) {
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, cleanProbes(cctx, b, prefix))
	}()
	if err := probeTwice(ctx, b, prefix+"twice"); err != nil {
		return err
	}
	if err := probeRace(ctx, b, prefix+"race"); err != nil {
		return err
	}
	var names []string
	for o, err := range b.List(ctx, prefix) {
		if err != nil {
			return err
		}
		names = append(names, strings.TrimPrefix(o.Name, prefix))
	}
	if len(names) != 2 || names[0] != "race" || names[1] != "twice" {
		return fmt.Errorf("created race and twice below %s, the listing has %v: the store's listings are not up to date", prefix, names)
	}
	return nil
}

// probeTwice checks that a second Create fails and changes nothing.
func probeTwice(ctx context.Context, b Bucket, name string) error {
	first, second := []byte("first"), []byte("a later one")
	if err := create(ctx, b, name, first); err != nil {
		return err
	}
	switch err := create(ctx, b, name, second); {
	case err == nil:
		return ErrUnfenced
	case !errors.Is(err, ErrExists):
		return err
	}
	r, err := b.Open(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if bytes.Equal(got, second) {
		return fmt.Errorf("%w: it says that it refuses, and overwrites", ErrUnfenced)
	}
	if !bytes.Equal(got, first) {
		return fmt.Errorf("wrote %q to %s, read %q: the store does not keep what it is given", first, name, got)
	}
	return nil
}

// probeRace checks that of several Creates at once exactly one succeeds.
func probeRace(ctx context.Context, b Bucket, name string) error {
	var g errgroup.Group
	won := make([]bool, probeRivals)
	for i := range won {
		g.Go(func() error {
			err := create(ctx, b, name, fmt.Append(nil, "rival ", i))
			if won[i] = err == nil; won[i] || errors.Is(err, ErrExists) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	n := 0
	for _, w := range won {
		if w {
			n++
		}
	}
	switch {
	case n > 1:
		return fmt.Errorf("%w when several come at once: %d of %d succeeded", ErrUnfenced, n, probeRivals)
	case n == 0:
		return fmt.Errorf("create %s: %d at once all failed with %w: the store's conditional writes do not work", name, probeRivals, ErrExists)
	}
	return nil
}

func create(ctx context.Context, b Bucket, name string, content []byte) error {
	return b.Create(ctx, name, bytes.NewReader(content), int64(len(content)))
}

// cleanProbes removes this probe's objects, and those of probes that crashed.
func cleanProbes(ctx context.Context, b Bucket, mine string) error {
	var names []string
	limit := time.Now().Add(-StaleAfter)
	for o, err := range b.List(ctx, ProbePrefix) {
		if err != nil {
			return err
		}
		if strings.HasPrefix(o.Name, mine) || o.Modified.Before(limit) {
			names = append(names, o.Name)
		}
	}
	// Named even if the listing should lack them.
	return b.Delete(ctx, append(names, mine+"twice", mine+"race")...)
}
