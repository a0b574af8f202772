package stream_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/stream"
)

func TestLogMessageRoundTrip(t *testing.T) {
	name := rapid.StringMatching(`[a-z0-9./-]{1,40}`)
	rapid.Check(t, func(t *rapid.T) {
		m := stream.LogMessage{
			Kind:   rapid.SampledFrom([]stream.Kind{stream.KindRecord, stream.KindTick, stream.KindProgress, stream.KindGeneration}).Draw(t, "kind"),
			Tenant: name.Draw(t, "tenant"),
			Type:   name.Draw(t, "type"),
			Origin: name.Draw(t, "origin"),
			Value:  rapid.SliceOf(rapid.Byte()).Draw(t, "value"),
			Stamp:  time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "stamp")),
		}
		switch m.Kind {
		case stream.KindProgress:
			m.Through = time.Unix(0, rapid.Int64Range(0, 1<<62).Draw(t, "through"))
		case stream.KindGeneration:
			m.Generation = name.Draw(t, "generation")
		}
		r, err := stream.EncodeLog(&m)
		if err != nil {
			t.Fatal(err)
		}
		var in stream.Interner
		got, err := stream.DecodeLog(&r, &in)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Fatalf("decoded differs (-encoded +decoded):\n%s", d)
		}
	})
}

func TestEncodeLogRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		m    stream.LogMessage
		want error
	}{
		"unknown kind":              {stream.LogMessage{Kind: "rumour"}, stream.ErrMessage},
		"value too large":           {stream.LogMessage{Value: make([]byte, stream.MaxRecordBytes+1)}, stream.ErrTooLarge},
		"header too large":          {stream.LogMessage{Origin: strings.Repeat("o", 2000)}, stream.ErrTooLarge},
		"progress without origin":   {stream.LogMessage{Kind: stream.KindProgress, Type: "x", Through: time.Unix(1, 0)}, nil},
		"generation without digest": {stream.LogMessage{Kind: stream.KindGeneration}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := stream.EncodeLog(&tc.m)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestDecodeLogOfOthers(t *testing.T) {
	h := func(kv ...string) (hs []stream.Header) {
		for i := 0; i < len(kv); i += 2 {
			hs = append(hs, stream.Header{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return hs
	}
	for name, tc := range map[string]struct {
		headers []stream.Header
		ok      bool
	}{
		"no headers":           {nil, true},
		"headers of others":    {h("traceparent", "00-1", "traceparent", "00-2"), true},
		"header twice":         {h("tenant", "a", "tenant", "b"), false},
		"unknown kind":         {h("kind", "rumour"), false},
		"progress, bad time":   {h("kind", "progress", "origin", "o", "type", "t", "through", "noon"), false},
		"progress, no time":    {h("kind", "progress", "origin", "o", "type", "t"), false},
		"generation, nameless": {h("kind", "generation"), false},
		"header too long":      {h("type", strings.Repeat("t", 2000)), false},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := stream.DecodeLog(&stream.Record{Value: []byte("{}"), Headers: tc.headers}, nil)
			if (err == nil) != tc.ok {
				t.Fatalf("error %v, want ok %v", err, tc.ok)
			}
			if err != nil && !errors.Is(err, stream.ErrMessage) {
				t.Errorf("error %v is not ErrMessage", err)
			}
			if string(m.Value) != "{}" {
				t.Errorf("value %q lost", m.Value)
			}
		})
	}
}

func TestDeadLetterRoundTrip(t *testing.T) {
	want := stream.DeadLetter{
		Reason: "bad_json", Detail: "offset 12: unexpected end", Tenant: "default", Type: "aws.cloudtrail", Origin: "push/ci",
		Partition: 3, Offset: 1 << 40, SHA256: strings.Repeat("ab", 32), Value: []byte(`{"eventID":`),
	}
	r := stream.EncodeDeadLetter(&want)
	got, err := stream.DecodeDeadLetter(&r)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("decoded differs (-encoded +decoded):\n%s", d)
	}
	if _, err := stream.DecodeDeadLetter(&stream.Record{}); !errors.Is(err, stream.ErrMessage) {
		t.Errorf("a dead letter without a reason: error %v, want ErrMessage", err)
	}
}

// FuzzDecode: whatever is on the topics, decoding ends, keeps the value, and
// what it accepts encodes to the same again.
func FuzzDecode(f *testing.F) {
	f.Add("kind", []byte("progress"), "through", []byte("12"), []byte("{}"))
	f.Add("tenant", []byte("a"), "tenant", []byte("b"), []byte(nil))
	f.Add("generation", []byte("d"), "kind", []byte("generation"), []byte("x"))
	f.Add("reason", []byte("r"), "partition", []byte("-1"), []byte("x"))
	f.Fuzz(func(t *testing.T, k1 string, v1 []byte, k2 string, v2, value []byte) {
		r := stream.Record{Offset: 7, Time: time.UnixMilli(5), Value: value, Headers: []stream.Header{
			{Key: k1, Value: v1}, {Key: k2, Value: v2}, {Key: "origin", Value: []byte("o")}, {Key: "type", Value: []byte("t")},
		}}
		var in stream.Interner
		m, err := stream.DecodeLog(&r, &in)
		if !bytes.Equal(m.Value, value) {
			t.Fatalf("value %q became %q", value, m.Value)
		}
		if err == nil {
			again, err := stream.EncodeLog(&m)
			if err != nil {
				t.Fatalf("decoded message does not encode: %v", err)
			}
			again.Offset, again.Time = r.Offset, r.Time
			m2, err := stream.DecodeLog(&again, &in)
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind != stream.KindProgress {
				m.Through = m2.Through // carried by progress only
			}
			if m.Kind != stream.KindGeneration {
				m.Generation, m2.Generation = "", ""
			}
			if d := cmp.Diff(m, m2); d != "" {
				t.Fatalf("second decoding differs:\n%s", d)
			}
		}
		if d, err := stream.DecodeDeadLetter(&r); err == nil {
			again := stream.EncodeDeadLetter(&d)
			d2, err := stream.DecodeDeadLetter(&again)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(d, d2); diff != "" {
				t.Fatalf("second decoding of dead letter differs:\n%s", diff)
			}
		}
	})
}
