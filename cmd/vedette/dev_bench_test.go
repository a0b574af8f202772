package main

import (
	"net/http"
	"os"
	"testing"
	"time"
)

// BenchmarkDevReady measures `vedette dev` from its start until /readyz answers 200:
// cold, in a directory that is not there yet, so that initdb runs and the schema is
// made; and warm, started again where it ran and was stopped. The time is the wall's:
// what it waits for is part of it, and so is what others on the machine compute.
func BenchmarkDevReady(b *testing.B) {
	bin := binary(b)
	ready := func(b *testing.B, dir string) {
		d := startDev(b, bin, dir, time.Now())
		for {
			if code, _, err := d.request("GET", "/readyz", nil); err == nil && code == http.StatusOK {
				break
			}
			time.Sleep(5 * time.Millisecond) // between looks
		}
		b.StopTimer()
		if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
			b.Fatal(err)
		}
		<-d.done
		cpu := d.cmd.ProcessState.UserTime() + d.cmd.ProcessState.SystemTime()
		b.ReportMetric(cpu.Seconds(), "cpu-s/last") // of this process, without Postgres's
		b.StartTimer()
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			ready(b, enterable(b))
		}
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/ready")
	})
	b.Run("warm", func(b *testing.B) {
		dir := enterable(b)
		ready(b, dir)
		b.ResetTimer()
		for b.Loop() {
			ready(b, dir)
		}
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/ready")
	})
}
