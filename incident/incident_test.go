package incident_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/incident/incidenttest"
)

func TestID(t *testing.T) {
	const s = "01234567-89ab-8def-8123-456789abcdef"
	id, err := incident.ParseID(s)
	if err != nil || id.String() != s {
		t.Fatalf("ParseID(%q) = %v, %v", s, id, err)
	}
	for _, bad := range []string{"", "0123456789ab8def8123456789abcdef", "01234567-89ab-8def-8123-456789abcdeg", s + "0", "{" + s[1:]} {
		if id, err := incident.ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", bad, id)
		}
	}
}

func TestEntities(t *testing.T) {
	long := make([]byte, 3000)
	for i := range long {
		long[i] = 'x'
	}
	type es = []incident.Entity
	for _, c := range []struct {
		name    string
		groupBy []string
		values  []string
		want    es
	}{
		{"none", nil, nil, nil},
		{"public address joins", []string{"src_endpoint.ip"}, []string{"198.51.100.7"}, es{{"src_endpoint.ip", "198.51.100.7", true}}},
		{"provider's name", []string{"sourceIPAddress"}, []string{"198.51.100.7"}, es{{"src_endpoint.ip", "198.51.100.7", true}}},
		{"mapped address", []string{"sourceIPAddress"}, []string{"::ffff:198.51.100.7"}, es{{"src_endpoint.ip", "198.51.100.7", true}}},
		{"long form", []string{"sourceIPAddress"}, []string{"2001:DB8:0:0::1"}, es{{"src_endpoint.ip", "2001:db8::1", true}}},
		{"private address", []string{"src_endpoint.ip"}, []string{"10.1.2.3"}, es{{"src_endpoint.ip", "10.1.2.3", false}}},
		{"mapped private address", []string{"src_endpoint.ip"}, []string{"::ffff:192.168.0.1"}, es{{"src_endpoint.ip", "192.168.0.1", false}}},
		{"unique local address", []string{"src_endpoint.ip"}, []string{"fd00::1"}, es{{"src_endpoint.ip", "fd00::1", false}}},
		{"loopback", []string{"src_endpoint.ip"}, []string{"127.0.0.1"}, es{{"src_endpoint.ip", "127.0.0.1", false}}},
		{"link-local", []string{"src_endpoint.ip"}, []string{"169.254.169.254"}, es{{"src_endpoint.ip", "169.254.169.254", false}}},
		{"carrier-grade NAT", []string{"src_endpoint.ip"}, []string{"100.64.1.1"}, es{{"src_endpoint.ip", "100.64.1.1", false}}},
		{"service in place of an address", []string{"sourceIPAddress"}, []string{"cloudtrail.amazonaws.com"}, es{{"src_endpoint.domain", "cloudtrail.amazonaws.com", false}}},
		{
			"user, with its account",
			[]string{"userIdentity.arn"},
			[]string{"arn:aws:iam::111122223333:user/ann"},
			es{{"actor.user.uid", "arn:aws:iam::111122223333:user/ann", true}, {"cloud.account.uid", "111122223333", false}},
		},
		{
			"session counts as its role",
			[]string{"userIdentity.arn"},
			[]string{"arn:aws-cn:sts::111122223333:assumed-role/deploy/ci-1"},
			es{
				{"actor.session.uid", "ci-1", false},
				{"actor.user.uid", "arn:aws-cn:iam::111122223333:role/deploy", true},
				{"cloud.account.uid", "111122223333", false},
			},
		},
		{
			"function by ARN",
			[]string{"requestParameters.functionName", "recipientAccountId"},
			[]string{"arn:aws:lambda:eu-west-1:111122223333:function:orders-api:live", "111122223333"},
			es{{"cloud.account.uid", "111122223333", false}, {"function.name", "orders-api", true}},
		},
		{"function by name", []string{"function.name"}, []string{"orders-api"}, es{{"function.name", "orders-api", true}}},
		{"empty and placeholder", []string{"src_endpoint.ip", "actor.user.uid", "userIdentity.userName"}, []string{"", "-", "HIDDEN_DUE_TO_SECURITY_REASONS"}, nil},
		{"other names stay", []string{"gateway.route"}, []string{"GET /orders"}, es{{"gateway.route", "GET /orders", false}}},
		{"NUL and broken text", []string{"function.name"}, []string{"a\x00b\xff"}, es{{"function.name", "a\uFFFDb\uFFFD", false}}},
		{"too long joins nothing", []string{"function.name"}, []string{string(long)}, es{{"function.name", string(long[:1024]), false}}},
		{"more values than names", []string{"function.name"}, []string{"f", "g"}, es{{"function.name", "f", true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := incident.Entities(incident.Rule{GroupBy: c.groupBy}, detect.Finding{Key: key(c.values...)})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	if _, err := incident.Entities(incident.Rule{GroupBy: []string{"a"}}, detect.Finding{Key: []byte{200}}); err == nil {
		t.Error("a truncated key has no error")
	}
}

// bench is an assembler and a desk over a ledger in memory, with a clock.
type bench struct {
	*incidenttest.Memory
	t   *testing.T
	a   *incident.Assembler
	d   *incident.Desk
	now time.Time
}

func newBench(t *testing.T, change func(*incident.Options), rules ...incident.Rule) *bench {
	b := &bench{Memory: incidenttest.New(append(rules, testRules...)...), t: t, now: time.Unix(0, start).UTC()}
	o := incident.Options{
		Ledger: b.Memory, Now: func() time.Time { return b.now },
		Receivers: []incident.Receiver{{Name: "all"}, {Name: "high", MinSeverity: detect.LevelHigh}},
	}
	if change != nil {
		change(&o)
	}
	var err error
	if b.a, err = incident.New(o); err != nil {
		t.Fatal(err)
	}
	if b.d, err = incident.NewDesk(o); err != nil {
		t.Fatal(err)
	}
	if err := b.a.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// find commits a finding, minutes from start, and assembles it.
func (b *bench) find(version string, minute int, values ...string) incident.ID {
	b.t.Helper()
	f := finding(version, minute, values...)
	b.Checkpoint(0, f)
	if err := drain(b.t.Context(), b.a); err != nil {
		b.t.Fatal(err)
	}
	return b.Findings[incidenttest.FindingKey{Tenant: f.Tenant, ID: f.ID}].Incident
}

func finding(version string, minute int, values ...string) detect.Finding {
	at := start + int64(minute)*int64(time.Minute)
	f := detect.Finding{
		Tenant: "t1", RuleVersion: version, Key: key(values...), Count: 1, First: at, Last: at,
		Tile: at / int64(time.Hour) * int64(time.Hour),
	}
	f.ID = detect.NewFindingID(f.Tenant, f.RuleVersion, f.Key, f.Tile)
	return f
}

func (b *bench) get(id incident.ID) incident.Incident {
	return b.Incidents[incidenttest.IncidentKey{Tenant: "t1", ID: id}]
}

func (b *bench) actions(id incident.ID) []incident.Action {
	var as []incident.Action
	for _, e := range b.Audit {
		if e.Incident == id {
			as = append(as, e.Action)
		}
	}
	return as
}

func TestAmendedCountsAreNotTold(t *testing.T) {
	b := newBench(t, nil)
	id := b.find("flood1", 0, "198.51.100.7")
	b.find("flood1", 1, "198.51.100.7") // the same finding
	in := b.get(id)
	if in.Count != 2 || in.Version != 1 || in.Last != start+int64(time.Minute) {
		t.Errorf("count %d, version %d, last %d", in.Count, in.Version, in.Last-start)
	}
	if in.Severity != detect.LevelMedium || len(b.Intents[incidenttest.IncidentKey{Tenant: "t1", ID: id}]) != 1 {
		t.Errorf("severity %s, intents %v", in.Severity, b.Intents[incidenttest.IncidentKey{Tenant: "t1", ID: id}])
	}
	b.find("who", 5, "arn:aws:iam::111122223333:user/ann", "198.51.100.7")
	in = b.get(id)
	if in.Version != 2 || in.Count != 3 || in.Account != "111122223333" {
		t.Errorf("after a new finding: %+v", in)
	}
	b.find("flood2", 6, "198.51.100.7") // a newer version of the rule, level high
	in = b.get(id)
	if in.Version != 3 || in.Severity != detect.LevelHigh {
		t.Errorf("after a raised severity: %+v", in)
	}
	if got := b.Intents[incidenttest.IncidentKey{Tenant: "t1", ID: id}]["high"]; got.Wanted != 3 || got.Event != incident.EventTrigger {
		t.Errorf("intent of high: %+v", got)
	}
}

func TestMergeResolvesAlerts(t *testing.T) {
	b := newBench(t, nil)
	late := b.find("flood1", 20, "198.51.100.7")
	early := b.find("fresh", 10, "arn:aws:iam::111122223333:user/ann")
	if late == early {
		t.Fatal("nothing links the two yet")
	}
	if got := b.find("who", 30, "arn:aws:iam::111122223333:user/ann", "198.51.100.7"); got != early {
		t.Fatalf("incident %s goes on, want the earlier %s", got, early)
	}
	gone := b.get(late)
	if gone.Status != incident.StatusMerged || gone.MergedInto != early || gone.Version != 2 {
		t.Errorf("merged: %+v", gone)
	}
	if got := b.Intents[incidenttest.IncidentKey{Tenant: "t1", ID: late}]["all"]; got.Event != incident.EventResolve || got.Wanted != 2 {
		t.Errorf("intent of the merged: %+v", got)
	}
	if _, told := b.Intents[incidenttest.IncidentKey{Tenant: "t1", ID: late}]["high"]; told {
		t.Error("a receiver that was never told of the merged is told that it is resolved")
	}
	if d := cmp.Diff([]incident.Action{incident.ActionOpened, incident.ActionMerged}, b.actions(late)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]incident.Action{incident.ActionOpened, incident.ActionAbsorbed, incident.ActionAmended}, b.actions(early)); d != "" {
		t.Error(d)
	}
	_, err := b.d.Resolve(t.Context(), "t1", late, "ann", "")
	if !errors.Is(err, incident.ErrMerged) {
		t.Errorf("resolving what was merged: %v", err)
	}
}

func TestResolvedReopensForNewFindingsOnly(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	id := b.find("flood1", 0, "198.51.100.7")
	if in, err := b.d.Acknowledge(ctx, "t1", id, "ann", "on it"); err != nil || in.Status != incident.StatusAcknowledged || in.Version != 2 {
		t.Fatalf("acknowledge: %+v, %v", in, err)
	}
	if in, err := b.d.Acknowledge(ctx, "t1", id, "bob", ""); err != nil || in.Version != 2 {
		t.Fatalf("acknowledge again: %+v, %v", in, err)
	}
	in, err := b.d.Resolve(ctx, "t1", id, "ann", "a scanner of ours")
	if err != nil || in.Status != incident.StatusResolved || !in.ResolvedAt.Equal(b.now) || !in.AcknowledgedAt.IsZero() {
		t.Fatalf("resolve: %+v, %v", in, err)
	}
	if got := b.Intents[incidenttest.IncidentKey{Tenant: "t1", ID: id}]["all"]; got.Event != incident.EventResolve || got.Wanted != 3 {
		t.Errorf("intent after resolve: %+v", got)
	}
	if _, err := b.d.Acknowledge(ctx, "t1", id, "ann", ""); !errors.Is(err, incident.ErrResolved) {
		t.Errorf("acknowledging what is resolved: %v", err)
	}

	b.find("flood1", 5, "198.51.100.7") // amends the finding it has
	if in := b.get(id); in.Status != incident.StatusResolved || in.Version != 3 || in.Count != 2 {
		t.Errorf("amended: %+v", in)
	}
	b.now = b.now.Add(time.Hour)
	if got := b.find("who", 10, "arn:aws:iam::111122223333:user/ann", "198.51.100.7"); got != id {
		t.Fatalf("new finding in %s", got)
	}
	if in := b.get(id); in.Status != incident.StatusOpen || in.Version != 4 || !in.ResolvedAt.IsZero() {
		t.Errorf("reopened: %+v", in)
	}
	if got := b.Intents[incidenttest.IncidentKey{Tenant: "t1", ID: id}]["all"]; got.Event != incident.EventTrigger || got.Wanted != 4 {
		t.Errorf("intent after reopening: %+v", got)
	}

	// Once it is resolved for long enough, new findings are a new incident.
	if _, err := b.d.Resolve(ctx, "t1", id, "ann", ""); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(25 * time.Hour)
	other := b.find("who", 15, "arn:aws:iam::111122223333:role/deploy", "198.51.100.7")
	if other == id {
		t.Error("a new finding joined what was resolved a day ago")
	}
	if in := b.get(id); in.Status != incident.StatusResolved {
		t.Errorf("the old incident is %s", in.Status)
	}
	// What comes next finds the new one, though the old one is as near.
	if got := b.find("who", 16, "arn:aws:iam::111122223333:user/ann", "203.0.113.9"); got == id {
		t.Error("a new finding joined what was resolved a day ago")
	}
	if got := b.find("flood2", 40, "198.51.100.7"); got != other {
		t.Errorf("a new finding is in %s, want %s", got, other)
	}
	// An amendment of the old one's finding stays there.
	if got := b.find("flood1", 7, "198.51.100.7"); got != id {
		t.Errorf("an amended finding moved to %s", got)
	}
	var acts []incident.Action
	for _, e := range b.Audit {
		if e.Incident == id && e.Actor == "ann" {
			acts = append(acts, e.Action)
			if e.Action == incident.ActionAcknowledged && e.Detail["note"] != "on it" {
				t.Errorf("note: %v", e.Detail)
			}
		}
	}
	if d := cmp.Diff([]incident.Action{incident.ActionAcknowledged, incident.ActionResolved, incident.ActionResolved}, acts); d != "" {
		t.Error(d)
	}
}

func TestAssignIsToldToNobody(t *testing.T) {
	b := newBench(t, nil)
	id := b.find("flood1", 0, "198.51.100.7")
	in, err := b.d.Assign(t.Context(), "t1", id, "ann", " bob ")
	if err != nil || in.Assignee != "bob" || in.Version != 1 {
		t.Fatalf("assign: %+v, %v", in, err)
	}
	if _, err := b.d.Assign(t.Context(), "t1", incident.ID{1}, "ann", "bob"); !errors.Is(err, incident.ErrNotFound) {
		t.Errorf("assigning what is not there: %v", err)
	}
	if _, err := b.d.Assign(t.Context(), "t2", id, "ann", "bob"); !errors.Is(err, incident.ErrNotFound) {
		t.Errorf("assigning another tenant's: %v", err)
	}
	if in, err := b.d.Reopen(t.Context(), "t1", id, "ann", ""); err != nil || in.Version != 1 {
		t.Errorf("reopening what is open: %+v, %v", in, err)
	}
}

func TestVeryCommonEntityDoesNotJoin(t *testing.T) {
	const nat = "198.51.100.7"
	var rules []incident.Rule
	for _, v := range []string{"r1", "r2", "r3", "r4", "r5"} {
		rules = append(rules, incident.Rule{Version: v, ID: v, Title: v, GroupBy: []string{"src_endpoint.ip", "function.name"}})
	}
	b := newBench(t, func(o *incident.Options) { o.CommonRules = 3 }, rules...)
	first := b.find("r1", 0, nat, "")
	if b.find("r2", 1, nat, "fn") != first || b.find("r3", 2, nat, "") != first {
		t.Error("not joined by an address on which three rules fired")
	}
	if b.find("r4", 5, nat, "") == first {
		t.Error("joined by an address on which four rules fired")
	}
	if b.find("r5", 6, nat, "fn") != first {
		t.Error("not joined by the function, which is not common")
	}
	next := b.find("r4", 180, nat, "") // the next day
	if b.find("r5", 181, nat, "") != next {
		t.Error("not joined on the next day")
	}
}

func TestUndecodableKeyAndUnknownRuleStillOpen(t *testing.T) {
	b := newBench(t, nil)
	f := finding("flood1", 0)
	f.Key = []byte{250}
	g := finding("nobody-recorded-it", 100)
	b.Checkpoint(0, f, g)
	if err := drain(t.Context(), b.a); err != nil {
		t.Fatal(err)
	}
	if len(b.Incidents) != 2 {
		t.Fatalf("%d incidents, want 2", len(b.Incidents))
	}
	in := b.get(b.Findings[incidenttest.FindingKey{Tenant: "t1", ID: g.ID}].Incident)
	if in.Title != "Rule nobody-recorded-it" || in.Severity != detect.LevelMedium {
		t.Errorf("incident of an unknown rule: %+v", in)
	}
}

func TestFencing(t *testing.T) {
	b := newBench(t, nil)
	b.Checkpoint(0, finding("flood1", 0, "198.51.100.7"))
	if _, err := b.AcquireAssembler(t.Context(), 0); err != nil { // another owner
		t.Fatal(err)
	}
	if _, err := b.a.Step(t.Context()); !errors.Is(err, incident.ErrFenced) {
		t.Errorf("Step of a fenced owner: %v", err)
	}
	if len(b.Incidents) != 0 {
		t.Error("a fenced owner wrote")
	}
}

func TestRunEndsWithContextAndWhenFenced(t *testing.T) {
	b := newBench(t, func(o *incident.Options) { o.Poll = time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.a.Run(ctx); err != nil {
		t.Errorf("Run with an ended context: %v", err)
	}
}

// failing is a ledger that cannot be written for a while.
type failing struct {
	*incidenttest.Memory
	mu     sync.Mutex
	broken error
}

func (f *failing) breaks(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

func (f *failing) Assemble(ctx context.Context, shard int32, epoch int64, do func(incident.Tx) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return f.broken
	}
	return f.Memory.Assemble(ctx, shard, epoch, do)
}

// TestStateIsTold: that findings are not assembled is told with the reason, and that
// they are again; an assembler that ends has nothing more to tell.
func TestStateIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &failing{Memory: incidenttest.New()}
		var mu sync.Mutex
		var state error
		told := func() error {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return state
		}
		a, err := incident.New(incident.Options{Ledger: ledger, State: func(_ string, err error) {
			mu.Lock()
			defer mu.Unlock()
			state = err
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		full := errors.New("no space left on device")
		for range 2 {
			if err := told(); err != nil {
				t.Errorf("told %v while all is well", err)
			}
			ledger.breaks(full)
			time.Sleep(time.Second) // of the bubble's time
			if err := told(); !errors.Is(err, full) {
				t.Errorf("told %v, want why it fails", err)
			}
			ledger.breaks(nil)
			time.Sleep(6 * time.Second)
		}
		ledger.breaks(full)
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := told(); err != nil {
			t.Errorf("told %v after its end", err)
		}
	})
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]incident.Options{
		"no ledger":       {},
		"negative window": {Ledger: incidenttest.New(), Join: -1},
		"negative count":  {Ledger: incidenttest.New(), Batch: -1},
		"no name":         {Ledger: incidenttest.New(), Receivers: []incident.Receiver{{}}},
		"name twice":      {Ledger: incidenttest.New(), Receivers: []incident.Receiver{{Name: "a"}, {Name: "a"}}},
	} {
		if _, err := incident.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
