package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
)

const (
	// maxEmbedded is how many records of a backlog the embedded broker may hold in
	// memory.
	maxEmbedded = 500_000
	// sampleEvery is how often the lag is noted.
	sampleEvery = 250 * time.Millisecond
	// liveWithin is how far behind the wall clock A may stand in a live service:
	// ticks move it once a second.
	liveWithin = 4 * time.Second
	// assembledWithin bounds the wait for incidents behind the last record.
	assembledWithin = 10 * time.Minute
	// displaced events, one of five, happened up to so long before their append.
	displaced = 10 * time.Minute
)

// Backlog measures how a service catches up. Records go through a service while
// they are appended, which is the live run. Then another one, with a ledger and
// observations of its own, starts at the beginning of the same log: what it has
// before it has been queued in whole. Both have to find the same, to the last
// pointer; if not, the report says so and [BacklogReport.Err] is not nil.
//
// Of o it takes Events, Stateful, Rules, Brokers, DSN and Dir. The user of a DSN
// has to be allowed to create a database; it is dropped again.
func Backlog(ctx context.Context, o Options) (*BacklogReport, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if len(o.Brokers) == 0 && o.Events > maxEmbedded {
		return nil, fmt.Errorf("bench: a backlog of %d records: the embedded broker holds all in memory, at most %d; name a Kafka with --brokers", o.Events, maxEmbedded)
	}
	dir, err := os.MkdirTemp(o.Dir, "vedette-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may have to run as another user
		return nil, fmt.Errorf("bench: %w", err)
	}
	paths, err := rulePaths(dir, &o, probeRules+backlogRules)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	set, _, err := rule.Load(paths)
	if err != nil {
		return nil, fmt.Errorf("bench: load rules: %w", err)
	}
	r := &BacklogReport{
		Machine: Machine{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH},
		Rules:   len(set.Rules), Stateful: len(set.Correlations), Broker: "embedded, in memory", Events: o.Events,
	}
	if len(o.Brokers) > 0 {
		r.Broker = "given"
	}
	s, err := openSite(ctx, dir, paths, &o, app.Retention{})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer s.stop()
	if err := s.backlog(ctx, r); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return r, nil
}

func (s *site) backlog(ctx context.Context, r *BacklogReport) (err error) {
	if err := s.boot(ctx); err != nil {
		return err
	}
	var live effects
	if r.Live, err = s.flood(ctx, s.o.Events, "live run", 0, displacedTime(1)); err != nil {
		return err
	}
	if live, err = s.assembled(ctx, "live run: incidents"); err != nil {
		return err
	}
	s.app.Stop()
	s.app = nil

	drop, err := s.afresh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	var late effects
	runtime.GC()
	resetPeak()
	if err := s.catchUp(ctx, r); err != nil {
		return err
	}
	if late, err = s.assembled(ctx, "backlog: incidents"); err != nil {
		return err
	}
	_, r.Memory.PeakRSS = resident()
	s.app.Stop()
	s.app = nil
	r.compare(live, late)
	return nil
}

// displacedTime is the time of events as they are appended, but for one of five,
// which is older.
func displacedTime(seed uint64) func() time.Time {
	var mu sync.Mutex
	rnd := mrand.New(mrand.NewPCG(seed, 11))
	return func() time.Time {
		mu.Lock()
		n := rnd.Uint64()
		mu.Unlock()
		now := time.Now()
		if n%5 == 0 {
			now = now.Add(-time.Duration((n >> 8) % uint64(displaced)))
		}
		return now
	}
}

// afresh puts the site back to where nothing has been read: it makes a database of
// its own and deletes the observations. drop takes the database away again, once
// the service has stopped.
func (s *site) afresh(ctx context.Context) (drop func() error, err error) {
	s.o.Progress(Progress{Stage: "a service that knows nothing"})
	if err := s.client.DeleteTopic(ctx, stream.TopicObservations); err != nil {
		return nil, err
	}
	first := s.cfg.Postgres.DSN
	name := "vedette_backlog_" + strings.ToLower(rand.Text()[:12])
	if err := exec(ctx, first, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return nil, fmt.Errorf("create a database for the second run: %w", err)
	}
	s.cfg.Postgres.DSN = secret.String(withDatabase(first.Reveal(), name))
	return func() error {
		if s.app != nil {
			s.app.Stop()
			s.app = nil
		}
		if err := exec(context.WithoutCancel(ctx), first, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("drop the database of the second run: %w", err)
		}
		return nil
	}, nil
}

func exec(ctx context.Context, dsn secret.String, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, dsn.Reveal())
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql)
	return err
}

// withDatabase is a DSN, a URL or words, of another database.
func withDatabase(dsn, name string) string {
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		u.Path = "/" + name
		return u.String()
	}
	return dsn + " dbname=" + name
}

// catchUp starts the service in front of the queue and returns once it is live.
func (s *site) catchUp(ctx context.Context, r *BacklogReport) error {
	began := time.Now()
	if err := s.boot(ctx); err != nil {
		return err
	}
	n := int64(s.o.Events)
	var cpu time.Duration
	var moving, moved time.Time
	var at, last backlogLag
	for {
		if err := sleep(ctx, sampleEvery/4); err != nil {
			return err
		}
		now, err := s.lag(ctx)
		if err != nil {
			return err
		}
		if now.records > 0 && moving.IsZero() {
			moving, cpu = time.Now(), processCPU()
		}
		if now.Read != last.Read || now.committed != last.committed || moved.IsZero() {
			moved = time.Now()
		}
		last = now
		now.Seconds = time.Since(began).Seconds()
		r.Memory.PeakHeap = max(r.Memory.PeakHeap, liveHeap())
		s.o.Progress(Progress{Stage: "backlog", Done: int(now.records), Of: s.o.Events})
		done := now.records >= n && now.committed >= now.observations && now.known() && now.Records == 0 && now.Messages == 0 &&
			now.EventTime < liveWithin.Seconds()
		if now.sources == now.wantSources && (done || len(r.Lag) == 0 || now.Seconds-at.Seconds >= sampleEvery.Seconds()) {
			r.Lag = append(r.Lag, now.LagSample)
			at = now
		}
		if now.records >= n && now.committed >= now.observations && r.Backlog.Events == 0 {
			took := time.Since(moving).Seconds()
			r.Backlog = Throughput{
				Events: s.o.Events, Seconds: took, EventsPerSecond: float64(n) / took, MBPerSecond: float64(n) * r.Live.BytesPerEvent / took / 1e6,
				BytesPerEvent: r.Live.BytesPerEvent, ObservationsPerEvent: float64(now.observations) / float64(n),
				CPUPerMillion: (processCPU() - cpu).Seconds() / float64(n) * 1e6,
			}
			r.Ratio = r.Backlog.EventsPerSecond / r.Live.EventsPerSecond
		}
		if done {
			r.LiveAfter = now.Seconds
			if now.restarts > 0 {
				return fmt.Errorf("a part of the service started again %d times: what was measured is not worth much", now.restarts)
			}
			return nil
		}
		if time.Since(moved) > stall {
			return fmt.Errorf("nothing has moved for %v: %+v", stall, now)
		}
	}
}

// backlogLag is what the service says of its lag, and what the log says.
type backlogLag struct {
	LagSample
	counters
	sources, partitions int // that have told
	wantSources, want   int
}

// known reports whether all parts have told.
func (l *backlogLag) known() bool { return l.sources == l.wantSources && l.partitions == l.want }

func (s *site) lag(ctx context.Context) (backlogLag, error) {
	l := backlogLag{wantSources: s.cfg.Kafka.LogsPartitions, want: s.cfg.Kafka.ObservationPartitions}
	fs, err := s.app.Metrics().Gather()
	if err != nil {
		return l, fmt.Errorf("read the service's metrics: %w", err)
	}
	clock := math.Inf(1)
	for _, f := range fs {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "vedette_match_lag_records":
				l.Records += int64(m.GetGauge().GetValue())
				l.sources++
			case "vedette_match_records_total":
				l.Read += int64(m.GetCounter().GetValue())
			case "vedette_correlate_lag_messages":
				l.Messages += int64(m.GetGauge().GetValue())
			case "vedette_correlate_clock_timestamp_seconds":
				clock = min(clock, m.GetGauge().GetValue())
				l.partitions++
			case "vedette_match_clock_timestamp_seconds": // until correlate tells
				clock = min(clock, m.GetGauge().GetValue())
			}
		}
	}
	if !math.IsInf(clock, 1) {
		l.EventTime = max(0, float64(time.Now().UnixNano())/1e9-clock)
	}
	if l.counters, err = s.counters(); err != nil {
		return l, err
	}
	for p := range int32(s.cfg.Kafka.LogsPartitions) {
		_, end, err := s.client.Bounds(ctx, stream.TopicLogs, p)
		if err != nil {
			return l, err
		}
		l.End += end
	}
	return l, nil
}

// liveHeap is what the heap holds, garbage that was not collected yet included.
func liveHeap() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// effects is what was found, as sets.
type effects struct{ findings, incidents map[string]struct{} }

// assembled waits until all findings are in incidents and reads both.
func (s *site) assembled(ctx context.Context, stage string) (effects, error) {
	var e effects
	s.o.Progress(Progress{Stage: stage})
	db, err := storage.Open(ctx, storage.Options{DSN: s.cfg.Postgres.DSN.Reveal(), MaxConns: 2, Log: s.o.Logger})
	if err != nil {
		return e, fmt.Errorf("open Postgres: %w", err)
	}
	defer db.Close()
	deadline := time.Now().Add(assembledWithin)
	for {
		var behind int64
		err := db.Pool().QueryRow(ctx, `SELECT count(*) FROM finding f
			LEFT JOIN assembler_cursor c ON c.layout = f.layout AND c.partition = f.partition
			WHERE f.number > coalesce(c.number, 0)`).Scan(&behind)
		if err != nil {
			return e, fmt.Errorf("how far the assembler is: %w", err)
		}
		if behind == 0 {
			break
		}
		if time.Now().After(deadline) {
			return e, fmt.Errorf("%d findings were not in incidents after %v", behind, assembledWithin)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return e, err
		}
	}
	for query, to := range map[string]*map[string]struct{}{
		`SELECT concat_ws(' ', tenant, encode(id, 'hex'), rule_version, encode(key, 'hex'), tile, merge, count, peak, first_time, last_time, detail, verdict,
			encode(evidence, 'hex')) FROM finding`: &e.findings,
		`SELECT concat_ws(' ', i.tenant, i.rule_id, i.title, i.severity, i.count, i.first_seen, i.last_seen, i.status,
			(SELECT string_agg(encode(f.id, 'hex'), ',' ORDER BY f.id) FROM finding f WHERE f.tenant = i.tenant AND f.incident_id = i.id))
			FROM incident i WHERE i.status <> 'merged'`: &e.incidents,
	} {
		rows, err := db.Pool().Query(ctx, query)
		if err != nil {
			return e, fmt.Errorf("read what was found: %w", err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return e, fmt.Errorf("read what was found: %w", err)
		}
		*to = make(map[string]struct{}, len(list))
		for _, x := range list {
			(*to)[x] = struct{}{}
		}
	}
	return e, nil
}
