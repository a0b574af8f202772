package incident_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

// BenchmarkFlood assembles 100,000 findings of one rule in one hour, each of an
// address of its own, and then reads the incident's page.
func BenchmarkFlood(b *testing.B) {
	const addresses = 100_000
	l := newLedger(b)
	ctx := b.Context()
	a, err := incident.New(incident.Options{Ledger: l, Receivers: []incident.Receiver{{Name: "all"}}, Deadline: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	if err := a.Acquire(ctx); err != nil {
		b.Fatal(err)
	}
	run := 0
	for b.Loop() {
		run++
		tenant := fmt.Sprint("flood", run)
		tile := start / int64(time.Hour) * int64(time.Hour)
		b.StopTimer()
		for from := 0; from < addresses; from += 5000 {
			var fs []detect.Finding
			for i := from; i < from+5000; i++ {
				f := detect.Finding{
					Tenant: tenant, RuleVersion: "flood1", Key: key(fmt.Sprintf("198.%d.%d.%d", 18+i>>16, i>>8&255, i&255)), Tile: tile,
					Count: 60 + int64(i%7), First: tile + int64(i)*int64(time.Millisecond),
				}
				f.Last = f.First + int64(time.Minute)
				f.ID = detect.NewFindingID(f.Tenant, f.RuleVersion, f.Key, f.Tile)
				fs = append(fs, f)
			}
			if err := l.checkpoint(ctx, int32(from/5000%partitions), fs...); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := drain(ctx, a); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		var id string
		var n int
		if err := l.Pool().QueryRow(ctx, "SELECT min(id::text), count(*) FROM incident WHERE tenant = $1 AND status <> 'merged'", tenant).Scan(&id, &n); err != nil || n != 1 {
			b.Fatal(n, err)
		}
		began := time.Now()
		d, err := l.FindIncident(ctx, tenant, id)
		if err != nil {
			b.Fatal(err)
		}
		if d.FindingsTotal != addresses {
			b.Fatalf("%d findings", d.FindingsTotal)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/page")
		b.StartTimer()
	}
	b.ReportMetric(float64(run*addresses)/b.Elapsed().Seconds(), "findings/s")
}
