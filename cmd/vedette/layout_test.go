package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/stream"
)

// stop stops the service if it runs.
func (s *service) stop() {
	if s.app != nil {
		s.app.Stop()
		s.app = nil
	}
}

// restart starts the service again, with what its configuration file says now.
func (s *service) restart() error {
	cfg, err := config.Load(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	a, err := app.Start(s.t.Context(), app.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Version: "test"})
	if err == nil {
		s.app = a
	}
	return err
}

// logIn appends refused logins of an address, from a time on.
func (s *service) logIn(began time.Time, address string, n int) {
	s.t.Helper()
	// A client that knows nothing of topics that there were before.
	cfg, err := config.Load(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	client, err := stream.NewClient(app.KafkaConfig(cfg.Kafka))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	appender, err := client.NewLogAppender(stream.AppenderOptions{Partitions: 2})
	if err != nil {
		s.t.Fatal(err)
	}
	defer appender.Close()
	var msgs []stream.LogMessage
	for i := range n {
		msgs = append(msgs, stream.LogMessage{Tenant: "default", Type: "aws.apigateway", Origin: "test", Value: fmt.Appendf(nil,
			`{"requestId":"r%[1]s%[2]d","extendedRequestId":"x%[1]s%[2]d=","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod",`+
				`"requestTimeEpoch":"%[3]d","httpMethod":"POST","path":"/prod/login","resourcePath":"/login","sourceIp":"%[1]s","userAgent":"curl/8",`+
				`"status":"401","errorType":"UNAUTHORIZED","errorMessage":"no","integrationRequestId":"-","responseLatency":"9","responseLength":"26"}`,
			address, i, began.Add(time.Duration(i)*time.Second).UnixMilli())})
	}
	if err := appender.Append(s.t.Context(), msgs); err != nil {
		s.t.Fatal(err)
	}
}

// counted waits until as many events were found of an address.
func (s *service) counted(address string, n int64) {
	s.t.Helper()
	var got int64
	s.eventually(fmt.Sprintf("%d events of %s are found", n, address), func() bool {
		err := s.app.DB().Pool().QueryRow(s.t.Context(),
			`SELECT coalesce(max(count), 0) FROM finding WHERE key = $1`, append([]byte{byte(len(address))}, address...)).Scan(&got)
		if err != nil {
			s.t.Fatal(err)
		}
		return got >= n
	})
	if got != n {
		s.t.Errorf("%d events of %s are found, want %d", got, address, n)
	}
}

// TestReshardAndRepair: a service goes on after its layout has changed, and after
// its topics were deleted.
func TestReshardAndRepair(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the service five times")
	}
	s := startService(t)
	began := time.Now().Add(-10 * time.Minute).Truncate(time.Minute) // so that no hour ends among the events of an address
	s.logIn(began, "203.0.113.9", 40)
	s.counted("203.0.113.9", 40)
	s.stop()

	code, out, errs := vedette(t, "reshard", "--config", s.config, "--partitions", "3")
	if code != 0 || !strings.Contains(out, "layout 2 is in force") || !strings.Contains(out, "set kafka.observation_partitions to 3") {
		t.Fatalf("status %d: %s%s", code, out, errs)
	}
	if err := s.restart(); err == nil || !strings.Contains(err.Error(), "has 3 partitions of observations") {
		t.Fatalf("start with the old count: %v, want it refused", err)
	}
	b, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.config, []byte(strings.Replace(string(b), "observation_partitions: 2", "observation_partitions: 3", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.restart(); err != nil {
		t.Fatal(err)
	}
	s.logIn(began, "203.0.113.9", 50) // 40 of them again
	s.counted("203.0.113.9", 50)
	s.stop()
	if code, out, errs := vedette(t, "reshard", "--config", s.config, "--partitions", "3"); code != 0 || !strings.Contains(out, "nothing to do") {
		t.Errorf("status %d: %s%s", code, out, errs)
	}
	if code, out, errs := vedette(t, "repair", "--config", s.config); code != 0 || !strings.Contains(out, "nothing to repair") {
		t.Errorf("status %d: %s%s", code, out, errs)
	}

	for _, topic := range []string{stream.TopicLogs, "vedette.observations.L2"} {
		if err := s.client.DeleteTopic(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
	}
	code, out, errs = vedette(t, "repair", "--config", s.config)
	if code != 1 || strings.Count(out, "vedette.logs partition") != 2 || strings.Count(out, "vedette.observations.L2 partition") != 3 || !strings.Contains(errs, "--yes") {
		t.Fatalf("status %d: %s%s", code, out, errs)
	}
	code, out, errs = vedette(t, "repair", "--config", s.config, "--yes")
	if code != 0 || !strings.Contains(out, "layout 3 is in force") || !strings.Contains(out, "repaired") {
		t.Fatalf("status %d: %s%s", code, out, errs)
	}
	if err := s.restart(); err != nil {
		t.Fatal(err)
	}
	s.logIn(began, "203.0.113.10", 40)
	s.counted("203.0.113.10", 40)
	s.counted("203.0.113.9", 50)
	s.eventually("incidents tell of what was lost", func() bool {
		var n int
		if err := s.app.DB().Pool().QueryRow(t.Context(), `SELECT count(*) FROM incident WHERE title LIKE 'Visibility lost: vedette.logs partition %'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n >= 2
	})
}
