package spinetest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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
	Only      string // role; empty: all
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
		o := crewOptions{every: 30 * time.Millisecond, faults: &faults{}, only: cs.Only}
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

// TestProcessKilled runs match, correlate and the assembler as processes of their own
// and kills each with SIGKILL, many times, at instants that have nothing to do with
// the others', and while another of its role may be running already.
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
	var besieged sync.WaitGroup
	over := make(chan struct{})
	var all errgroup.Group
	all.Go(func() error {
		for i := range steps {
			if err := w.step(ctx); err != nil {
				return err
			}
			if i < steps-100 { // paced, to last as long as the killing, and end behind it
				select {
				case <-over:
				case <-time.After(time.Duration(*sigkillsFlag) * 500 * time.Microsecond):
				}
			}
		}
		return nil
	})
	var envs [][]byte
	snapshots := t.TempDir()
	for i, role := range []string{roleMatch, roleCorrelate, roleAssemble} {
		env, err := json.Marshal(childSite{Brokers: s.brokers, Observations: s.observations, DSN: s.dsn, Snapshots: snapshots, Only: role})
		if err != nil {
			t.Fatal(err)
		}
		envs = append(envs, env)
		rnd := rand.New(rand.NewPCG(seed, uint64(5+i)))
		besieged.Add(1)
		all.Go(func() error {
			defer besieged.Done()
			if err := besiege(ctx, env, *sigkillsFlag, rnd); err != nil {
				return fmt.Errorf("%s: %w", role, err)
			}
			return nil
		})
	}
	besieged.Wait()
	close(over)
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	var last []*exec.Cmd
	for _, env := range envs {
		last = append(last, spawn(t, ctx, env))
	}
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range last {
		stop(t, cmd)
	}
	got, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, undisturbed(t, ctx, s))
}

// besiege starts a process again and again, and kills each after a while.
func besiege(ctx context.Context, env []byte, kills int, rnd *rand.Rand) error {
	var running []*exec.Cmd
	for n := 0; n < kills; {
		cmd, err := begin(ctx, env)
		if err != nil {
			return err
		}
		running = append(running, cmd)
		time.Sleep(time.Duration(50+rnd.IntN(600)) * time.Millisecond) // any instant will do: that is the test
		left := 0
		if rnd.IntN(3) == 0 {
			left = 1 // it goes on until it is fenced, or killed beside the next
		}
		for ; len(running) > left && n < kills; n++ {
			if err := slay(running[0]); err != nil {
				return err
			}
			running = running[1:]
		}
	}
	for _, cmd := range running {
		if err := slay(cmd); err != nil {
			return err
		}
	}
	return nil
}

// slay sends SIGKILL. A process that was fenced has to be alive as well: it waits to
// be told to stop.
func slay(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fmt.Errorf("process ended by itself: %v", cmd.ProcessState)
	}
	return nil
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := slay(cmd); err != nil {
		t.Fatal(err)
	}
}
