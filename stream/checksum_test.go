package stream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/stream"
)

func TestChecksum(t *testing.T) {
	base := func() stream.Record {
		return stream.Record{
			Offset: 3, Time: time.UnixMilli(1_790_000_000_000), Key: []byte("k"), Value: []byte("value"),
			Headers: []stream.Header{{Key: "a", Value: []byte("b")}},
		}
	}
	r := base()
	sum := stream.Checksum(&r)
	if r.Offset = 4; stream.Checksum(&r) != sum {
		t.Error("it depends on the offset, which another incarnation may give anew")
	}
	for name, change := range map[string]func(*stream.Record){
		"stamp":        func(r *stream.Record) { r.Time = r.Time.Add(time.Millisecond) },
		"key":          func(r *stream.Record) { r.Key = nil },
		"value":        func(r *stream.Record) { r.Value = []byte("Value") },
		"header":       func(r *stream.Record) { r.Headers = nil },
		"header value": func(r *stream.Record) { r.Headers[0].Value = []byte("c") },
		"border":       func(r *stream.Record) { r.Key, r.Value = []byte("kv"), []byte("alue") },
	} {
		r := base()
		if change(&r); stream.Checksum(&r) == sum {
			t.Errorf("another %s sums to the same", name)
		}
	}
}

// answers is a reader that gives what it is told to, in order.
type answers []struct {
	b   stream.Batch
	err error
}

func (a *answers) Read(context.Context) (stream.Batch, error) {
	next := (*a)[0]
	*a = (*a)[1:]
	return next.b, next.err
}

func TestVerify(t *testing.T) {
	r := stream.Record{Offset: 5, Time: time.UnixMilli(1), Value: []byte("v")}
	other := r
	other.Value = []byte("w")
	later := r
	later.Offset = 6
	away := errors.New("away")
	for name, c := range map[string]struct {
		answers answers
		want    error
	}{
		"the same":           {answers{{stream.Batch{Records: []stream.Record{r}, Next: 6, End: 6}, nil}}, nil},
		"after a wait":       {answers{{stream.Batch{Next: 5, End: 6}, nil}, {stream.Batch{Records: []stream.Record{r}, Next: 6, End: 6}, nil}}, nil},
		"another":            {answers{{stream.Batch{Records: []stream.Record{other}, Next: 6, End: 6}, nil}}, stream.ErrReplaced},
		"a later one":        {answers{{stream.Batch{Records: []stream.Record{later}, Next: 7, End: 7}, nil}}, stream.ErrReplaced},
		"a marker":           {answers{{stream.Batch{Next: 6, End: 6}, nil}}, stream.ErrReplaced},
		"it ends there":      {answers{{stream.Batch{Next: 5, End: 5}, nil}}, stream.ErrTruncated},
		"it ends before":     {answers{{stream.Batch{}, stream.ErrTruncated}}, stream.ErrTruncated},
		"retention had it":   {answers{{stream.Batch{}, &stream.GapError{From: 5, To: 9}}}, nil},
		"it cannot be asked": {answers{{stream.Batch{}, away}}, away},
	} {
		t.Run(name, func(t *testing.T) {
			if err := stream.Verify(t.Context(), &c.answers, 5, stream.Checksum(&r)); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if !errors.Is(stream.ErrReplaced, stream.ErrTruncated) {
		t.Error("who looks for ErrTruncated does not see ErrReplaced")
	}
}

func TestDeleteTopic(t *testing.T) {
	_, c := broker(t, stream.Topic{Name: "logs", Partitions: 1})
	for range 2 { // one that is not there is none
		if err := c.DeleteTopic(ctx(t), "logs"); err != nil {
			t.Fatal(err)
		}
	}
	for {
		state, err := c.Inspect(ctx(t), "logs")
		if err != nil {
			t.Fatal(err)
		}
		if errors.Is(state.Topics[0].Err, stream.ErrNoTopic) {
			return // until a moment ago the library remembered it
		}
	}
}
