package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// service is the whole service in this process, and its configuration file.
type service struct {
	t      *testing.T
	app    *app.App
	config string
	client *stream.Client
}

func startService(t *testing.T) *service {
	t.Helper()
	broker, err := devbroker.Start(devbroker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	dir := t.TempDir()
	s := &service{t: t, config: filepath.Join(dir, "vedette.yaml")}
	yaml := fmt.Sprintf(`
data_dir: %q
postgres: {dsn: %q}
kafka: {brokers: [%q], logs_partitions: 2, observation_partitions: 2, replication: 1}
api: {listen: "127.0.0.1:0"}
`, dir, pgtest.NewDSN(t), broker.Addr())
	if err := os.WriteFile(s.config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.app, err = app.Start(t.Context(), app.Options{
		Config: cfg, Logger: slog.New(slog.DiscardHandler), Version: "test", Retention: app.Retention{Age: 7 * 24 * time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	if s.client, err = stream.NewClient(app.KafkaConfig(cfg.Kafka)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	return s
}

// eventually waits for a condition.
func (s *service) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

// settle waits until all that is on the log now has been matched and correlated.
func (s *service) settle() {
	s.t.Helper()
	passed := func(topic string, positions func(doctor.Progress) []doctor.Position) {
		s.t.Helper()
		ends := map[int32]int64{}
		for p := range int32(2) {
			_, end, err := s.client.Bounds(s.t.Context(), topic, p)
			if err != nil {
				s.t.Fatal(err)
			}
			ends[p] = end
		}
		s.eventually("all of "+topic+" is read", func() bool {
			progress, err := s.app.DB().Progress(s.t.Context())
			if err != nil {
				s.t.Fatal(err)
			}
			at := positions(progress)
			for p, end := range ends {
				if !slices.ContainsFunc(at, func(a doctor.Position) bool { return a.Partition == p && a.Next >= end }) {
					return false
				}
			}
			return true
		})
	}
	passed(stream.TopicLogs, func(p doctor.Progress) []doctor.Position { return p.Sources })
	passed(stream.TopicObservations, func(p doctor.Progress) []doctor.Position { return p.Observations })
}

// found is how many findings there are, and how many events they count.
func (s *service) found() (findings, events int64) {
	s.t.Helper()
	if err := s.app.DB().Pool().QueryRow(s.t.Context(), `SELECT count(*), coalesce(sum(count), 0)::bigint FROM finding`).Scan(&findings, &events); err != nil {
		s.t.Fatal(err)
	}
	return findings, events
}

// TestDoctorBesideAService: of a service at work nothing is complained about but
// what a machine for tests lacks.
func TestDoctorBesideAService(t *testing.T) {
	s := startService(t)
	s.eventually("the clock in the log is going", func() bool {
		for p := range int32(2) {
			if _, end, err := s.client.Bounds(t.Context(), stream.TopicLogs, p); err != nil || end < 2 {
				return false
			}
		}
		return true
	})
	s.settle()
	code, out, errs := vedette(t, "doctor", "--config", s.config, "--format", "json")
	var got struct {
		OK      bool
		Results []doctor.Result
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	checks := map[string]doctor.Status{}
	for _, r := range got.Results {
		checks[r.Check] = r.Status
		expected := r.Check == "postgres settings" || // no fsync: the database need not survive this test
			strings.HasPrefix(r.Check, "topic vedette.") && strings.Contains(r.Detail, "one copy") ||
			r.Check == "blind rules" || r.Check == "receivers"
		if r.Status != doctor.OK && !expected {
			t.Errorf("%s %s: %s → %s", r.Status, r.Check, r.Detail, r.Remedy)
		}
	}
	if code != 1 || got.OK || checks["postgres settings"] == doctor.OK {
		t.Errorf("status %d, ok %v, want the server without fsync to fail", code, got.OK)
	}
	for _, want := range []string{"configuration", "kafka", "postgres", "postgres schema", "layout", "log clock", "match lag", "correlate lag"} {
		if checks[want] != doctor.OK {
			t.Errorf("%s: %q, want it ok", want, checks[want])
		}
	}
}

// TestRetryCountsOnce: a dead letter that is retried is detected, and however often
// it is retried it counts once.
func TestRetryCountsOnce(t *testing.T) {
	s := startService(t)
	appender, err := s.client.NewLogAppender(stream.AppenderOptions{Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer appender.Close()
	began := time.Now().Add(-10 * time.Minute)
	for i := range 40 {
		line := fmt.Appendf(nil, `{"requestId":"r%d","extendedRequestId":"x%d=","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod",`+
			`"requestTimeEpoch":"%d","httpMethod":"POST","path":"/prod/login","resourcePath":"/login","sourceIp":"203.0.113.9","userAgent":"curl/8",`+
			`"status":"401","errorType":"UNAUTHORIZED","errorMessage":"no","integrationRequestId":"-","responseLatency":"9","responseLength":"26"}`,
			i, i, began.Add(time.Duration(i)*time.Second).UnixMilli())
		if err := appender.DeadLetter(t.Context(), stream.DeadLetter{
			Reason: "syntax", Tenant: "default", Type: "aws.apigateway", Origin: "test", Partition: -1, Offset: -1, Value: line,
		}); err != nil {
			t.Fatal(err)
		}
	}
	var findings, events int64
	for round := range 3 {
		if code, out, errs := vedette(t, "deadletter", "retry", "--config", s.config, "--all"); code != 0 || out != "40 appended again, 0 refused\n" {
			t.Fatalf("status %d, %q, %q", code, out, errs)
		}
		s.settle()
		f, e := s.found()
		if round == 0 {
			findings, events = f, e
			if f == 0 || e%40 != 0 {
				t.Fatalf("%d findings of %d events, want 40 events in each", f, e)
			}
		}
		if f != findings || e != events {
			t.Errorf("round %d: %d findings of %d events, want %d of %d", round, f, e, findings, events)
		}
	}
}
