package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// outage is a run of the service with traffic that goes on while something it
// needs is away: a client that pushes, and a file that grows.
type outage struct {
	*system
	t    *testing.T
	logs string    // directory that the file collector watches
	from time.Time // of the events

	mu     sync.Mutex
	pushed int            // bodies that were acknowledged
	filed  int            // bodies written to files
	codes  map[int]int    // answers to pushes
	wrong  map[string]int // what no answer may be
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// besetLeave is how long the service of an outage waits at its end for what does not
// answer.
const besetLeave = time.Second

// beset starts the service with its traffic.
func beset(t *testing.T, tweaks ...func(*config.Config)) *outage {
	t.Helper()
	return besetOn(t, devbroker.Options{}, tweaks...)
}

// besetOn starts it over such a broker.
func besetOn(t *testing.T, kafka devbroker.Options, tweaks ...func(*config.Config)) *outage {
	t.Helper()
	o := &outage{t: t, logs: t.TempDir(), from: time.Now().Add(-10 * time.Minute), codes: map[int]int{}, wrong: map[string]int{}}
	o.system = startOn(t, kafka, app.Timing{Leave: besetLeave}, append(tweaks, func(c *config.Config) {
		c.Collect.Files = []config.FileSource{{Name: "files", Paths: []string{o.logs}, Poll: 50 * time.Millisecond}}
	})...)
	t.Cleanup(o.App.Stop)
	ctx, cancel := context.WithCancel(t.Context())
	o.cancel = cancel
	o.done.Go(func() { o.push(ctx) })
	o.done.Go(func() { o.file(ctx) })
	t.Cleanup(func() { cancel(); o.done.Wait() })
	o.Eventually("the service is ready and its traffic flows", func() bool {
		pushed, filed := o.sent()
		return o.Ready("") && pushed > 0 && filed > 0
	})
	return o
}

// addresses is how many of either kind appear; then they come again with what they
// did before, which counts once.
const addresses = 12

// body is what one address does, enough for one incident of forty events.
func (o *outage) body(kind byte, i int) []byte {
	return servicetest.Refusals(40, fmt.Sprintf("203.0.%d.%d", kind, i%addresses), o.from)
}

// push sends bodies one after the other, each until it is acknowledged, as clients
// are told to.
func (o *outage) push(ctx context.Context) {
	client := &http.Client{Timeout: 20 * time.Second}
	for i := 0; ctx.Err() == nil; i++ {
		b := o.body(113, i)
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, "POST", "http://"+o.App.Addr()+"/v1/logs", bytes.NewReader(b))
			if err != nil {
				panic(err)
			}
			req.Header.Set("Authorization", "Bearer "+o.Token(api.ScopeIngest))
			res, err := client.Do(req)
			if err != nil {
				if ctx.Err() == nil {
					o.note(0, err.Error())
				}
				continue
			}
			answer, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusAccepted {
				o.note(res.StatusCode, "")
				break
			}
			complaint := ""
			if res.StatusCode != 503 && res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
				complaint = fmt.Sprintf("%s, Retry-After %q: %s", res.Status, res.Header.Get("Retry-After"), answer)
			}
			o.note(res.StatusCode, complaint)
			pause(ctx, 100*time.Millisecond)
		}
		pause(ctx, 250*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d): // paced
	case <-ctx.Done():
	}
}

func (o *outage) note(code int, complaint string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.codes[code]++
	if code == http.StatusAccepted {
		o.pushed++
	}
	if complaint != "" {
		o.wrong[complaint]++
	}
}

// file writes a file a body.
func (o *outage) file(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		name := filepath.Join(o.logs, fmt.Sprintf("%d.json", i))
		if err := os.WriteFile(name+".tmp", o.body(114, i), 0o600); err != nil {
			panic(err)
		}
		if err := os.Rename(name+".tmp", name); err != nil {
			panic(err)
		}
		o.mu.Lock()
		o.filed++
		o.mu.Unlock()
		pause(ctx, 400*time.Millisecond)
	}
}

func (o *outage) sent() (pushed, filed int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pushed, o.filed
}

func (o *outage) refused() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.codes[503] + o.codes[429]
}

// alive checks what has to hold whatever is away.
func (o *outage) alive() {
	o.t.Helper()
	if code, _ := o.Do("GET", "/healthz", "", nil); code != 200 {
		o.t.Errorf("healthz: %d", code)
	}
}

// settle ends the traffic and waits until the service is ready again and has found
// what it would have found had nothing happened: of each address one incident with
// all its events, each of which the receiver was told of.
func (o *outage) settle() {
	o.t.Helper()
	o.Eventually("ready again", func() bool { return o.Ready("") })
	before, _ := o.sent()
	o.Eventually("pushes are taken again", func() bool { now, _ := o.sent(); return now > before })
	o.cancel()
	o.done.Wait()
	pushed, filed := o.sent()
	want := map[string]bool{}
	for i := range min(pushed, addresses) {
		want[fmt.Sprintf("203.0.113.%d", i)] = true
	}
	for i := range min(filed, addresses) {
		want[fmt.Sprintf("203.0.114.%d", i)] = true
	}
	o.Eventually(fmt.Sprintf("%d incidents with all their events, and nothing else but of the body being sent at the end", len(want)), func() bool {
		found := map[string]int64{}
		for _, in := range o.Incidents() {
			for ip := range strings.FieldsSeq(in.Title) {
				if strings.HasPrefix(ip, "203.0.") {
					found[ip] = in.Count
				}
			}
		}
		for ip := range want {
			if found[ip] != 40 {
				return false
			}
		}
		return len(found) <= len(want)+1
	})
	o.Eventually("the receiver is told of each", func() bool {
		for ip := range want {
			if !o.Receiver.Told(ip+`"`) && !o.Receiver.Told(ip+" ") {
				return false
			}
		}
		return true
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	for complaint, n := range o.wrong {
		o.t.Errorf("%d pushes were answered with %s", n, complaint)
	}
	o.t.Logf("answers to pushes: %v; files: %d", o.codes, filed)
}

// TestKafkaAway: the broker goes for a while and comes back with what it had.
func TestKafkaAway(t *testing.T) {
	t.Parallel()
	o := beset(t)
	o.broker.Close()
	o.Eventually("readiness names Kafka", func() bool { return o.Ready("kafka") })
	o.Eventually("pushes are refused", func() bool { return o.refused() > 2 })
	o.Eventually("that files cannot be appended is counted", func() bool { return o.Metric("vedette_file_errors_total") > 0 })
	o.alive()
	if n := o.Metric("vedette_produce_errors_total"); n == 0 {
		t.Error("failed produces are not counted")
	}
	o.startBroker(t)
	o.settle()
}

// TestStopInAnOutage: whatever is away, the service ends within a bounded time.
func TestStopInAnOutage(t *testing.T) {
	t.Parallel()
	for what, fail := range map[string]func(*outage, *proxy){
		"Kafka is gone":      func(o *outage, _ *proxy) { o.broker.Close() },
		"Postgres is gone":   func(_ *outage, p *proxy) { p.cut() },
		"Postgres is silent": func(_ *outage, p *proxy) { p.hang() },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var p *proxy
			o := beset(t, func(c *config.Config) {
				var dsn string
				p, dsn = pgProxy(t, c.Postgres.DSN.Reveal())
				c.Postgres.DSN = secret.String(dsn)
			})
			name := "postgres"
			if what == "Kafka is gone" {
				name = "kafka"
			}
			fail(o, p)
			o.Eventually("readiness tells", func() bool { return o.Ready(name) })
			o.Eventually("the metrics tell", func() bool { return o.Metric("vedette_failing_parts") > 0 })
			o.cancel()
			o.done.Wait()
			began := time.Now()
			o.App.Stop()
			if took := time.Since(began); took > stopWithin {
				t.Errorf("stopping took %v", took)
			}
		})
	}
}

// stopWithin is what docs/operations.md promises, shorter than the half minute that a
// container gets, but for what a service waits less for what does not answer, twice:
// the last checkpoint, and closing.
const stopWithin = 20*time.Second - 2*(5*time.Second-besetLeave)
