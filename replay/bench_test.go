package replay_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/replay"
	"github.com/vedette-sec/vedette/simulate"
)

// BenchmarkReplay is a simulated day under the shipped rules: from compressed
// files to findings.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	sim, err := simulate.Run(b.Context(), simulate.Options{
		Seed: 1, Start: time.Date(2026, 11, 10, 3, 0, 0, 0, time.UTC), Duration: 24 * time.Hour, Rate: 2, Out: dir,
	})
	if err != nil {
		b.Fatal(err)
	}
	o := shipped(b)
	o.Paths = []string{filepath.Join(dir, "logs")}
	b.ReportAllocs()
	for b.Loop() {
		res := run(b, o)
		if res.Read != int64(sim.Records) || len(res.Findings) == 0 {
			b.Fatal(replay.Result.Summary(res))
		}
	}
	b.ReportMetric(float64(sim.Records*b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sim.Records*b.N), "ns/event")
}
