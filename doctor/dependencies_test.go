package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
)

func TestPostgres(t *testing.T) {
	shared := newWorld(t, running)
	const (
		pg, clock, settings, connections, schema = "postgres", "postgres clock", "postgres settings", "postgres connections", "postgres schema"

		ok, warn, fail, skip = doctor.OK, doctor.Warn, doctor.Fail, doctor.Skip
	)
	server := func(f func(*doctor.ServerState)) func(*world) { return func(w *world) { w.server = f } }
	for _, tt := range []struct {
		name string
		bend func(*world)
		want []finding
	}{
		{"away", func(w *world) { w.dsn = "postgres://nobody@127.0.0.1:1/none" }, []finding{
			{pg, fail, "connect", "postgres.dsn"},
			{schema, skip, "Postgres cannot be reached", ""},
			{"layout", skip, "", ""},
			{"match lag", skip, "", ""},
			{"correlate lag", skip, "", ""},
		}},
		{"no such database", func(w *world) { w.dsn = pgtest.Server(w.t).DSNOf("none") }, []finding{
			{pg, fail, "none", "postgres.dsn"}, {schema, skip, "", ""}, {"layout", skip, "", ""}, {"match lag", skip, "", ""}, {"correlate lag", skip, "", ""},
		}},
		{"old", server(func(s *doctor.ServerState) { s.Version = 130012 }), []finding{{pg, fail, "version 13", "14 or later"}}},
		{"just new enough", server(func(s *doctor.ServerState) { s.Version = 140000 }), []finding{{pg, ok, "version 14.0", ""}}},
		{"clock ahead", server(func(s *doctor.ServerState) { s.Now = s.Now.Add(time.Hour) }), []finding{{clock, fail, "ahead of ours", "NTP"}}},
		{"clock behind", server(func(s *doctor.ServerState) { s.Now = s.Now.Add(-10 * time.Second) }), []finding{{clock, warn, "behind ours", "NTP"}}},
		{"standby", server(func(s *doctor.ServerState) { s.ReadOnly = true }), []finding{{settings, fail, "no writes", "primary"}}},
		{"encoding", server(func(s *doctor.ServerState) { s.Encoding = "SQL_ASCII" }), []finding{{settings, fail, "SQL_ASCII", "UTF8"}}},
		{"no fsync", server(func(s *doctor.ServerState) { s.Fsync, s.FullPageWrites = false, false }), []finding{
			{settings, fail, "corrupt", "fsync = on"}, {settings, warn, "", "full_page_writes = on"},
		}},
		{"asynchronous", server(func(s *doctor.ServerState) { s.SynchronousCommit = "off" }), []finding{{settings, warn, "take back", "synchronous_commit = on"}}},
		{"read only", func(w *world) { w.dsn += "&default_transaction_read_only=on" }, []finding{{settings, fail, "no writes", "default_transaction_read_only"}}},
		{"few connections", func(w *world) {
			w.ownDatabase()
			w.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 5', current_database()); END $$`)
		}, []finding{{connections, warn, "of 5 free", "max_connections"}}},
		{"no connections", server(func(s *doctor.ServerState) { s.Others = s.Connections }), []finding{{connections, fail, "none of", "max_connections"}}},
		{"connections in use by Vedette", server(func(s *doctor.ServerState) { s.Connections, s.Others, s.Own = 40, 20, 18 }), []finding{
			{connections, ok, "2 of 40 free, 18 held by Vedette", ""},
		}},
		{"older schema", func(w *world) {
			w.ownDatabase()
			w.exec(`DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`)
		}, []finding{
			{schema, warn, "this Vedette wants", "restart"}, {"layout", skip, "", ""}, {"match lag", skip, "", ""}, {"correlate lag", skip, "", ""},
		}},
		{"older queue", func(w *world) {
			w.ownDatabase()
			w.exec(`DELETE FROM river_migration WHERE version = (SELECT max(version) FROM river_migration)`)
		}, []finding{{schema, warn, "", "restart"}, {"layout", skip, "", ""}, {"match lag", skip, "", ""}, {"correlate lag", skip, "", ""}}},
		{"newer schema", func(w *world) {
			w.ownDatabase()
			w.exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`)
		}, []finding{
			{schema, fail, "newer Vedette", "run the newer"}, {"layout", skip, "", ""}, {"match lag", skip, "", ""}, {"correlate lag", skip, "", ""},
		}},
		{"no rights", func(w *world) { w.asStranger("") }, []finding{
			{schema, fail, "may not", "GRANT"}, {"layout", skip, "", ""}, {"match lag", skip, "", ""}, {"correlate lag", skip, "", ""},
		}},
		{"may only read", func(w *world) { w.asStranger("GRANT SELECT ON ALL TABLES IN SCHEMA public TO %[1]s") }, []finding{
			{schema, fail, "may not read and change checkpoint, finding", "GRANT"}, {"layout", skip, "", ""}, {"match lag", skip, "", ""}, {"correlate lag", skip, "", ""},
		}},
		{"layout", func(w *world) { w.cfg.Kafka.ObservationPartitions = 4 }, []finding{
			{"layout", fail, "fixes 2 partitions of observations", "kafka.observation_partitions to 2"},
			{"topic vedette.observations", fail, "it has 2 partitions, the configuration says 4", ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := shared.again(t)
			tt.bend(w)
			w.expect(tt.want...)
		})
	}
}

// ownDatabase gives a test that changes the database one of its own.
func (w *world) ownDatabase() {
	w.t.Helper()
	w.dsn = pgtest.NewDSN(w.t)
	for p := range int32(partitions) {
		w.position(p, w.ticks, w.ticks)
	}
}

// asStranger signs in as a user who owns nothing, granted what the statement says.
func (w *world) asStranger(grant string) {
	role := fmt.Sprintf("stranger_%d", time.Now().UnixNano())
	w.exec("CREATE ROLE " + role)
	w.t.Cleanup(func() {
		w.exec("DROP OWNED BY " + role)
		w.exec("DROP ROLE " + role)
	})
	if grant != "" {
		w.exec(fmt.Sprintf(grant, role))
	}
	dsn := w.dsn
	w.o.OpenLedger = func(ctx context.Context) (doctor.Ledger, error) {
		db, err := storage.Open(ctx, storage.Options{DSN: dsn + "&role=" + role, MaxConns: 1, ReadOnly: true, Patience: time.Millisecond})
		if err != nil {
			return nil, err
		}
		return ledger{db, w}, nil
	}
}

func TestFirstStart(t *testing.T) {
	w := newWorld(t, func(w *world) { w.dsn = pgtest.EmptyDSN(t) })
	w.expect(
		finding{"postgres schema", doctor.Warn, "the database is empty", "migrates when it starts"},
		finding{"layout", doctor.Skip, "", ""},
		finding{"topic vedette.logs", doctor.Warn, "not there yet", "vedette run"},
		finding{"topic vedette.observations", doctor.Warn, "not there yet", "vedette run"},
		finding{"topic vedette.deadletter", doctor.Warn, "not there yet", "vedette run"},
		finding{"log clock", doctor.Skip, "", ""},
		finding{"match lag", doctor.Skip, "", ""},
		finding{"correlate lag", doctor.Skip, "", ""},
	)
	// Migrated, but never run.
	w.dsn = pgtest.NewDSN(t)
	if err := w.kafka.EnsureTopics(t.Context(), stream.Topic{Name: stream.TopicLogs, Partitions: partitions, Replication: 3}); err != nil {
		t.Fatal(err)
	}
	w.expect(
		finding{"layout", doctor.OK, "not fixed yet", ""},
		finding{"topic vedette.observations", doctor.Warn, "not there yet", "vedette run"},
		finding{"topic vedette.deadletter", doctor.Warn, "not there yet", "vedette run"},
		finding{"log clock", doctor.OK, "nothing has been appended yet", ""},
		finding{"match lag", doctor.OK, "0 records behind", ""},
		finding{"correlate lag", doctor.Skip, "", ""},
	)
}

func TestKafka(t *testing.T) {
	shared := newWorld(t, running)
	const (
		logs, observations, dead = "topic vedette.logs", "topic vedette.observations", "topic vedette.deadletter"

		ok, warn, fail, skip = doctor.OK, doctor.Warn, doctor.Fail, doctor.Skip
	)
	set := func(key, value string) func(*world) {
		return func(w *world) { w.set(stream.TopicLogs, key, value) }
	}
	// What a broker in memory cannot be brought to.
	says := func(f func(*stream.TopicState)) func(*world) {
		return func(w *world) {
			w.topic = func(s *stream.TopicState) {
				if s.Name == stream.TopicLogs {
					f(s)
				}
			}
		}
	}
	for _, tt := range []struct {
		name string
		bend func(*world)
		want []finding
	}{
		{"away", func(w *world) { w.addrs = []string{"127.0.0.1:1"} }, []finding{
			{"kafka", fail, "connection refused", "kafka.brokers"},
			{logs, skip, "Kafka cannot be reached", ""},
			{observations, skip, "", ""},
			{dead, skip, "", ""},
			{"log clock", skip, "", ""},
			{"match lag", skip, "", ""},
			{"correlate lag", skip, "", ""},
		}},
		{"bad configuration", func(w *world) {
			w.o.OpenKafka = func() (doctor.Kafka, error) { return nil, errors.New("kafka sasl: no password") }
		}, []finding{
			{"kafka", fail, "no password", "configuration"},
			{logs, skip, "", ""},
			{observations, skip, "", ""},
			{dead, skip, "", ""},
			{"log clock", skip, "", ""},
			{"match lag", skip, "", ""},
			{"correlate lag", skip, "", ""},
		}},
		{"too few brokers", func(w *world) { w.cfg.Kafka.Replication = 5 }, []finding{
			{"kafka brokers", fail, "3 brokers up, but kafka.replication is 5", "5 brokers"},
			{logs, fail, "replication is 3, the configuration says 5", "reassign"},
			{observations, fail, "replication is 3", ""},
			{dead, fail, "replication is 3", ""},
		}},
		{"messages too small", set("max.message.bytes", "1000000"), []finding{{logs, fail, "max.message.bytes is 1000000", "--add-config max.message.bytes=4259840"}}},
		{"one copy is enough", set("min.insync.replicas", "1"), []finding{{logs, fail, "one copy", "min.insync.replicas=2"}}},
		{"all copies needed", set("min.insync.replicas", "3"), []finding{{logs, warn, "one broker down stops", "min.insync.replicas=2"}}},
		{"compacted", set("cleanup.policy", "compact"), []finding{{logs, fail, "compaction", "cleanup.policy=delete"}}},
		{"short", set("retention.ms", "3600000"), []finding{{logs, fail, "kept 1h0m0s, but the rules need 11h", "retention.ms="}}},
		{"for ever", set("retention.ms", "-1"), []finding{{logs, ok, "kept for ever", ""}}},
		{"bounded by size", set("retention.bytes", "1000000000"), []finding{{logs, warn, "a flood shortens", "retention.bytes=-1"}}},
		{"dead letters need not be kept", func(w *world) { w.set(stream.TopicDeadLetter, "retention.ms", "1000") }, []finding{{dead, ok, "kept 1s", ""}}},
		{"more needed than can be", says(func(s *stream.TopicState) { s.Config["min.insync.replicas"] = "4" }), []finding{{logs, fail, "nothing can be written", ""}}},
		{"unclean election", says(func(s *stream.TopicState) { s.Config["unclean.leader.election.enable"] = "true" }), []finding{
			{logs, fail, "may vanish", "unclean.leader.election.enable=false"},
		}},
		{"a broker down", says(func(s *stream.TopicState) { s.InSync = 2 }), []finding{{logs, warn, "2 of 3 copies in sync", "bring the brokers"}}},
		{"two brokers down", says(func(s *stream.TopicState) { s.InSync = 1 }), []finding{{logs, fail, "nothing can be written", "bring the brokers"}}},
		{"leaderless", says(func(s *stream.TopicState) { s.Leaderless = []int32{1} }), []finding{{logs, fail, "1 partition of 2 without a leader (1 first)", "bring the brokers"}}},
		{"one copy", func(w *world) {
			w.cfg.Kafka.Replication = 1
			says(func(s *stream.TopicState) { s.Replication, s.InSync, s.Config["min.insync.replicas"] = 1, 1, "1" })(w)
		}, []finding{{logs, warn, "one copy", "production wants 3"}}},
		{"settings hidden", says(func(s *stream.TopicState) { s.Config, s.ConfigErr = nil, stream.ErrDenied }), []finding{{logs, warn, "cannot be read", "DESCRIBE_CONFIGS"}}},
		{"hidden", says(func(s *stream.TopicState) { *s = stream.TopicState{Name: s.Name, Err: stream.ErrDenied} }), []finding{
			{logs, fail, "not allowed", "DESCRIBE"}, {"log clock", skip, "", ""}, {"match lag", skip, "", ""},
		}},
		{"gone", says(func(s *stream.TopicState) { *s = stream.TopicState{Name: s.Name, Err: stream.ErrNoTopic} }), []finding{
			{logs, fail, "although Vedette has run before", "vedette repair"}, {"log clock", skip, "", ""}, {"match lag", skip, "", ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := shared.again(t)
			tt.bend(w)
			w.expect(tt.want...)
		})
	}
}

// TestAccessLists: a user who may only look is told what to be allowed.
func TestAccessLists(t *testing.T) {
	acl := func(op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: "vedette.", Pattern: kmsg.ACLResourcePatternTypePrefixed, Operation: op, Allow: true}
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "root", "pw"),
		kfake.User("PLAIN", "looker", "pw", acl(kmsg.ACLOperationDescribe), acl(kmsg.ACLOperationDescribeConfigs)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	as := func(user string) *stream.Client {
		c, err := stream.NewClient(stream.Config{
			Brokers: cluster.ListenAddrs(), SASL: stream.SASLConfig{Mechanism: "PLAIN", Username: user, Password: "pw"},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	w := newWorld(t)
	w.cfg.Kafka.Replication = 1
	if err := as("root").EnsureTopics(t.Context(), stream.Topic{Name: stream.TopicLogs, Partitions: partitions},
		stream.Topic{Name: stream.TopicObservations, Partitions: partitions}, stream.Topic{Name: stream.TopicDeadLetter, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	w.o.OpenKafka = func() (doctor.Kafka, error) { return brokers{as("looker"), w}, nil }
	var want []finding
	for _, topic := range []string{stream.TopicLogs, stream.TopicObservations, stream.TopicDeadLetter} {
		want = append(want,
			finding{"topic " + topic, doctor.Warn, "one copy", ""},
			finding{"topic " + topic, doctor.Fail, "may not read it", "READ"},
			finding{"topic " + topic, doctor.Fail, "may not write it", "WRITE"})
	}
	w.expect(want...)
}

func TestLogClock(t *testing.T) {
	const check = "log clock"
	for _, tt := range []struct {
		name  string
		stamp []time.Duration // of the last record of each partition, from now
		want  finding
	}{
		{"ticking", []time.Duration{-time.Second, 0}, finding{check, doctor.OK, "behind ours on the slowest", ""}},
		{"one stands still", []time.Duration{0, -time.Hour}, finding{check, doctor.Fail, "partition 1 for 1h0m", "tick each second"}},
		{"a writer ahead", []time.Duration{5 * time.Second, 0}, finding{check, doctor.Warn, "ahead of ours", "NTP"}},
		{"a writer far ahead", []time.Duration{0, 10 * time.Minute}, finding{check, doctor.Fail, "ahead of ours", "NTP"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, running)
			for p, d := range tt.stamp {
				w.produce(stream.TopicLogs, int32(p), time.Now().Add(d))
				w.position(int32(p), 2, 1)
			}
			w.expect(tt.want)
		})
	}
	t.Run("a partition never written", func(t *testing.T) {
		w := newWorld(t)
		if err := w.kafka.EnsureTopics(t.Context(), stream.Topic{Name: stream.TopicLogs, Partitions: 2, Replication: 3},
			stream.Topic{Name: stream.TopicObservations, Partitions: 2, Replication: 3}, stream.Topic{Name: stream.TopicDeadLetter, Partitions: 1, Replication: 3}); err != nil {
			t.Fatal(err)
		}
		w.produce(stream.TopicLogs, 1, time.Now())
		w.expect(finding{check, doctor.Fail, "1 partition of 2 without any record", "ticks"})
	})
}

func TestLag(t *testing.T) {
	for _, tt := range []struct {
		name string
		bend func(*world)
		want []finding
	}{
		{"a little", func(w *world) { w.behind(stream.TopicLogs, 5, 2*time.Second) }, []finding{
			{"match lag", doctor.OK, "5 records behind, the oldest for 2", ""},
		}},
		{"match behind", func(w *world) { w.behind(stream.TopicLogs, 3, 5*time.Minute) }, []finding{
			{"match lag", doctor.Warn, "3 records behind, the oldest for 5m", "role match"},
		}},
		{"correlate far behind", func(w *world) { w.behind(stream.TopicObservations, 7, 3*time.Hour) }, []finding{
			{"correlate lag", doctor.Fail, "7 records behind, the oldest for 3h", "role correlate"},
		}},
		{"topic cut", func(w *world) { w.position(1, 9, 1) }, []finding{
			{"match lag", doctor.Fail, "partition 1 ends at 1, but was read up to 9", "replaced or cut"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, running)
			tt.bend(w)
			w.expect(tt.want...)
		})
	}
	t.Run("never read", func(t *testing.T) {
		w := newWorld(t, running)
		w.exec(`DELETE FROM source_position; DELETE FROM checkpoint`)
		w.expect(finding{"match lag", doctor.OK, "2 records behind", ""}, finding{"correlate lag", doctor.OK, "2 records behind", ""})
	})
	t.Run("removed unread", func(t *testing.T) {
		w := newWorld(t, running)
		for range 5 {
			w.produce(stream.TopicLogs, 0, time.Now())
		}
		w.o.OpenKafka = func() (doctor.Kafka, error) { return trimmed{brokers{w.client(), w}}, nil }
		w.expect(finding{"match lag", doctor.Fail, "partition 0 begins at 4, but was read up to 1 only: 3 records were removed unread", "retention"})
	})
}

// behind appends records that have not been read, of which the first has this age.
// The last is of now: the clock goes on.
func (w *world) behind(topic string, n int, age time.Duration) {
	w.t.Helper()
	w.produce(topic, 0, time.Now().Add(-age))
	for range n - 1 {
		w.produce(topic, 0, time.Now())
	}
}

// trimmed is Kafka whose partition 0 of the log lost its beginning to retention.
type trimmed struct{ brokers }

func (b trimmed) Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	if topic == stream.TopicLogs && partition == 0 {
		first, end, err = b.brokers.Bounds(ctx, topic, partition)
		return first + 4, end, err
	}
	return b.brokers.Bounds(ctx, topic, partition)
}

// broken is a Postgres that fails after it was reached.
type broken struct{ doctor.Ledger }

func (b broken) SchemaState(context.Context) (doctor.SchemaState, error) {
	return doctor.SchemaState{}, &pgconn.PgError{Code: "53100", Message: "no space left on device"}
}

func TestPostgresFailsOnTheWay(t *testing.T) {
	w := newWorld(t, running)
	open := w.o.OpenLedger
	w.o.OpenLedger = func(ctx context.Context) (doctor.Ledger, error) {
		l, err := open(ctx)
		return broken{l}, err
	}
	w.expect(
		finding{"postgres schema", doctor.Fail, "no space left", "log"},
		finding{"layout", doctor.Skip, "", ""}, finding{"match lag", doctor.Skip, "", ""}, finding{"correlate lag", doctor.Skip, "", ""},
	)
}
