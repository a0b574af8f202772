package incident_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/incident/incidenttest"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := pgtest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop Postgres:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

const partitions = 3

// ledger is a real one that can be killed as memory can.
type ledger struct {
	*storage.DB
	owners [partitions]correlate.Checkpoint
	kill   int
}

func newLedger(t testing.TB) *ledger {
	ctx := t.Context()
	l := &ledger{DB: pgtest.New(t), kill: -1}
	if err := l.EnsureLayout(ctx, partitions, 1); err != nil {
		t.Fatal(err)
	}
	for p := range l.owners {
		var err error
		if l.owners[p], err = l.Acquire(ctx, int32(p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range testRules {
		if _, err := l.Pool().Exec(ctx, `INSERT INTO rule_version (version, rule_id, title, level, tags, group_by)
			VALUES ($1, $2, $3, $4, coalesce($5, '{}'::text[]), coalesce($6, '{}'::text[]))`,
			r.Version, r.ID, r.Title, int16(r.Level), r.Tags, r.GroupBy); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *ledger) checkpoint(ctx context.Context, partition int32, fs ...detect.Finding) error {
	return l.Commit(ctx, correlate.Commit{Partition: partition, Epoch: l.owners[partition].Epoch, Findings: fs})
}

func (l *ledger) step() error {
	if l.kill == 0 {
		l.kill = -1
		return incidenttest.ErrKilled
	}
	if l.kill > 0 {
		l.kill--
	}
	return nil
}

// Assemble kills before the commit, or after it.
func (l *ledger) Assemble(ctx context.Context, shard int32, epoch int64, f func(incident.Tx) error) error {
	err := l.DB.Assemble(ctx, shard, epoch, func(tx incident.Tx) error {
		if err := f(&killableTx{Tx: tx, l: l}); err != nil {
			return err
		}
		return l.step()
	})
	if err != nil {
		return err
	}
	return l.step()
}

// killableTx kills between writes.
type killableTx struct {
	incident.Tx
	l *ledger
}

func (t *killableTx) SaveLinks(ctx context.Context, tenant string, links []incident.Link) error {
	return errors.Join(t.Tx.SaveLinks(ctx, tenant, links), t.l.step())
}

func (t *killableTx) AddEntities(ctx context.Context, tenant string, es map[detect.FindingID][]incident.Entity) error {
	return errors.Join(t.Tx.AddEntities(ctx, tenant, es), t.l.step())
}

func (t *killableTx) SaveIncidents(ctx context.Context, ins []incident.Incident) error {
	return errors.Join(t.Tx.SaveIncidents(ctx, ins), t.l.step())
}

func (t *killableTx) Assign(ctx context.Context, tenant string, to map[detect.FindingID]incident.ID) error {
	return errors.Join(t.Tx.Assign(ctx, tenant, to), t.l.step())
}

func (t *killableTx) Move(ctx context.Context, tenant string, from, to incident.ID) error {
	return errors.Join(t.Tx.Move(ctx, tenant, from, to), t.l.step())
}

func (t *killableTx) AddAudit(ctx context.Context, es []incident.Audit) error {
	return errors.Join(t.Tx.AddAudit(ctx, es), t.l.step())
}

// views reads the live incidents of tenants that begin with prefix, and all
// their findings.
func (l *ledger) views(ctx context.Context, prefix string) (map[string]view, []detect.Finding, error) {
	rows, err := l.Pool().Query(ctx, `SELECT tenant, id, rule_version, key, tile, merge, count, first_time, last_time, verdict, incident_id
		FROM finding WHERE starts_with(tenant, $1)`, prefix)
	if err != nil {
		return nil, nil, err
	}
	members := map[incidenttest.IncidentKey][]string{}
	var fs []detect.Finding
	var (
		f   detect.Finding
		id  []byte
		in  [16]byte
		key []byte
	)
	if _, err := pgx.ForEachRow(rows, []any{&f.Tenant, &id, &f.RuleVersion, &key, &f.Tile, &f.Merge, &f.Count, &f.First, &f.Last, &f.Verdict, &in}, func() error {
		g := f
		copy(g.ID[:], id)
		g.Key = slices.Clone(key)
		fs = append(fs, g)
		k := incidenttest.IncidentKey{Tenant: f.Tenant, ID: in}
		members[k] = append(members[k], g.ID.String())
		return nil
	}); err != nil {
		return nil, nil, err
	}
	out := map[string]view{}
	for k, ids := range members {
		err := l.Act(ctx, func(tx incident.Tx) error {
			ins, err := tx.Incidents(ctx, k.Tenant, []incident.ID{k.ID})
			if err != nil {
				return err
			}
			if len(ins) != 1 || ins[0].Status == incident.StatusMerged {
				return fmt.Errorf("incident of findings: %+v", ins)
			}
			v := viewOf(ins[0], ids)
			out[v.Findings] = v
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return out, fs, nil
}

// TestSetsDoNotDependOnHistoryInPostgres is the property on the real ledger.
func TestSetsDoNotDependOnHistoryInPostgres(t *testing.T) {
	l := newLedger(t)
	ctx := t.Context()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		prefix := fmt.Sprintf("run%d-", run) // a history of its own in the same tables
		floodKeys := rapid.SampledFrom([]int{2, 3, 4, 50}).Draw(t, "flood")
		a, err := incident.New(incident.Options{
			Ledger: l, Batch: rapid.IntRange(1, 12).Draw(t, "batch"), FloodKeys: floodKeys,
			Receivers: []incident.Receiver{{Name: "all"}, {Name: "high", MinSeverity: detect.LevelHigh}},
			Now:       func() time.Time { return time.Unix(0, start) },
		})
		if err != nil {
			t.Fatal(err)
		}
		l.kill = -1
		if err := a.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
		for _, batch := range rapid.SliceOfN(rapid.SliceOfN(deltas, 1, 8), 1, 6).Draw(t, "batches") {
			var by [partitions][]detect.Finding
			for _, d := range batch {
				d.Tenant = prefix + d.Tenant
				d.ID = detect.NewFindingID(d.Tenant, d.RuleVersion, d.Key, d.Tile)
				p := binary.BigEndian.Uint32(d.ID[:4]) % partitions
				by[p] = append(by[p], d.Finding)
			}
			for p := range by {
				if err := l.checkpoint(ctx, int32(p), by[p]...); err != nil {
					t.Fatal(err)
				}
			}
			l.kill = rapid.IntRange(-1, 12).Draw(t, "kill")
			if rapid.Bool().Draw(t, "assemble") {
				if err := drain(ctx, a); err != nil {
					t.Fatal(err)
				}
			}
		}
		l.kill = -1
		if err := drain(ctx, a); err != nil {
			t.Fatal(err)
		}
		got, fs, err := l.views(ctx, prefix)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(reference(fs, 30*time.Minute, 2*time.Hour, floodKeys), got); d != "" {
			t.Fatalf("incidents (-want +got):\n%s", d)
		}
	})
	// What must hold of audit and intents, of all runs together.
	for what, query := range map[string]string{
		"incidents opened other than once":         `SELECT count(*) FROM incident i WHERE 1 <> (SELECT count(*) FROM incident_audit a WHERE a.tenant = i.tenant AND a.incident_id = i.id AND a.action = 'opened')`,
		"merged incidents with findings":           `SELECT count(*) FROM incident i JOIN finding f ON f.tenant = i.tenant AND f.incident_id = i.id WHERE i.status = 'merged'`,
		"live incidents without findings":          `SELECT count(*) FROM incident i WHERE i.status <> 'merged' AND NOT EXISTS (SELECT FROM finding f WHERE f.tenant = i.tenant AND f.incident_id = i.id)`,
		"merged incidents not told as resolved":    `SELECT count(*) FROM incident i JOIN intent n ON n.tenant = i.tenant AND n.incident_id = i.id WHERE i.status = 'merged' AND (n.event <> 'resolve' OR n.wanted <> i.version)`,
		"open incidents whose version is not told": `SELECT count(*) FROM incident i LEFT JOIN intent n ON n.tenant = i.tenant AND n.incident_id = i.id AND n.receiver = 'all' WHERE i.status = 'open' AND (n.event IS DISTINCT FROM 'trigger' OR n.wanted IS DISTINCT FROM i.version)`,
		"findings without an incident":             `SELECT count(*) FROM finding WHERE incident_id IS NULL`,
	} {
		var n int
		if err := l.Pool().QueryRow(ctx, query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

func TestFencingInPostgres(t *testing.T) {
	l := newLedger(t)
	ctx := t.Context()
	a, err := incident.New(incident.Options{Ledger: l})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Step(ctx); err == nil {
		t.Error("Step without having acquired: no error")
	}
	if err := a.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.checkpoint(ctx, 1, finding("flood1", 0, "198.51.100.7")); err != nil {
		t.Fatal(err)
	}
	b, err := incident.New(incident.Options{Ledger: l})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Step(ctx); !errors.Is(err, incident.ErrFenced) {
		t.Errorf("Step of a fenced owner: %v", err)
	}
	if n, err := b.Step(ctx); n != 1 || err != nil {
		t.Errorf("Step of the owner: %d, %v", n, err)
	}
}
