package spinetest

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// childEnv names the site, in JSON, that a child process is to run.
const childEnv = "SPINETEST_CHILD"

// ready is what a child says once it heeds signals.
const ready = "ready\n"

type childSite struct {
	Brokers           []string
	Observations, DSN string
	Logs, Obs         int
	// Session is that of the groups to join; zero: take everything.
	Session   time.Duration
	Snapshots string
}

// TestMain is also the process that gets killed.
func TestMain(m *testing.M) {
	if env := os.Getenv(childEnv); env != "" {
		os.Exit(child(env))
	}
	os.Exit(m.Run())
}

// child runs match, correlate and the assembler until it is told to stop, which
// SIGKILL does not do.
func child(env string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	os.Stdout.WriteString(ready) // to be told to stop
	var cs childSite
	if err := json.Unmarshal([]byte(env), &cs); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 2
	}
	var failed error
	func() {
		gens, err := loadGenerations()
		if err != nil {
			failed = err
			return
		}
		s := &site{brokers: cs.Brokers, observations: cs.Observations, dsn: cs.DSN, gens: gens, log: quiet(), logs: cs.Logs, obs: cs.Obs, snapshots: cs.Snapshots}
		db, c, err := s.open(ctx)
		if err != nil {
			if ctx.Err() == nil { // not told to stop already
				failed = err
			}
			return
		}
		defer db.Close()
		defer c.Close()
		o := crewOptions{every: 30 * time.Millisecond, faults: &faults{}}
		switch cs.Session {
		case 0:
		case hurried().Session:
			o.share = hurried()
		default:
			o.share = patient()
		}
		w, err := s.start(db, c, o)
		if err != nil {
			failed = err
			return
		}
		<-ctx.Done()
		failed = w.kill()
	}()
	if failed != nil {
		os.Stderr.WriteString(failed.Error() + "\n")
		return 1
	}
	return 0
}

// TestProcessKilled kills a real process with SIGKILL, some times, while another
// may be running already.
func TestProcessKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	t.Parallel() // with the other that mostly waits for processes
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	rnd := rand.New(rand.NewPCG(seed, 5))
	ctx := within(t, 5*time.Minute)
	dsn := pgtest.NewDSN(t)
	b, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	gens := newGenerations(t)
	s := &site{brokers: []string{b.Addr()}, observations: "killed.observations", dsn: dsn, gens: gens, log: quiet()}
	db, c := open(t, ctx, s)

	const steps = 900
	w := newWriter(t, c, sources, seed, steps)
	done := make(chan error, 1)
	go func() {
		for range steps {
			if err := w.step(ctx); err != nil {
				done <- err
				return
			}
			time.Sleep(4 * time.Millisecond) // paced, to last as long as the killing
		}
		done <- nil
	}()

	env, err := json.Marshal(childSite{Brokers: s.brokers, Observations: s.observations, DSN: s.dsn, Snapshots: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var before *exec.Cmd
	for range 8 {
		cmd := spawn(t, ctx, env)
		time.Sleep(time.Duration(100+rnd.IntN(600)) * time.Millisecond) // any instant will do: that is the test
		if before != nil {
			kill(t, before)
			before = nil
		}
		if rnd.IntN(3) == 0 {
			before = cmd // it goes on until it is fenced, or killed beside the next
			continue
		}
		kill(t, cmd)
	}
	if before != nil {
		kill(t, before)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	last := spawn(t, ctx, env)
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	stop(t, last)
	got, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, undisturbed(t, ctx, s))
}

// kill sends SIGKILL. A process that was fenced has to be alive as well: it waits
// to be told to stop.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("process ended by itself: %v", cmd.ProcessState)
	}
}
