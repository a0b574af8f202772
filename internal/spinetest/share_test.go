package spinetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// hurried is membership that notices within a second or two who has gone.
func hurried() *stream.GroupOptions {
	return &stream.GroupOptions{
		Session: 1500 * time.Millisecond, Rebalance: 3 * time.Second, Heartbeat: 100 * time.Millisecond, Leave: time.Second,
	}
}

// member is a crew with connections of its own, as another process would have.
type member struct {
	*crew
	db *storage.DB
	c  *stream.Client
}

func (s *site) join(ctx context.Context, o crewOptions) (*member, error) {
	db, c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	m := &member{db: db, c: c}
	if m.crew, err = s.start(db, c, o); err != nil {
		c.Close()
		db.Close()
		return nil, err
	}
	return m, nil
}

func (m *member) leave() error {
	err := m.kill()
	m.c.Close()
	m.db.Close()
	return err
}

// patient is membership as a real Kafka allows it: it notices within six seconds.
func patient() *stream.GroupOptions {
	return &stream.GroupOptions{
		Session: 6 * time.Second, Rebalance: 6 * time.Second, Heartbeat: 200 * time.Millisecond, Leave: 2 * time.Second,
	}
}

// shareSite is a deployment with n partitions of either topic and a writer to it.
func shareSite(t *testing.T, ctx context.Context, n, steps int, seed uint64) (*site, *storage.DB, *stream.Client, *writer) {
	t.Helper()
	b, err := devbroker.Start(devbroker.Options{
		RetentionEvery: time.Hour, MinSession: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return shareSiteOn(t, ctx, []string{b.Addr()}, n, steps, seed)
}

func shareSiteOn(t *testing.T, ctx context.Context, brokers []string, n, steps int, seed uint64) (*site, *storage.DB, *stream.Client, *writer) {
	t.Helper()
	s := &site{
		brokers: brokers, observations: "shared.observations", dsn: pgtest.NewDSN(t), gens: newGenerations(t), log: quiet(),
		logs: n, obs: n,
	}
	db, c := open(t, ctx, s)
	return s, db, c, newWriter(t, c, n, seed, steps)
}

// write has w write its steps, evenly over d.
func write(ctx context.Context, w *writer, d time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() {
		begin := time.Now()
		for i := range w.steps {
			if err := w.step(ctx); err != nil {
				done <- err
				return
			}
			time.Sleep(time.Until(begin.Add(d * time.Duration(i) / time.Duration(w.steps)))) // paced
		}
		done <- nil
	}()
	return done
}

// TestShared has members join, leave and fall silent under load, with a straggler
// at times who asks no group and takes everything over. Findings, profiles and
// incidents are those of one process that nothing befell, on any number of
// partitions.
func TestShared(t *testing.T) {
	t.Parallel() // with others that mostly wait
	counts := []int{1, 4, 16}
	steps, lasts := 700, 5*time.Second
	if testing.Short() {
		counts, lasts = []int{4}, 3*time.Second
	}
	for _, n := range counts {
		t.Run(fmt.Sprint(n, " partitions"), func(t *testing.T) {
			t.Parallel()
			seed := *seedFlag
			if seed == 0 {
				seed = uint64(time.Now().UnixNano())
			}
			t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
			rnd := rand.New(rand.NewPCG(seed, 7))
			ctx := within(t, 3*time.Minute)
			s, db, c, w := shareSite(t, ctx, n, steps, seed)
			done := write(ctx, w, lasts)

			f := &faults{rnd: rand.New(rand.NewPCG(seed, 3)), one: 200}
			join := func(share *stream.GroupOptions) *member {
				m, err := s.join(ctx, crewOptions{every: 50 * time.Millisecond, faults: f, share: share})
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
			leave := func(m *member) {
				if err := m.leave(); err != nil {
					t.Fatal(err)
				}
			}
			members := []*member{join(hurried())}
			var straggler *member
			joined, left, straggled := 1, 0, 0
			writing := true
			for writing {
				select {
				case err := <-done:
					if err != nil {
						t.Fatal(err)
					}
					writing = false
				case <-time.After(time.Duration(rnd.IntN(600)) * time.Millisecond): // any instant will do: that is the test
				}
				switch {
				case straggler != nil:
					leave(straggler)
					straggler = nil
				case rnd.IntN(5) == 0:
					straggler = join(nil)
					straggled++
				case len(members) < 3 && rnd.IntN(3) > 0 || len(members) == 0:
					o := hurried()
					if rnd.IntN(2) == 0 {
						o.Leave = 1 // it will go without a word
					}
					members = append(members, join(o))
					joined++
				case len(members) > 0:
					i := rnd.IntN(len(members))
					leave(members[i])
					members = slices.Delete(members, i, i+1)
					left++
				}
			}
			f.stop()
			t.Logf("%d joined, %d left, %d straggled", joined, left, straggled)
			if straggler == nil {
				straggler = join(nil) // which those that remain have to come back after
			}
			if len(members) == 0 {
				members = append(members, join(hurried()))
			}
			leave(straggler)
			if err := s.settled(ctx, db, c); err != nil {
				t.Fatal(err)
			}
			for _, m := range members {
				leave(m)
			}
			got, err := s.effects(ctx, db, c)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, undisturbed(t, ctx, s))
		})
	}
}

// TestVersionsShare upgrades under load and takes the upgrade back: processes of two
// versions, each of which can judge the records of one generation only, share the
// partitions by what they can do, come and go, and need no help.
func TestVersionsShare(t *testing.T) {
	t.Parallel() // with others that mostly wait
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	ctx := within(t, 3*time.Minute)
	s, db, c, w := shareSite(t, ctx, 4, 400, seed)
	done := write(ctx, w, 3*time.Second)
	f := &faults{rnd: rand.New(rand.NewPCG(seed, 3)), one: 200}
	join := func(version int) *member {
		m, err := s.join(ctx, crewOptions{every: 50 * time.Millisecond, faults: f, share: hurried(), speaks: fmt.Sprint("generation-", version)})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	// The new version is there before its generation is in force, and the old one until
	// the last record of its own is judged.
	members := []*member{join(0), join(0), join(1)}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	if err := members[0].leave(); err != nil {
		t.Fatal(err)
	}
	members[0] = join(1)
	f.stop()
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if err := m.leave(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, undisturbed(t, ctx, s))
}

// TestProcessesShare does the same with real processes: told to stop, or killed.
func TestProcessesShare(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	t.Parallel() // with the other that mostly waits for processes
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	rnd := rand.New(rand.NewPCG(seed, 8))
	ctx := within(t, 3*time.Minute)
	s, db, c, w := shareSite(t, ctx, 4, 700, seed)
	processesShare(t, ctx, s, db, c, rnd, write(ctx, w, 6*time.Second), hurried(), 700*time.Millisecond)
}

// processesShare starts, stops and kills processes, at most pause apart, for as long
// as is written.
func processesShare(
	t *testing.T, ctx context.Context, s *site, db *storage.DB, c *stream.Client, rnd *rand.Rand, done <-chan error,
	share *stream.GroupOptions, pause time.Duration,
) {
	t.Helper()

	env, err := json.Marshal(childSite{Brokers: s.brokers, Observations: s.observations, DSN: s.dsn, Logs: s.logs, Obs: s.obs, Session: share.Session})
	if err != nil {
		t.Fatal(err)
	}
	var children []*exec.Cmd
	for writing := true; writing; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			writing = false
		case <-time.After(time.Duration(rnd.Int64N(int64(pause)))): // any instant will do: that is the test
		}
		if len(children) < 2 || len(children) == 2 && rnd.IntN(2) == 0 {
			children = append(children, spawn(t, ctx, env))
			continue
		}
		i := rnd.IntN(len(children))
		if rnd.IntN(3) == 0 {
			stop(t, children[i])
		} else {
			kill(t, children[i])
		}
		children = slices.Delete(children, i, i+1)
	}
	children = append(children, spawn(t, ctx, env))
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range children {
		stop(t, cmd)
	}
	got, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, undisturbed(t, ctx, s))
}

// spawn starts a child and waits until it heeds signals.
func spawn(t *testing.T, ctx context.Context, env []byte) *exec.Cmd {
	t.Helper()
	cmd, err := begin(ctx, env)
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// begin starts a child, and returns once it heeds signals.
func begin(ctx context.Context, env []byte) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(env))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(out, make([]byte, len(ready))); err != nil {
		return nil, fmt.Errorf("child did not start: %w", err)
	}
	return cmd, nil
}

// stop tells a child to end and waits for it.
func stop(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("a process that was told to stop: %v", err)
	}
}
