// Package tracingtest is a collector of traces for tests: it takes OTLP over HTTP and
// keeps what it is sent.
package tracingtest

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one that was received. Ids are hexadecimal, attributes as text.
type Span struct {
	Name              string
	Trace, ID, Parent string
	Links             []string // "trace/span"
	Attributes        map[string]string
	Events            []Event
	Error             string // of its status
	Failed            bool
	Resource          map[string]string
	Scope             string
	Seconds           float64
}

// Event is one of a span's.
type Event struct {
	Name       string
	Attributes map[string]string
}

// Receiver is a collector.
type Receiver struct {
	*httptest.Server

	mu      sync.Mutex
	spans   []Span
	bodies  bytes.Buffer // unpacked
	headers []http.Header
	paths   []string
	answer  func(w http.ResponseWriter, r *http.Request) bool
}

// Start starts a collector that ends with the test.
func Start(t testing.TB) *Receiver {
	t.Helper()
	c := &Receiver{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		answer := c.answer
		c.mu.Unlock()
		if answer != nil && answer(w, r) {
			return
		}
		if err := c.take(r); err != nil {
			t.Errorf("what the collector is sent: %v", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

// Answer has f answer; where it returns false the request is taken. nil: all are.
func (c *Receiver) Answer(f func(w http.ResponseWriter, r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

func (c *Receiver) take(r *http.Request) error {
	in := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return err
		}
		in = z
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	var req collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &req); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies.Write(body)
	c.headers = append(c.headers, r.Header)
	c.paths = append(c.paths, r.URL.Path)
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans = append(c.spans, span(s, attributes(rs.Resource.GetAttributes()), ss.Scope.GetName()))
			}
		}
	}
	return nil
}

func span(s *otlp.Span, resource map[string]string, scope string) Span {
	out := Span{
		Name: s.Name, Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
		Attributes: attributes(s.Attributes), Error: s.Status.GetMessage(), Failed: s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR,
		Resource: resource, Scope: scope, Seconds: float64(s.EndTimeUnixNano-s.StartTimeUnixNano) / 1e9,
	}
	for _, l := range s.Links {
		out.Links = append(out.Links, hex.EncodeToString(l.TraceId)+"/"+hex.EncodeToString(l.SpanId))
	}
	for _, e := range s.Events {
		out.Events = append(out.Events, Event{e.Name, attributes(e.Attributes)})
	}
	return out
}

func attributes(kvs []*common.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range kvs {
		switch v := kv.Value.GetValue().(type) {
		case *common.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		default:
			m[kv.Key] = kv.Value.String()
		}
	}
	return m
}

// Spans returns what was received so far.
func (c *Receiver) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Bytes returns all that was received, unpacked, and the requests' paths and headers.
func (c *Receiver) Bytes() (bodies []byte, paths []string, headers []http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.bodies.Bytes()), append([]string(nil), c.paths...), append([]http.Header(nil), c.headers...)
}
