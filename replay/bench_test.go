package replay_test

import (
	"path/filepath"
	"syscall"
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
	before := cpuTime(b)
	for b.Loop() {
		res := run(b, o)
		if res.Read != int64(sim.Records) || len(res.Findings) == 0 {
			b.Fatal(replay.Result.Summary(res))
		}
	}
	spent, n := cpuTime(b)-before, float64(sim.Records*b.N)
	b.ReportMetric(n/spent.Seconds(), "events/cpu-s")
	b.ReportMetric(float64(spent.Nanoseconds())/n, "cpu-ns/event")
	// As if one core did all of it, how many times as fast as an account with 1,000
	// events a second writes.
	b.ReportMetric(n/spent.Seconds()/1000, "x/1000-events-s")
	b.ReportMetric(n/b.Elapsed().Seconds(), "events/s")
}

// cpuTime is what the process has computed: what others on the machine do does not
// count, our own garbage collection does.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
