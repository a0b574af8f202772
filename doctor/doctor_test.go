package doctor_test

import (
	"bytes"
	"context"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"go4.org/netipx"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/alerting/webhook"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/detect/rules"
	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
)

// world is what a healthy Vedette depends on: three brokers, a Postgres and some
// files. Tests break one thing of it.
type world struct {
	t     *testing.T
	cfg   *config.Config
	o     doctor.Options
	addrs []string
	kafka *stream.Client
	dsn   string
	ticks int64

	server func(*doctor.ServerState) // changes what Postgres says of itself
	topic  func(*stream.TopicState)  // changes what the brokers say of a topic
}

const partitions = 2

// newWorld is healthy but for what prepare changes before anything runs.
func newWorld(t *testing.T, prepare ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, cfg: config.Default(), dsn: pgtest.NewDSN(t)}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w.addrs = cluster.ListenAddrs()
	w.kafka = w.client()

	w.cfg.DataDir = t.TempDir()
	w.cfg.Kafka.Brokers, w.cfg.Kafka.LogsPartitions, w.cfg.Kafka.ObservationPartitions = w.addrs, partitions, partitions
	w.cfg.API.ExternalURL = "https://vedette.example"
	w.cfg.Enrich.GeoDatabases = []string{database(t, time.Now())}
	logs := t.TempDir()
	write(t, filepath.Join(logs, "today.json"), "{}\n")
	w.cfg.Collect.Files = []config.FileSource{{Name: "local", Paths: []string{logs}}}
	w.cfg.Alerting.Receivers = []config.Receiver{{
		Name: "hook", Type: "webhook", URL: "https://hooks.example/x", Key: "a-signing-key-of-enough-length", MinSeverity: "medium",
	}}
	w.o = w.options()
	for _, p := range prepare {
		p(w)
	}
	return w
}

func (w *world) options() doctor.Options {
	return doctor.Options{
		Config:     w.cfg,
		OpenKafka:  func() (doctor.Kafka, error) { return brokers{w.client(), w}, nil },
		OpenLedger: w.open,
		Rules:      func() (*rule.Set, []rule.Warning, error) { return rule.ParseFS(rules.FS) },
		Notifier: func(r config.Receiver) (alerting.Notifier, error) {
			return webhook.New(webhook.Options{
				URL: r.URL, Secrets: []secret.String{r.Key},
				Client: alerting.NewClient(alerting.ClientOptions{}),
			})
		},
		Inventory: enrich.Inventory{Functions: []enrich.Function{{Name: "orders", Gateways: []string{"a1b2c3"}}}},
		Timeout:   20 * time.Second,
	}
}

// again is the world for one more test, which must leave topics and database as
// they are.
func (w *world) again(t *testing.T) *world {
	t.Helper()
	c, cfg := *w, *w.cfg
	c.t, c.cfg = t, &cfg
	c.o = c.options()
	c.tick() // or the clock in the log would stand still
	w.ticks = c.ticks
	return &c
}

// running brings the world to where a service has run: topics, layout, ticks,
// positions at their ends.
func running(w *world) {
	w.t.Helper()
	ctx := w.t.Context()
	topic := func(name string, n int) stream.Topic {
		return stream.Topic{Name: name, Partitions: n, Replication: 3, Retention: 7 * 24 * time.Hour}
	}
	if err := w.kafka.EnsureTopics(ctx, topic(stream.TopicLogs, partitions), topic(stream.TopicObservations, partitions), topic(stream.TopicDeadLetter, 1)); err != nil {
		w.t.Fatal(err)
	}
	w.tick()
}

// tick appends a record everywhere, which is then read.
func (w *world) tick() {
	w.t.Helper()
	w.ticks++
	for p := range int32(partitions) {
		w.produce(stream.TopicLogs, p, time.Now())
		w.produce(stream.TopicObservations, p, time.Now())
		w.position(p, w.ticks, w.ticks)
	}
}

func (w *world) client() *stream.Client {
	w.t.Helper()
	c, err := stream.NewClient(stream.Config{Brokers: w.addrs})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// produce appends one record with a stamp.
func (w *world) produce(topic string, partition int32, stamp time.Time) {
	w.t.Helper()
	p, err := w.kafka.NewProducer(stream.ProducerOptions{Topic: topic, Now: func() time.Time { return stamp }})
	if err != nil {
		w.t.Fatal(err)
	}
	// A broker that was killed a moment ago may cost some attempts.
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for range 60 {
		if _, err = p.Produce(w.t.Context(), partition, []stream.Record{{Value: []byte("{}")}}); !stream.Retriable(err) {
			break
		}
		<-again.C
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// position saves how far match and correlate have come on a partition.
func (w *world) position(partition int32, matched, correlated int64) {
	w.t.Helper()
	ctx := w.t.Context()
	db := pgtest.Open(w.t, storage.Options{DSN: w.dsn, MaxConns: 2})
	if err := db.EnsureLayout(ctx, partitions, partitions); err != nil {
		w.t.Fatal(err)
	}
	pos, err := db.AcquireSource(ctx, 0, partition)
	if err == nil {
		err = db.SaveSource(ctx, 0, partition, match.Position{Epoch: pos.Epoch, Next: matched})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	cp, err := db.Acquire(ctx, partition)
	if err == nil {
		err = db.Commit(ctx, correlate.Commit{Partition: partition, Epoch: cp.Epoch, Mark: correlate.Mark{Position: correlated}})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	db.Close()
}

// set changes a topic's configuration until the test ends.
func (w *world) set(topic, key, value string) {
	w.t.Helper()
	state, err := w.kafka.Inspect(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	w.alter(topic, key, value)
	w.t.Cleanup(func() { w.alter(topic, key, state.Topics[0].Config[key]) })
}

func (w *world) alter(topic, key, value string) {
	w.t.Helper()
	c := kafka.Client{Addr: kafka.TCP(w.addrs...)}
	res, err := c.IncrementalAlterConfigs(context.WithoutCancel(w.t.Context()), &kafka.IncrementalAlterConfigsRequest{
		Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: key, Value: value}},
		}},
	})
	if err == nil {
		err = res.Resources[0].Error
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// exec changes the database.
func (w *world) exec(sql string) {
	w.t.Helper()
	db := pgtest.Open(w.t, storage.Options{DSN: w.dsn, MaxConns: 1})
	defer db.Close()
	if _, err := db.Pool().Exec(context.WithoutCancel(w.t.Context()), sql); err != nil {
		w.t.Fatal(err)
	}
}

// ledger is a real one on a Postgres that, being for tests, does not sync.
type ledger struct {
	*storage.DB
	w *world
}

func (l ledger) ServerState(ctx context.Context) (doctor.ServerState, error) {
	s, err := l.DB.ServerState(ctx)
	s.Fsync, s.FullPageWrites, s.SynchronousCommit = true, true, "on"
	if l.w.server != nil {
		l.w.server(&s)
	}
	return s, err
}

func (w *world) open(ctx context.Context) (doctor.Ledger, error) {
	db, err := storage.Open(ctx, storage.Options{DSN: w.dsn, MaxConns: 1, ReadOnly: true, Patience: time.Millisecond})
	if err != nil {
		return nil, err
	}
	return ledger{db, w}, nil
}

// brokers are real ones that may be made to say what ours in memory cannot.
type brokers struct {
	*stream.Client
	w *world
}

func (b brokers) Inspect(ctx context.Context, topics ...string) (stream.ClusterState, error) {
	s, err := b.Client.Inspect(ctx, topics...)
	for i := range s.Topics {
		if b.w.topic != nil {
			b.w.topic(&s.Topics[i])
		}
	}
	return s, err
}

// run does all checks.
func (w *world) run() []doctor.Result {
	w.t.Helper()
	var rs []doctor.Result
	if err := doctor.Run(w.t.Context(), w.o, func(r doctor.Result) { rs = append(rs, r) }); err != nil {
		w.t.Fatal(err)
	}
	return rs
}

// finding is a result as a test expects it: texts are parts of what is said.
type finding struct {
	check  string
	status doctor.Status
	detail string
	remedy string
}

// expect runs and wants these findings and no other that is not ok.
func (w *world) expect(want ...finding) {
	w.t.Helper()
	for _, r := range w.run() {
		i := slices.IndexFunc(want, func(f finding) bool {
			return f.check == r.Check && f.status == r.Status && strings.Contains(r.Detail, f.detail) && strings.Contains(r.Remedy, f.remedy)
		})
		switch {
		case i >= 0:
			want = slices.Delete(want, i, i+1)
		case r.Status != doctor.OK:
			w.t.Errorf("unexpected: %s %s: %s → %s", r.Status, r.Check, r.Detail, r.Remedy)
		}
		if r.Detail == "" || (r.Status == doctor.Warn || r.Status == doctor.Fail) != (r.Remedy != "") {
			w.t.Errorf("%s %s: detail %q, remedy %q: want a detail always, a remedy where something is to be done", r.Status, r.Check, r.Detail, r.Remedy)
		}
	}
	for _, f := range want {
		w.t.Errorf("not found: %s %s: %s → %s", f.status, f.check, f.detail, f.remedy)
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// database writes one that knows countries and network operators.
func database(t *testing.T, built time.Time) string {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country-ASN", BuildEpoch: built.Unix(), IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Insert(netipx.PrefixIPNet(netip.MustParsePrefix("192.0.2.0/24")), mmdbtype.Map{
		"country":                        mmdbtype.Map{"iso_code": mmdbtype.String("DE")},
		"autonomous_system_number":       mmdbtype.Uint32(64500),
		"autonomous_system_organization": mmdbtype.String("Example Net"),
	}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "geo.mmdb")
	write(t, path, b.String())
	return path
}

func TestHealthy(t *testing.T) {
	w := newWorld(t, running)
	w.expect()
	checks := map[string]bool{}
	for _, r := range w.run() {
		checks[r.Check] = true
	}
	for _, want := range []string{
		"data_dir", "api certificate", "external_url", "collector local", "database " + w.cfg.Enrich.GeoDatabases[0],
		"inventory", "rules", "blind rules", "postgres", "postgres settings", "postgres connections", "postgres clock", "postgres schema", "layout",
		"kafka", "kafka brokers", "topic vedette.logs", "topic vedette.observations", "topic vedette.deadletter", "log clock",
		"match lag", "correlate lag", "receiver hook",
	} {
		if !checks[want] {
			t.Errorf("%s is not looked at", want)
		}
	}
}

// TestChangesNothing: a visit leaves files, topics and database as they were.
func TestChangesNothing(t *testing.T) {
	w := newWorld(t, func(w *world) { w.dsn = pgtest.EmptyDSN(t) })
	w.run()
	entries, err := os.ReadDir(w.cfg.DataDir)
	if err != nil || len(entries) > 0 {
		t.Errorf("the data directory holds %v (%v)", entries, err)
	}
	state, err := w.kafka.Inspect(t.Context(), stream.TopicLogs, stream.TopicObservations, stream.TopicDeadLetter)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range state.Topics {
		if topic.Err == nil {
			t.Errorf("topic %s was created", topic.Name)
		}
	}
	w.exec(`DO $$ BEGIN IF EXISTS (SELECT FROM information_schema.tables WHERE table_schema = 'public') THEN
		RAISE 'tables were created'; END IF; END $$`)
}

// stuck is Kafka that never answers.
type stuck struct{ doctor.Kafka }

func (stuck) Ping(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (stuck) Close() {}

// TestDeadline: what hangs is given up on, and the rest is looked at.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Default()
		cfg.DataDir = t.TempDir()
		began := time.Now()
		got := map[string]doctor.Status{}
		err := doctor.Run(t.Context(), doctor.Options{
			Config:     cfg,
			OpenKafka:  func() (doctor.Kafka, error) { return stuck{}, nil },
			OpenLedger: func(ctx context.Context) (doctor.Ledger, error) { <-ctx.Done(); return nil, ctx.Err() },
			Rules:      func() (*rule.Set, []rule.Warning, error) { return nil, nil, fs.ErrNotExist },
			Notifier:   func(config.Receiver) (alerting.Notifier, error) { return nil, nil },
			Timeout:    7 * time.Second,
		}, func(r doctor.Result) { got[r.Check] = r.Status })
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 14*time.Second {
			t.Errorf("took %v, want two deadlines of 7 s", took)
		}
		for check, want := range map[string]doctor.Status{
			"kafka": doctor.Fail, "postgres": doctor.Fail, "rules": doctor.Fail, "blind rules": doctor.Skip, "postgres schema": doctor.Skip,
			"layout": doctor.Skip, "topic vedette.logs": doctor.Skip, "log clock": doctor.Skip, "match lag": doctor.Skip,
			"correlate lag": doctor.Skip, "data_dir": doctor.OK, "receivers": doctor.Warn,
		} {
			if got[check] != want {
				t.Errorf("%s: %q, want %q", check, got[check], want)
			}
		}
	})
}

func TestCancelled(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := doctor.Run(ctx, w.o, func(doctor.Result) { n++; cancel() })
	if err == nil || n != 1 {
		t.Errorf("error %v after %d results, want it to end with the first", err, n)
	}
}
