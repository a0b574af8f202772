package push_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/ingest/push"
	"github.com/vedette-sec/vedette/stream"
)

// nowhere acknowledges at once.
type nowhere struct{}

func (nowhere) Append(context.Context, []stream.LogMessage) error      { return nil }
func (nowhere) DeadLetters(context.Context, []stream.DeadLetter) error { return nil }

// BenchmarkPush measures all but Kafka: reading, splitting, batching.
func BenchmarkPush(b *testing.B) {
	h, err := push.New(push.Options{Appender: nowhere{}, Registerer: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(strings.Repeat(`{"eventID":"`+strings.Repeat("x", 1100)+`"}`+"\n", 10000))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServePush(w, httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/logs", bytes.NewReader(body)), "default", "push:bench")
		if w.Code != http.StatusAccepted {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(10000*b.N)/b.Elapsed().Seconds(), "records/s")
}
