package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/secret"
)

// childEnv holds what a child process is to run, in JSON.
const childEnv = "APP_TEST_CHILD"

type childService struct {
	Config config.Config
	Secret map[string]string // which do not travel in a config
	Roles  []app.Role
	Timing app.Timing
}

// TestMain is also the process that gets killed.
func TestMain(m *testing.M) {
	if env := os.Getenv(childEnv); env != "" {
		os.Exit(child(env))
	}
	// These tests wait more than they compute: unless told otherwise, more of them at
	// once than there are processors.
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "test.parallel" })
	if !told {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// nowhere is where a process listens that has no API.
const nowhere = "nowhere"

// child runs a service until it is told to stop, which SIGKILL does not do, and says
// where it listens.
func child(env string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var c childService
	err := json.Unmarshal([]byte(env), &c)
	if err == nil {
		c.Config.Postgres.DSN = secret.String(c.Secret["dsn"])
		for i := range c.Config.Alerting.Receivers {
			r := &c.Config.Alerting.Receivers[i]
			r.URL, r.Key = secret.String(c.Secret["url"]), secret.String(c.Secret["key"])
		}
		var a *app.App
		if a, err = app.Start(ctx, app.Options{Config: &c.Config, Roles: c.Roles, Timing: c.Timing, Logger: discard, Version: "child"}); err == nil {
			addr := nowhere
			if len(c.Roles) == 0 || slices.Contains(c.Roles, app.API) {
				addr = a.Addr()
			}
			os.Stdout.WriteString(addr + "\n")
			<-ctx.Done()
			a.Stop()
			return 0
		}
	}
	os.Stderr.WriteString(err.Error() + "\n")
	return 1
}

// process is a service in a process of its own.
type process struct {
	cmd  *exec.Cmd
	up   chan struct{} // closed once it works, or will not
	addr string        // where it listens, if it works and does; set before up is closed
}

// launch starts one with s's configuration, and returns at once.
func (s *system) launch(ctx context.Context, roles ...app.Role) (*process, error) {
	r := s.Config.Alerting.Receivers[0]
	env, err := json.Marshal(childService{Config: *s.Config, Roles: roles, Timing: s.Timing, Secret: map[string]string{
		"dsn": s.Config.Postgres.DSN.Reveal(), "url": r.URL.Reveal(), "key": r.Key.Reveal(),
	}})
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, os.Args[0]), up: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(env))
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.up)
		if line, err := bufio.NewReader(out).ReadString('\n'); err == nil {
			p.addr = strings.TrimSpace(line)
		}
	}()
	return p, nil
}

// works reports whether it has come up by now.
func (p *process) works() bool {
	select {
	case <-p.up:
		return p.addr != ""
	default:
		return false
	}
}

// kill ends it as nothing else does.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.up // or Wait would close what is being read
	if err := p.cmd.Wait(); err == nil || p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fmt.Errorf("process ended by itself: %v", p.cmd.ProcessState)
	}
	return nil
}

// spawn starts one with s's configuration and waits until it works.
func (s *system) spawn(roles ...app.Role) *process {
	s.T.Helper()
	p, err := s.launch(s.T.Context(), roles...)
	if err != nil {
		s.T.Fatal(err)
	}
	if <-p.up; !p.works() {
		s.T.Fatal("child did not start")
	}
	return p
}

// metric tells whether a process shows a line in its metrics.
func (s *system) metric(addr, line string) bool {
	s.T.Helper()
	res, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		s.T.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.Contains(string(b), line+"\n")
}

// TestActiveAlertKilled: of several processes with the role alert one assembles; when
// it is killed another goes on within a bounded time, and nothing is told twice.
func TestActiveAlertKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lease to end")
	}
	t.Parallel()
	s := start(t)
	s.App.Stop()
	s.App = s.Run(app.Match, app.Correlate, app.API)
	defer s.App.Stop()

	const active = `vedette_active{lease="assemble"} 1`
	first := s.spawn(app.Alert, app.API)
	s.Eventually("the first assembles", func() bool { return s.metric(first.addr, active) })
	second := s.spawn(app.Alert, app.API)
	push := func(ip string) {
		t.Helper()
		if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, servicetest.Refusals(40, ip, time.Now().Add(-10*time.Minute))); code != 202 {
			t.Fatalf("push: %d %s", code, b)
		}
	}
	told := func(n int) bool {
		return len(s.Receiver.Bodies()) >= n
	}
	push("203.0.113.1")
	s.Eventually("one incident, told", func() bool { return len(s.Incidents()) == 1 && told(1) })
	if s.metric(second.addr, active) {
		t.Error("both assemble")
	}

	if err := first.kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	push("203.0.113.2")
	s.Eventually("another incident, told", func() bool { return len(s.Incidents()) == 2 && told(2) })
	// The lease lasts 8 s, it is looked at every 2 s; the rest is a loaded machine's.
	if took := time.Since(killed); took > 25*time.Second {
		t.Errorf("the other went on after %v", took)
	}
	if !s.metric(second.addr, active) {
		t.Error("the second does not say that it assembles")
	}
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.cmd.Wait(); err != nil {
		t.Errorf("the second, told to stop: %v", err)
	}
	asNew := map[string]int{} // by incident: how often the receiver was told as of something new
	for _, h := range s.Receiver.Bodies() {
		var body struct {
			Update   bool
			Incident struct{ ID string }
		}
		if err := json.Unmarshal([]byte(h), &body); err != nil {
			t.Fatal(err)
		}
		if !body.Update {
			asNew[body.Incident.ID]++
		}
	}
	for id, n := range asNew {
		if n != 1 {
			t.Errorf("incident %s was told %d times", id, n)
		}
	}
	if len(asNew) != 2 {
		t.Errorf("%d incidents were told, want 2", len(asNew))
	}
}
