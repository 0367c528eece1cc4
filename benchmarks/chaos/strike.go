package main

import (
	"context"
	"fmt"
	"time"
)

// faults does all that is on the schedule.
func (c *chaos) faults(ctx context.Context) error {
	for c.reader.done.Load() == 0 {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	c.log.Info("the job runs, faults begin")
	plan := schedule(c.rand, c.o.kills)
	for i, f := range plan {
		if i%2 == 1 {
			if err := c.recovered(ctx); err != nil {
				return err
			}
		}
		if err := pause(ctx, between(c.rand, leastPause, c.o.pause)); err != nil {
			return err
		}
		c.log.Info("fault", "n", i+1, "of", len(plan), "target", string(f.target), "aim", string(f.aim), "answered", c.reader.done.Load(),
			"ahead", c.prod.sent.Load()-c.reader.done.Load(), "recovery_ms_p50", c.rec.quantile(0.5), "rss_mb_max", c.rss.max.Load()>>10)
		if err := c.strike(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// recovered waits until there is new output. Faults that always come before that would stop any job on a slow machine.
func (c *chaos) recovered(ctx context.Context) error {
	for done, began := c.reader.done.Load(), time.Now(); c.reader.done.Load() == done && time.Since(began) < mostWait; {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) strike(ctx context.Context, f fault) error {
	switch f.target {
	case harness:
		c.pool.kill(0)
		c.result.HarnessKills++
	case store:
		c.s3.kill(between(c.rand, 0, mostDown))
		c.result.S3Kills++
	case broker:
		c.brokers.Go(func() error { // not before it has come back from the kill before
			c.broker.Kill()
			if err := c.broker.Restart(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("restart broker: %w", err)
			}
			return nil
		})
		c.result.BrokerKills++
	case runner:
		return c.strikeRunner(ctx, f.aim)
	}
	return nil
}

// strikeRunner kills tinyrunner when the time has come.
func (c *chaos) strikeRunner(ctx context.Context, a aim) error {
	switch a {
	case atUpload:
		newObject(ctx, c.storeDir(), "/files/", aimTimeout)
	case atManifest:
		newObject(ctx, c.storeDir(), "/log/", aimTimeout)
	case atRestore:
		return c.strikeTwice(ctx, `msg="restoring checkpoint"`)
	case atEndTxn:
		return c.strikeTwice(ctx, `committing the transaction of the restored checkpoint`)
	case atReady:
		return c.strikeTwice(ctx, `msg="tinyrunner is ready"`)
	case anyTime:
		return c.kill(ctx)
	}
	if err := pause(ctx, between(c.rand, 0, jitter)); err != nil {
		return err
	}
	return c.kill(ctx)
}

// strikeTwice kills tinyrunner, and the next one when it says text.
func (c *chaos) strikeTwice(ctx context.Context, text string) error {
	said, cancel := c.said.expect(text)
	defer cancel()
	if err := c.kill(ctx); err != nil {
		return err
	}
	select {
	case <-said:
	case <-time.After(aimTimeout):
		c.log.Info("the aim was missed", "text", text)
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := pause(ctx, between(c.rand, 0, jitter)); err != nil {
		return err
	}
	return c.kill(ctx)
}

// kill kills tinyrunner, once it runs.
func (c *chaos) kill(ctx context.Context) error {
	for {
		c.rec.kill(time.Now())
		if c.runner.kill(0) {
			c.result.Kills++
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
