package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/stream"
)

// records reads evidence from vedette.logs again.
type records struct {
	kafka *stream.Client
}

// evidenceBatch bounds what is fetched for one pointer: neighbours come along.
const evidenceBatch = 256 << 10

// Read answers each pointer in order. Pointers of one partition are read in the
// order of their offsets, so that neighbours share a fetch.
func (r records) Read(ctx context.Context, ps []detect.Pointer) ([]incident.LogRecord, error) {
	order := make([]int, len(ps))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := ps[i], ps[j]
		return cmp.Or(cmp.Compare(a.Source.Partition, b.Source.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	out := make([]incident.LogRecord, len(ps))
	dec, in := event.NewDecoder(), &stream.Interner{}
	var have []stream.Record
	partition := int32(-1)
	for _, i := range order {
		p := ps[i]
		if p.Source.Partition != partition {
			partition, have = p.Source.Partition, nil
		}
		rec, ok := find(have, p.Offset)
		if !ok {
			reader := r.kafka.NewReader(stream.ReaderOptions{
				Topic: stream.TopicLogs, Partition: partition, Offset: p.Offset, MaxBytes: evidenceBatch,
			})
			b, err := reader.Read(ctx)
			switch {
			case errors.Is(err, stream.ErrGap), errors.Is(err, stream.ErrTruncated):
				continue // not found
			case err != nil:
				return nil, fmt.Errorf("read evidence: %w", err)
			}
			have = b.Records
			if rec, ok = find(have, p.Offset); !ok {
				continue
			}
		}
		m, err := stream.DecodeLog(&rec, in)
		if err != nil {
			continue
		}
		out[i] = incident.LogRecord{Found: true, Type: m.Type, Raw: m.Value}
		var ev event.Event
		if err := dec.Decode(&ev, event.Record{Type: event.Type(m.Type), Data: m.Value}); err == nil {
			out[i].Type = string(ev.Type)
			out[i].UID = string(ev.Attr(event.AttrUID))
		}
	}
	return out, nil
}

func find(recs []stream.Record, offset int64) (stream.Record, bool) {
	i := sort.Search(len(recs), func(i int) bool { return recs[i].Offset >= offset })
	if i < len(recs) && recs[i].Offset == offset {
		return recs[i], true
	}
	return stream.Record{}, false
}

// ocsf says a record in OCSF's terms.
func ocsf(logType string, raw []byte) ([]byte, error) {
	var ev event.Event
	if err := event.NewDecoder().Decode(&ev, event.Record{Type: event.Type(logType), Data: raw}); err != nil {
		return nil, err
	}
	return event.OCSF(nil, &ev), nil
}
