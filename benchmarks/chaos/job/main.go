// Command job is the pipeline of benchmarks/chaos, Kafka -> running sum of each key, with a timer -> Kafka, and the pool of
// its harnesses:
//
//	job --pool PORT
//	job --brokers HOST:PORT --in TOPIC --out TOPIC --guarantee exactly_once --endpoint HOST:PORT \
//	    --environment_type EXTERNAL --environment_config HOST:PORT --async
//
// It is a module of its own because Beam's universal runner brings all the modules of Google's cloud.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal" // the runner
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/extworker"

	"github.com/tinyrunner/tinyrunner/benchmarks/chaos/ledger"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

func init() { //nolint:gochecknoinits // Beam finds functions by name, in a registry that must be filled before beam.Init
	beam.RegisterType(reflect.TypeFor[account]())
	register.DoFn5x1[state.Provider, timers.Provider, []byte, []byte, func([]byte, []byte), error](&keeper{})
	register.Emitter2[[]byte, []byte]()
}

// statementAfter is how long after a deposit the statement comes that knows of it.
const statementAfter = time.Second

// account is the state of a key.
type account struct {
	Count, Sum, Statements int64
	Waiting                bool // the timer is set
}

// keeper keeps accounts: it answers each deposit, and by a timer gives statements.
type keeper struct {
	Account state.Value[account]
	Due     timers.ProcessingTime
}

// ProcessElement answers a deposit.
func (k *keeper) ProcessElement(sp state.Provider, tp timers.Provider, key, value []byte, emit func([]byte, []byte)) error {
	number, amount, err := ledger.ParseDeposit(string(value))
	if err != nil {
		return err
	}
	a, _, err := k.Account.Read(sp)
	if err != nil {
		return err
	}
	a.Count++
	a.Sum += amount
	if !a.Waiting {
		a.Waiting = true
		k.Due.Set(tp, time.Now().Add(statementAfter))
	}
	emit(key, ledger.Entry{Kind: ledger.Deposit, Number: number, Count: a.Count, Amount: amount, Sum: a.Sum}.Append(nil))
	return k.Account.Write(sp, a)
}

// OnTimer gives a statement.
func (k *keeper) OnTimer(_ context.Context, _ beam.EventTime, sp state.Provider, _ timers.Provider, key []byte, _ timers.Context, emit func([]byte, []byte)) error {
	a, _, err := k.Account.Read(sp)
	if err != nil {
		return err
	}
	a.Statements++
	a.Waiting = false
	emit(key, ledger.Entry{Kind: ledger.Statement, Number: a.Statements, Count: a.Count, Sum: a.Sum}.Append(nil))
	return k.Account.Write(sp, a)
}

// options are the flags of a submission.
type options struct {
	brokers, in, out string
	guarantee        string
}

func main() {
	var o options
	port := flag.Int("pool", 0, "serve harnesses on this port instead of submitting")
	flag.StringVar(&o.brokers, "brokers", "", "host:port of the brokers, separated by commas")
	flag.StringVar(&o.in, "in", "deposits", "topic to read")
	flag.StringVar(&o.out, "out", "entries", "topic to write")
	flag.StringVar(&o.guarantee, "guarantee", string(kafka.ExactlyOnce), "exactly_once or at_least_once")
	flag.Parse() // with those of Beam
	beam.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *port != 0 {
		err = serve(ctx, *port)
	} else {
		err = submit(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "job:", err)
		stop()
		os.Exit(1)
	}
}

// serve starts harnesses for whoever asks.
func serve(ctx context.Context, port int) error {
	pool, err := extworker.StartLoopback(ctx, port)
	if err != nil {
		return fmt.Errorf("start pool: %w", err)
	}
	<-ctx.Done()
	return pool.Stop(context.WithoutCancel(ctx))
}

func build(o options) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	deposits := kafka.Read(s, o.brokers, []string{o.in})
	entries := beam.ParDo(s, &keeper{
		Account: state.MakeValueState[account]("account"),
		Due:     timers.InProcessingTime("due"),
	}, deposits)
	kafka.Write(s, o.brokers, o.out, entries, kafka.WithGuarantee(kafka.Guarantee(o.guarantee)))
	return p
}

// submit hands the job to the server at --endpoint.
func submit(ctx context.Context, o options) error {
	_, err := beam.Run(ctx, "universal", build(o))
	return err
}
