package kafkatest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/stream"
)

// newService runs the whole service on a Kafka as in production: encrypted, and by a
// password that never travels.
func newService(t *testing.T, k *kafkatest.Cluster) *servicetest.Service {
	t.Helper()
	s := servicetest.New(t, func(c *config.Config) {
		c.Kafka.Brokers, c.Kafka.TLS, c.Kafka.CAFile = k.BrokersOn(kafkatest.SASL), true, k.Credentials.CAFile
		c.Kafka.SASL = config.SASL{Mechanism: "scram-sha-512", Username: k.Credentials.Username, Password: secret.String(k.Credentials.Password)}
	})
	s.Patience = 90 * time.Second
	s.Boot()
	return s
}

// TestTheServiceOnRealKafka has logs in, incidents and alerts out, through a
// restart of the service, and of Kafka under it.
func TestTheServiceOnRealKafka(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{Secure: true})
	s := newService(t, k)
	defer func() { s.App.Stop() }()
	lines := servicetest.Refusals(40, "203.0.113.9", time.Now().Add(-10*time.Minute))
	if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, lines); code != http.StatusAccepted || string(bytes.TrimSpace(b)) != `{"accepted":40,"dead_lettered":0}` {
		t.Fatalf("push: %d %s", code, b)
	}
	var first servicetest.Incident
	s.Eventually("one incident with all its events", func() bool {
		list := s.Incidents()
		if len(list) == 1 {
			first = list[0]
		}
		return first.Count == 40
	})
	if first.Severity != "high" {
		t.Errorf("incident %+v, want it high", first)
	}
	s.Eventually("the receiver is told", func() bool { return s.Receiver.Told(first.ID, "trigger") })

	// Another one is found, once, in spite of everything that is repeated: the
	// service starts anew and reads what it has read, the first lines are pushed
	// again, and so is whatever Kafka does not acknowledge while it is killed.
	only := func(n int) {
		t.Helper()
		s.Eventually(fmt.Sprintf("%d incidents", n), func() bool {
			list := s.Incidents()
			whole := 0
			for _, in := range list {
				if in.Count == 40 {
					whole++
				}
			}
			return whole == n
		})
		if list := s.Incidents(); len(list) != n {
			t.Errorf("%d incidents, want %d: %+v", len(list), n, list)
		}
	}
	s.App.Stop()
	s.Boot()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	if err := s.Push(ctx, s.App.Addr, append(lines, servicetest.Refusals(40, "203.0.113.77", time.Now().Add(-9*time.Minute))...)); err != nil {
		t.Fatal(err)
	}
	only(2)

	k.Kill(1)
	pushed := make(chan error, 1)
	go func() {
		pushed <- s.Push(ctx, s.App.Addr, servicetest.Refusals(40, "203.0.113.78", time.Now().Add(-8*time.Minute)))
	}()
	k.Start(1)
	if err := <-pushed; err != nil {
		t.Fatal(err)
	}
	only(3)
	s.Eventually("it is ready again", func() bool { return s.Ready("") })

	// What went over Kafka is what is in it.
	c, err := stream.NewClient(stream.Config{Brokers: k.Brokers()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, end, err := c.Bounds(t.Context(), stream.TopicDeadLetter, 0); err != nil || end != 0 {
		t.Errorf("%d dead letters (%v), want none", end, err)
	}
}
