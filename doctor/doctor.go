// Package doctor looks at everything that Vedette depends on and says what to do
// about what is wrong: configuration, Postgres, Kafka, topics, clocks, rules,
// databases, files, receivers, and how far the pipeline is behind.
//
// It changes nothing and may be run beside a working service at any time; the
// one exception is Options.SendTest. What it cannot look at because something
// before it failed is skipped, with the reason: mend that and ask again.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/stream"
)

// Status says how a check came out.
type Status string

// The statuses.
const (
	OK   Status = "ok"
	Warn Status = "warn" // works, but not as it should
	Fail Status = "fail" // does not work, or will lose something
	Skip Status = "skip" // could not be looked at
)

// Result is what one check found.
type Result struct {
	Check  string `json:"check"` // what was looked at, such as "topic vedette.logs"
	Status Status `json:"status"`
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // what to do; empty if nothing
}

// Kafka is what is asked of the brokers. [*stream.Client] is one.
type Kafka interface {
	Ping(ctx context.Context) error
	Inspect(ctx context.Context, topics ...string) (stream.ClusterState, error)
	MayWrite(ctx context.Context, topic string, partition int32) error
	Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error)
	RecordAt(ctx context.Context, topic string, partition int32, offset int64) (stream.Record, bool, error)
	Close()
}

// Ledger is what is asked of Postgres. None of it changes anything.
type Ledger interface {
	ServerState(ctx context.Context) (ServerState, error)
	SchemaState(ctx context.Context) (SchemaState, error)
	// Progress needs a schema that is up to date.
	Progress(ctx context.Context) (Progress, error)
	Close()
}

// ServerState is what a Postgres server says of itself and of this user.
type ServerState struct {
	Version           int       // as server_version_num: 150004 is 15.4
	Now               time.Time // its clock
	ReadOnly          bool      // a standby, or set so
	Encoding          string    // of the database
	Fsync             bool
	FullPageWrites    bool
	SynchronousCommit string
	Connections       int // that may be open at once, for this user and database
	Others            int // open now, but those of Vedette
	Own               int // open now by Vedette's processes, this one left out
	MayCreate         bool
	Schema            string // where tables are created and found; empty if nowhere
}

// SchemaState is how far the schema has been migrated.
type SchemaState struct {
	Have, Want   int64 // versions; Have is 0 for an empty database
	QueuePending bool  // the job queue's schema lacks migrations
	// Denied names tables that this user may not read and change; what else is said
	// is then incomplete.
	Denied string
}

// Progress is what is fixed and how far the pipeline has come.
type Progress struct {
	LayoutKnown           bool // false before the first start
	ObservationPartitions int
	SourcePartitions      int
	Sources               []Position // of match, on vedette.logs
	Observations          []Position // of correlate, on the observations
	Topic                 string     // of the observations; empty before the first start
}

// Position is the offset that is read next on a partition.
type Position struct {
	Partition int32
	Next      int64
	Known     bool // false if nothing was ever read
}

// Options say what to look at. The functions are all needed.
type Options struct {
	Config     *config.Config
	OpenKafka  func() (Kafka, error)
	OpenLedger func(ctx context.Context) (Ledger, error)
	// Rules loads the rules that the configuration names.
	Rules     func() (*rule.Set, []rule.Warning, error)
	Inventory enrich.Inventory // the configuration's
	// Notifier makes what tells a receiver, or says what is wrong with it.
	Notifier func(r config.Receiver) (alerting.Notifier, error)
	// SendTest sends a message to every receiver.
	SendTest bool

	Timeout time.Duration    // of one check; 15 s if zero
	Now     func() time.Time // time.Now if nil
}

// doctor is one visit.
type doctor struct {
	o    Options
	emit func(Result)

	kafka    Kafka  // nil: cannot be reached
	ledger   Ledger // nil: cannot be reached
	server   ServerState
	progress *Progress
	topics   map[string]stream.TopicState // those that exist
	rules    *rule.Set                    // nil: do not load
	keep     time.Duration                // of the rules
}

// Run does all checks, one after the other, and hands each result to emit as it
// comes. It returns early with ctx's error if ctx ends.
func Run(ctx context.Context, o Options, emit func(Result)) error {
	if o.Config == nil || o.OpenKafka == nil || o.OpenLedger == nil || o.Rules == nil || o.Notifier == nil {
		return errors.New("doctor: Options lack Config, OpenKafka, OpenLedger, Rules or Notifier")
	}
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &doctor{o: o, emit: emit, topics: map[string]stream.TopicState{}}
	defer func() {
		if d.ledger != nil {
			d.ledger.Close()
		}
		if d.kafka != nil {
			d.kafka.Close()
		}
	}()
	for _, check := range []func(context.Context){
		d.dataDir, d.tls, d.externalURL, d.collectors, d.databases, d.inventory, // this machine
		d.loadRules, d.blindRules, // rules
		d.postgres, d.schema, d.layout, // Postgres
		d.brokers, d.allTopics, d.logClock, // Kafka
		d.matchLag, d.correlateLag, // the pipeline
		d.receivers, // the world outside
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		cctx, cancel := context.WithTimeout(ctx, o.Timeout)
		check(cctx)
		cancel()
	}
	return ctx.Err()
}

func (d *doctor) ok(check, format string, args ...any) {
	d.emit(Result{Check: check, Status: OK, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) skip(check, format string, args ...any) {
	d.emit(Result{Check: check, Status: Skip, Detail: "not looked at: " + fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(check, remedy, format string, args ...any) {
	d.emit(Result{Check: check, Status: Warn, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (d *doctor) fail(check, remedy, format string, args ...any) {
	d.emit(Result{Check: check, Status: Fail, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

// check is a check that may find several things.
type check struct {
	d     *doctor
	name  string
	found int
}

func (d *doctor) check(name string) *check { return &check{d: d, name: name} }

func (c *check) ok(format string, args ...any) { c.d.ok(c.name, format, args...) }

func (c *check) warn(remedy, format string, args ...any) {
	c.found++
	c.d.warn(c.name, remedy, format, args...)
}

func (c *check) fail(remedy, format string, args ...any) {
	c.found++
	c.d.fail(c.name, remedy, format, args...)
}

// clean says whether nothing was found so far.
func (c *check) clean() bool { return c.found == 0 }

// round shows a duration with as many digits as people care for.
func round(t time.Duration) time.Duration {
	switch {
	case t < 0:
		return -round(-t)
	case t < time.Second:
		return t.Round(time.Millisecond)
	case t < time.Minute:
		return t.Round(100 * time.Millisecond)
	}
	return t.Round(time.Second)
}

// plural is n things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
