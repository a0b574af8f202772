// Package effects reads what the promise of exactly-once effects covers, so that
// tests can compare a run that something befell with one that nothing did: findings,
// profiles, incidents and queued notifications, as sets, without wall clock and
// surrogate columns.
package effects

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
)

// Kinds are what Read tells apart.
func Kinds() []string { return []string{"finding", "profile", "incident", "entity", "intent"} }

// Read reads all effects, by kind. Of an intent it is told whether it wants the
// incident's present version, for how many there were before it is outside the
// promise. An incident that was merged into another is no effect, but an error if
// what was told of it is not to be taken back.
func Read(ctx context.Context, db *storage.DB, c *stream.Client, sources int) (map[string][]string, error) {
	all := make(map[string][]string)
	d, err := readDeliveries(ctx, c, sources)
	if err != nil {
		return nil, err
	}
	findings, err := pgtest.Findings(ctx, db)
	if err != nil {
		return nil, err
	}
	for _, f := range findings {
		for i := range f.Evidence {
			e := &f.Evidence[i]
			at, ok := d[place{e.Source.Partition, e.Offset}]
			if !ok {
				return nil, fmt.Errorf("finding %s points at offset %d of %d, where nothing is", f.ID, e.Offset, e.Source.Partition)
			}
			e.Source.Partition, e.Offset = at.partition, at.offset
		}
		all["finding"] = append(all["finding"], fmt.Sprintf("%+v", f))
	}
	for what, query := range map[string]string{
		"profile": `SELECT concat_ws(' ', layout, partition, rule_version, page, encode(data, 'hex')) FROM profile`,
		"incident": `SELECT concat_ws(' ', i.tenant, encode(i.opener, 'hex'), i.rule_id, i.rule_ids, i.title, i.severity, i.account, i.tags, i.count,
			i.first_seen, i.last_seen, i.status, (SELECT string_agg(encode(f.id, 'hex'), ',' ORDER BY f.id) FROM finding f WHERE f.tenant = i.tenant AND f.incident_id = i.id))
			FROM incident i WHERE i.status <> 'merged'`,
		"entity": `SELECT concat_ws(' ', tenant, encode(finding_id, 'hex'), type, value) FROM finding_entity`,
		"intent": `SELECT concat_ws(' ', i.tenant, encode(i.opener, 'hex'), n.receiver, n.event, n.wanted = i.version)
			FROM intent n JOIN incident i ON i.tenant = n.tenant AND i.id = n.incident_id WHERE i.status <> 'merged'`,
		merged: `SELECT concat_ws(' ', i.id, n.receiver, n.event, n.wanted, 'of', i.version)
			FROM intent n JOIN incident i ON i.tenant = n.tenant AND i.id = n.incident_id
			WHERE i.status = 'merged' AND (n.event <> 'resolve' OR n.wanted <> i.version)`,
	} {
		rows, err := db.Pool().Query(ctx, query)
		if err != nil {
			return nil, err
		}
		if all[what], err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return nil, fmt.Errorf("read %ss: %w", what, err)
		}
	}
	if standing := all[merged]; len(standing) > 0 {
		return nil, fmt.Errorf("alerts of incidents that were merged are not taken back: %q", standing)
	}
	delete(all, merged)
	return all, nil
}

const merged = "notification of a merged incident"

// place is a place in the log.
type place struct {
	partition int32
	offset    int64
}

// readDeliveries gives for each place in the log the first place of the same bytes:
// where a record was delivered more than once, after it was judged too, evidence may
// point at any of its deliveries.
func readDeliveries(ctx context.Context, c *stream.Client, sources int) (map[place]place, error) {
	d := make(map[place]place)
	first := make(map[[sha256.Size]byte]place)
	for p := range int32(sources) {
		_, end, err := c.Bounds(ctx, stream.TopicLogs, p)
		if err != nil {
			return nil, err
		}
		r := c.NewReader(stream.ReaderOptions{Topic: stream.TopicLogs, Partition: p})
		for r.Next() < end {
			b, err := r.Read(ctx)
			if err != nil {
				return nil, err
			}
			for _, rec := range b.Records {
				sum := sha256.Sum256(rec.Value)
				at := place{p, rec.Offset}
				if _, ok := first[sum]; !ok {
					first[sum] = at
				}
				d[at] = first[sum]
			}
		}
	}
	return d, nil
}

// Compare fails the test unless both are the same sets of the kinds, all if none is
// named, and says what each held.
func Compare(t testing.TB, got, want map[string][]string, kinds ...string) {
	t.Helper()
	if len(kinds) == 0 {
		kinds = Kinds()
	}
	for _, what := range kinds {
		g, w := got[what], want[what]
		slices.Sort(g)
		slices.Sort(w)
		t.Logf("%d of %s", len(w), what)
		if len(w) == 0 {
			t.Errorf("nothing of %s: the load tests nothing", what)
		}
		shown := 0
		show := func(how string, a, b []string) {
			for _, x := range a {
				if _, ok := slices.BinarySearch(b, x); !ok {
					if shown++; shown <= 8 {
						t.Errorf("%s %s: %.600s", how, what, x)
					}
				}
			}
		}
		show("missing", w, g)
		show("unexpected", g, w)
		if shown > 0 || len(g) != len(w) {
			t.Errorf("%s: %d differ; %d, want %d", what, shown, len(g), len(w))
		}
	}
}
