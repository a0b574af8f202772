package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vedette-sec/vedette/alerting/webhook"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/stream"
)

// receiver is a local endpoint for webhooks. It accepts everything and notes when.
type receiver struct {
	url  string
	http *http.Server
	done chan struct{}

	mu       sync.Mutex
	accepted map[string]alert // by the address that the incident is about
}

type alert struct {
	incident string
	at       time.Time
}

func startReceiver() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the alert receiver: %w", err)
	}
	r := &receiver{url: "http://" + l.Addr().String() + "/", done: make(chan struct{}), accepted: map[string]alert{}}
	r.http = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(r.done)
		if err := r.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("alert receiver", "err", err)
		}
	}()
	return r, nil
}

func (r *receiver) close() {
	r.http.Close()
	<-r.done
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	at := time.Now()
	var b webhook.Body
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 1<<20)).Decode(&b); err != nil {
		http.Error(w, "not a webhook's body", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range b.Incident.Entities {
		if _, known := r.accepted[e.Value]; e.Type == incident.EntitySrcIP && !known {
			r.accepted[e.Value] = alert{b.Incident.ID, at}
		}
	}
}

func (r *receiver) of(address string) (alert, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.accepted[address]
	return a, ok
}

// opened notes when incidents were opened: the assembler logs each behind its
// COMMIT. It costs nothing, unlike asking Postgres all the time.
type opened struct {
	mu sync.Mutex
	at map[string]time.Time // by incident
}

func newOpened() *opened { return &opened{at: map[string]time.Time{}} }

func (o *opened) Enabled(context.Context, slog.Level) bool { return true }
func (o *opened) WithAttrs([]slog.Attr) slog.Handler       { return o }
func (o *opened) WithGroup(string) slog.Handler            { return o }

func (o *opened) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "incident "+string(incident.ActionOpened) {
		return nil
	}
	at := time.Now()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "incident" {
			return true
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.at[a.Value.String()] = at
		return false
	})
	return nil
}

func (o *opened) of(incident string) (time.Time, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, ok := o.at[incident]
	return at, ok
}

// tee gives what is logged to opened and, as far as it wants it, to another.
type tee struct {
	opened *opened
	to     slog.Handler
}

func (t tee) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (t tee) Handle(ctx context.Context, r slog.Record) error {
	err := t.opened.Handle(ctx, r)
	if t.to.Enabled(ctx, r.Level) {
		err = errors.Join(err, t.to.Handle(ctx, r))
	}
	return err
}

func (t tee) WithAttrs(as []slog.Attr) slog.Handler { return tee{t.opened, t.to.WithAttrs(as)} }
func (t tee) WithGroup(name string) slog.Handler    { return tee{t.opened, t.to.WithGroup(name)} }

// probe is a record that opens an incident of its own, and when it was appended.
type probe struct {
	address  string
	appended time.Time
}

// newProbe makes the n'th probe, from an address of its own.
func newProbe(n int, t *Traffic) (probe, stream.LogMessage) {
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 2}
	binary.BigEndian.PutUint32(a[12:], uint32(n+1))
	p := probe{address: netip.AddrFrom16(a).String()}
	t.n++
	t.ns = t.now().UnixNano()
	t.code = 200
	m := t.make(event.TypeAPIGateway, &t.access)
	v := string(m.Value)
	// The template's own address and route give way to the probe's.
	v = replaceMember(v, "sourceIp", p.address)
	v = replaceMember(v, "resourcePath", probeRoute)
	m.Value = []byte(v)
	return p, m
}

// replaceMember gives a member of a flat JSON object another text.
func replaceMember(v, name, value string) string {
	key := `"` + name + `":"`
	i := strings.Index(v, key)
	if i < 0 {
		return v
	}
	i += len(key)
	end := i + strings.IndexByte(v[i:], '"')
	return v[:i] + value + v[end:]
}

// latencies is how long probes took, from before their append. Those that did not
// arrive count as having taken as long as was waited for them.
func latencies(probes []probe, until func(probe) (time.Time, bool)) Latency {
	var took []time.Duration
	for _, p := range probes {
		if at, ok := until(p); ok {
			took = append(took, at.Sub(p.appended))
		}
	}
	l := Latency{Arrived: len(took)}
	if len(probes) == 0 {
		return l
	}
	for range len(probes) - len(took) {
		took = append(took, arriveWithin)
	}
	slices.Sort(took)
	// The least that so large a share of the probes did not exceed.
	rank := func(q float64) float64 {
		i := int(q*float64(len(took))+0.999999) - 1
		return float64(took[min(max(i, 0), len(took)-1)]) / 1e6
	}
	l.P50, l.P99, l.P999, l.Max = rank(0.5), rank(0.99), rank(0.999), rank(1)
	return l
}
