package app_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/effects"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
)

var (
	killsFlag = flag.Int("app.kills", 3, "how often a process of each role is killed")
	seedFlag  = flag.Uint64("app.seed", 0, "seed of the kills; 0: a new one")
)

// refusedRules find each address that is refused often, and each user at each: what
// one user did from two addresses is one incident, which begins as two or three where
// the findings come one after the other.
const refusedRules = `title: Refused
id: 5f8a1b8e-8d5c-4a7f-9c9e-0d6a4f2b7c21
name: refused
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection:
  any: {http_request.http_method: POST}
  condition: any
---
title: Address refused
id: 5f8a1b8e-8d5c-4a7f-9c9e-0d6a4f2b7c22
status: test
level: high
author: Test
correlation: {type: event_count, rules: [refused], group-by: [src_endpoint.ip], timespan: 5m, condition: {gte: 20}}
---
title: User refused
id: 5f8a1b8e-8d5c-4a7f-9c9e-0d6a4f2b7c23
status: test
level: medium
author: Test
correlation: {type: event_count, rules: [refused], group-by: [actor.user.uid, src_endpoint.ip], timespan: 5m, condition: {gte: 20}}
`

const (
	users   = 20 // fewer addresses than are a flood
	refused = 40 // requests from each address
	// longestLife is how long a process goes on at most: long enough that it is at
	// work, for the groups take a second to miss the one before it.
	longestLife = 6 * time.Second

	whole = 160 // events of an incident: two addresses, by two rules
)

// siege is a service whose roles are processes of their own, that get killed.
type siege struct {
	*system
	t    *testing.T
	logs string
	from time.Time
	api  atomic.Pointer[process] // that listens, or is about to
}

// body is what a user does from one of two addresses.
func (g *siege) body(user int, address string) []byte {
	lines := servicetest.Refusals(refused, fmt.Sprintf("%s.%d", address, user), g.from)
	return bytes.ReplaceAll(lines, []byte(`"status"`), fmt.Appendf(nil, `"principalId":"user-%d","status"`, user))
}

// TestRolesKilled runs every role as a process of its own and kills each with SIGKILL
// again and again, at instants that have nothing to do with the others', while a
// client pushes, files grow, a receiver is slow and moody, and somebody resolves what
// was found. Findings, incidents and what is queued for the receiver are those of a
// service that nothing befalls on the same log, and the receiver was told of each
// incident, in order, and last what is so.
func TestRolesKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -app.seed=%d", seed, seed)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "refused.yml"), []byte(refusedRules), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &siege{t: t, logs: t.TempDir(), from: time.Now().Add(-10 * time.Minute).Truncate(time.Minute)}
	g.system = startIn(t, app.Timing{
		Session: time.Second, Lease: time.Second, Update: 500 * time.Millisecond,
		Deliver: 2 * time.Second, Rescue: 4 * time.Second, Survey: 500 * time.Millisecond,
	}, func(c *config.Config) {
		c.Rules.Shipped, c.Rules.Paths = false, []string{dir}
		c.Collect.Files = []config.FileSource{{Name: "files", Paths: []string{g.logs}, Poll: 50 * time.Millisecond}}
	})
	g.App.Stop()                  // it made the tokens
	strike := make(chan struct{}) // a message has come in, and is not answered yet
	g.Receiver.Moody(mood(rand.New(rand.NewPCG(seed, 1)), strike))

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(*killsFlag)*10*time.Second)
	defer cancel()
	var killing, load errgroup.Group
	besieged := make(chan struct{}) // closed when nobody is killed any more
	running := make([]*process, len(app.Roles()))
	var hit, struck atomic.Int32
	for i, role := range app.Roles() {
		rnd := rand.New(rand.NewPCG(seed, uint64(10+i)))
		killing.Go(func() (err error) {
			for range *killsFlag {
				p, err := g.raise(t.Context(), role)
				if err != nil {
					return err
				}
				moment := time.NewTimer(time.Duration(rnd.Int64N(int64(longestLife))))
				select {
				case <-moment.C: // any instant will do: that is the test
				case <-only(role == app.Alert, strike): // this one is rare otherwise
					struck.Add(1)
				}
				if p.works() {
					hit.Add(1)
				}
				if err := p.kill(); err != nil {
					return fmt.Errorf("%s: %w", role, err)
				}
			}
			running[i], err = g.raise(t.Context(), role) // not ctx: at its end they say how they stand
			return err
		})
	}
	load.Go(func() error { return g.push(ctx, besieged) })
	load.Go(func() error { return g.file(ctx, besieged) })
	load.Go(func() error { return g.resolve(ctx) })
	if err := killing.Wait(); err != nil {
		t.Fatal(err)
	}
	close(besieged)
	t.Logf("%d processes were killed, %d of them up, %d between telling and recording it; %d messages came by then",
		*killsFlag*len(running), hit.Load(), struck.Load(), len(g.Receiver.Bodies()))
	if err := load.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, g.standing())
	}
	db, err := storage.Open(ctx, storage.Options{DSN: g.Config.Postgres.DSN.Reveal(), Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := delivered(ctx, db); err != nil {
		t.Fatal(err)
	}
	for _, p := range running {
		if err := p.kill(); err != nil {
			t.Error(err)
		}
	}
	c, err := stream.NewClient(stream.Config{Brokers: g.Config.Kafka.Brokers})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := effects.Read(ctx, db, c, g.Config.Kafka.LogsPartitions)
	if err != nil {
		t.Fatal(err)
	}
	got["told"] = told(t, ctx, db, g.Receiver)
	want := g.undisturbed(ctx, c)
	effects.Compare(t, got, want, "finding", "incident", "entity", "intent", "told")
}

// mood takes messages mostly, answers some while after they have come in, and at times
// has the sender struck meanwhile, if somebody is about to.
func mood(rnd *rand.Rand, strike chan<- struct{}) func() (int, time.Duration) {
	return func() (int, time.Duration) {
		wait := time.Duration(rnd.IntN(150)) * time.Millisecond
		switch rnd.IntN(6) {
		case 0:
			return http.StatusServiceUnavailable, wait
		case 1, 2:
			select {
			case strike <- struct{}{}:
				wait = time.Second
			default:
			}
		}
		return http.StatusOK, wait
	}
}

// only is c if so, and otherwise nothing.
func only(so bool, c <-chan struct{}) <-chan struct{} {
	if so {
		return c
	}
	return nil
}

// raise starts the process of a role.
func (g *siege) raise(ctx context.Context, role app.Role) (*process, error) {
	p, err := g.launch(ctx, role)
	if err == nil && role == app.API {
		g.api.Store(p)
	}
	return p, err
}

// addr is where the API listens, or nowhere.
func (g *siege) addr() string {
	if p := g.api.Load(); p != nil && p.works() {
		return p.addr
	}
	return "127.0.0.1:1"
}

// push pushes what each user does from one address, and then again what was pushed,
// which counts once, until nobody is killed any more.
func (g *siege) push(ctx context.Context, besieged <-chan struct{}) error {
	for i := 0; ; i++ {
		if err := g.Push(ctx, g.addr, g.body(i%users, "203.0.113")); err != nil {
			return err
		}
		if !paced(ctx, besieged) && i >= users {
			return ctx.Err()
		}
	}
}

// file writes what each does from another, in the same way.
func (g *siege) file(ctx context.Context, besieged <-chan struct{}) error {
	for i := 0; ; i++ {
		name := filepath.Join(g.logs, strconv.Itoa(i)+".json")
		if err := os.WriteFile(name+".tmp", g.body(i%users, "203.0.114"), 0o600); err != nil {
			return err
		}
		if err := os.Rename(name+".tmp", name); err != nil {
			return err
		}
		if !paced(ctx, besieged) && i >= users {
			return ctx.Err()
		}
	}
}

// paced waits a while, so that the load lasts as long as the killing, and reports
// whether that goes on.
func paced(ctx context.Context, besieged <-chan struct{}) bool {
	select {
	case <-besieged:
		return false
	case <-ctx.Done():
		return false
	case <-time.After(time.Duration(*killsFlag) * longestLife / 2 / users):
		return true
	}
}

// even reports whether an incident is of a user with an even number: those are
// resolved.
func even(title string) bool {
	n, err := strconv.Atoi(title[strings.LastIndexByte(title, '.')+1:])
	return err == nil && n%2 == 0
}

// resolve resolves what is whole, and was told, of every other user, and returns when
// all is whole and nothing more to resolve.
func (g *siege) resolve(ctx context.Context) error {
	for {
		left := users
		for _, in := range g.list(ctx) {
			switch {
			case in.Count != whole || in.Status == "merged":
			case !even(in.Title) || in.Status == "resolved":
				left--
			case g.Receiver.Told(in.ID, `"trigger"`):
				// Whether it was done is seen the next time.
				_, _, _ = g.Request(ctx, g.addr(), "PATCH", "/v1/incidents/"+in.ID, api.ScopeWrite, []byte(`{"status":"resolved"}`))
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d incidents are not whole, or not resolved: %w", left, users, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// list is the incidents, or none if nobody can be asked.
func (g *siege) list(ctx context.Context) []servicetest.Incident {
	var list struct {
		Incidents []servicetest.Incident `json:"incidents"`
	}
	code, b, err := g.Request(ctx, g.addr(), "GET", "/v1/incidents", api.ScopeRead, nil)
	if err != nil || code != http.StatusOK || json.Unmarshal(b, &list) != nil {
		return nil
	}
	return list.Incidents
}

// standing says how things stand when they do not go on.
func (g *siege) standing() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var b strings.Builder
	for _, in := range g.list(ctx) {
		fmt.Fprintf(&b, "%s %s %d events, told: %v\n", in.Title, in.Status, in.Count, g.Receiver.Told(in.ID, `"trigger"`))
	}
	_, ready, err := g.Request(ctx, g.addr(), "GET", "/readyz", "", nil)
	fmt.Fprintf(&b, "readyz: %s %v\n", ready, err)
	return b.String()
}

// delivered waits until nothing is left to be told.
func delivered(ctx context.Context, db *storage.DB) error {
	for {
		var left int
		err := db.Pool().QueryRow(ctx, "SELECT count(*) FROM intent WHERE delivered < wanted OR job IS NOT NULL").Scan(&left)
		if err == nil && left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d notifications are not delivered (%v): %w", left, err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// message is what a receiver is told, as far as its order matters.
type message struct {
	Event    string
	Incident struct {
		ID      string
		Version int64
	}
}

// told gives what the receiver was told last of each incident, by what identifies it,
// and fails the test where that is not what is so, or what it was told before was out
// of order.
func told(t *testing.T, ctx context.Context, db *storage.DB, r *servicetest.Receiver) []string {
	t.Helper()
	last := make(map[string]message)
	repeats := 0
	for _, b := range r.Bodies() {
		var m message
		if err := json.Unmarshal([]byte(b), &m); err != nil {
			t.Fatal(err)
		}
		before, again := last[m.Incident.ID]
		switch {
		case again && m.Incident.Version < before.Incident.Version:
			t.Errorf("%s of version %d of %s came after %s of version %d", m.Event, m.Incident.Version, m.Incident.ID, before.Event, before.Incident.Version)
		case again && m.Incident.Version == before.Incident.Version && m.Event != before.Event:
			t.Errorf("version %d of %s was told as %s and as %s", m.Incident.Version, m.Incident.ID, before.Event, m.Event)
		case again && m.Incident.Version == before.Incident.Version:
			repeats++
		}
		last[m.Incident.ID] = m
	}
	t.Logf("%d messages, %d of them repeated, of %d incidents", len(r.Bodies()), repeats, len(last))
	type row struct {
		ID, Opener, Status string
		Version            int64
	}
	rows, err := db.Pool().Query(ctx, "SELECT id::text, encode(opener, 'hex'), status, version FROM incident")
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, in := range ledger {
		m, was := last[in.ID]
		delete(last, in.ID)
		want := "trigger"
		if in.Status == "resolved" || in.Status == "merged" {
			want = "resolve"
		}
		switch {
		case !was && in.Status == "merged": // before anybody was told
			continue
		case !was || m.Event != want || m.Incident.Version != in.Version:
			t.Errorf("of %s, which is %s in version %d, the receiver was last told %q of version %d", in.ID, in.Status, in.Version, m.Event, m.Incident.Version)
		}
		if in.Status != "merged" {
			out = append(out, in.Opener+" "+cmp.Or(m.Event, "nothing"))
		}
	}
	for id := range last {
		t.Errorf("the receiver was told of %s, which there is not", id)
	}
	slices.Sort(out)
	return out
}

// undisturbed is what a service comes to that begins with the same log and another
// ledger, and that nothing befalls.
func (g *siege) undisturbed(ctx context.Context, c *stream.Client) map[string][]string {
	g.t.Helper()
	if err := c.DeleteTopic(ctx, stream.TopicObservations); err != nil {
		g.t.Fatal(err)
	}
	calm := &siege{t: g.t, system: &system{Service: servicetest.New(g.t, func(cfg *config.Config) {
		cfg.Kafka = g.Config.Kafka
		cfg.Kafka.GroupPrefix = "undisturbed"
		cfg.Rules = g.Config.Rules
	})}}
	calm.Timing = g.Timing
	calm.Boot()
	defer calm.App.Stop()
	up := make(chan struct{})
	close(up)
	calm.api.Store(&process{up: up, addr: calm.App.Addr()})
	if err := calm.resolve(ctx); err != nil {
		g.t.Fatal(err)
	}
	db := calm.App.DB()
	if err := delivered(ctx, db); err != nil {
		g.t.Fatal(err)
	}
	all, err := effects.Read(ctx, db, c, g.Config.Kafka.LogsPartitions)
	if err != nil {
		g.t.Fatal(err)
	}
	all["told"] = told(g.t, ctx, db, calm.Receiver)
	return all
}
