package alerting_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := pgtest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop Postgres:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func TestRetriesThenDelivers(t *testing.T) {
	h := newHouse(t, "pager")
	p, n := newPager(t, 500, 429, 0, 503)
	d := deliver(t, h, n, nil)
	id := h.find("flood", 0, "198.51.100.7")
	for i, want := range []time.Duration{time.Second, 30 * time.Second, 4 * time.Second, 8 * time.Second, -1} {
		got := d.work()
		if len(got) != 1 || got[0] != want {
			t.Fatalf("attempt %d: again in %v, want %v", i+1, got, want)
		}
		in := h.intent(id, "pager")
		if want >= 0 && (in.LastError == "" || in.Delivered != 0 || in.Job == nil) {
			t.Errorf("attempt %d: %+v", i+1, in)
		}
		h.now = h.now.Add(max(got[0], 0))
	}
	if got := p.actions(); got != "trigger! trigger! trigger! trigger! trigger" {
		t.Error(got)
	}
	if in := h.intent(id, "pager"); in.Delivered != 1 || in.Job != nil || in.LastError != "" || in.LastEvent != "trigger" {
		t.Errorf("%+v", in)
	}
	if got := p.events[4]; got.DedupKey != id.String() || len(got.Payload.Details.Rules) != 1 || got.Payload.Details.Rules[0].Author != "Jane Doe" ||
		!strings.HasPrefix(got.Payload.Details.Explanation, "1 event from 198.51.100.7") {
		t.Errorf("%+v", got)
	}
	if got := d.work(); len(got) != 0 {
		t.Errorf("more work: %v", got)
	}
	if err := testutil.GatherAndCompare(d.reg, strings.NewReader(`
# HELP vedette_notifications_delivered_total Notifications that their receiver accepted.
# TYPE vedette_notifications_delivered_total counter
vedette_notifications_delivered_total{receiver="pager"} 1
# HELP vedette_notifications_given_up_total Notifications given up: refused for good, or failing for too long.
# TYPE vedette_notifications_given_up_total counter
vedette_notifications_given_up_total{receiver="pager"} 0
`), "vedette_notifications_delivered_total", "vedette_notifications_given_up_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(d.reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

func TestThrottledReceiverIsLeftAlone(t *testing.T) {
	h := newHouse(t, "pager")
	p, n := newPager(t, 429)
	d := deliver(t, h, n, nil)
	h.find("flood", 0, "198.51.100.7")
	h.find("flood", 0, "203.0.113.9")
	for i, again := range d.work() {
		if again != 30*time.Second {
			t.Errorf("job %d: again in %v", i, again)
		}
	}
	if got := p.actions(); got != "trigger!" {
		t.Errorf("while it is to be left alone: %s", got)
	}
	h.now = h.now.Add(30 * time.Second)
	d.work()
	if got := p.actions(); got != "trigger! trigger trigger" {
		t.Error(got)
	}
}

func TestRefusedForGood(t *testing.T) {
	h := newHouse(t, "pager")
	p, n := newPager(t, 400)
	d := deliver(t, h, n, nil)
	id := h.find("flood", 0, "198.51.100.7")
	if got := d.work(); len(got) != 1 || got[0] >= 0 {
		t.Fatalf("again in %v", got)
	}
	if in := h.intent(id, "pager"); !in.GivenUp || in.Job != nil || !strings.HasPrefix(in.LastError, "refused: status 400") {
		t.Errorf("%+v", in)
	}
	if got := d.work(); len(got) != 0 {
		t.Fatalf("tried again though nothing changed: %v", got)
	}
	h.find("who", 1, "arn:aws:iam::111122223333:user/ann") // another incident
	h.find("both", 2, "198.51.100.7", "arn:aws:iam::111122223333:user/ann")
	d.work()
	if in := h.intent(id, "pager"); in.GivenUp || in.Delivered != in.Wanted || in.LastError != "" {
		t.Errorf("after the incident changed: %+v", in)
	}
	if p.state[id.String()] != "trigger" {
		t.Errorf("accepted: %v", p.state)
	}
}

func TestGivesUpInTheEnd(t *testing.T) {
	h := newHouse(t, "pager")
	_, n := newPager(t, 500, 500, 500)
	d := deliver(t, h, n, func(o *alerting.Options) { o.GiveUp = time.Hour })
	id := h.find("flood", 0, "198.51.100.7")
	d.work()
	h.now = h.now.Add(59 * time.Minute)
	if got := d.work(); got[0] < 0 {
		t.Error("gave up too early")
	}
	h.now = h.now.Add(time.Minute)
	if got := d.work(); got[0] >= 0 || !h.intent(id, "pager").GivenUp {
		t.Error("did not give up")
	}
}

// forgetful loses what it is told of deliveries, as if the process had been
// killed right after them.
type forgetful struct {
	alerting.Store
	lose int
}

func (f *forgetful) Delivered(ctx context.Context, d alerting.Delivery, job int64, done alerting.Done) error {
	if f.lose > 0 {
		f.lose--
		return errors.New("killed")
	}
	return f.Store.Delivered(ctx, d, job, done)
}

func TestKilledBetweenDeliveryAndRecord(t *testing.T) {
	h := newHouse(t, "pager")
	p, n := newPager(t)
	store := &forgetful{Store: h.db.Intents(), lose: 1}
	d := deliver(t, h, n, func(o *alerting.Options) { o.Store = store })
	id := h.find("flood", 0, "198.51.100.7")
	if _, err := d.a.Dispatch(t.Context()); err != nil {
		t.Fatal(err)
	}
	j := d.q.jobs[0]
	if _, err := d.a.Work(t.Context(), j.id, j.d); err == nil {
		t.Fatal("no error")
	}
	if again, err := d.a.Work(t.Context(), j.id, j.d); err != nil || again >= 0 {
		t.Fatal(again, err)
	}
	if again, err := d.a.Work(t.Context(), j.id, j.d); err != nil || again >= 0 {
		t.Fatal(again, err)
	}
	if got := p.actions(); got != "trigger trigger" {
		t.Error(got)
	}
	if len(p.state) != 1 || p.state[id.String()] != "trigger" {
		t.Errorf("accepted: %v", p.state)
	}

	// Killed after a trigger of which nothing was recorded, then resolved: it is
	// taken back.
	other := h.find("flood", 0, "203.0.113.9")
	store.lose = 1
	d.q.jobs = nil
	if _, err := d.a.Dispatch(t.Context()); err != nil {
		t.Fatal(err)
	}
	j = d.q.jobs[0]
	if _, err := d.a.Work(t.Context(), j.id, j.d); err == nil {
		t.Fatal("no error")
	}
	h.resolve(other)
	d.work()
	if p.state[other.String()] != "resolve" {
		t.Errorf("accepted: %v", p.state)
	}
}

func TestOldTriggerNeverOvertakesResolve(t *testing.T) {
	h := newHouse(t, "pager")
	p, n := newPager(t, 500)
	d := deliver(t, h, n, nil)
	id := h.find("flood", 0, "198.51.100.7")
	d.work() // fails
	h.resolve(id)
	d.work()
	d.work()
	if got := p.actions(); got != "trigger! resolve" {
		t.Error(got)
	}
	if in := h.intent(id, "pager"); in.Delivered != 2 || in.LastEvent != "resolve" || in.Job != nil || in.Queued != in.Wanted {
		t.Errorf("%+v", in)
	}
	// What was resolved before anybody was told is not told at all.
	quiet := h.find("flood", 0, "203.0.113.9")
	h.resolve(quiet)
	d.work()
	if got := p.actions(); got != "trigger! resolve" {
		t.Error(got)
	}
	if in := h.intent(quiet, "pager"); in.Delivered != in.Wanted || in.LastEvent != "" {
		t.Errorf("%+v", in)
	}
}

func TestChangeWhileDelivering(t *testing.T) {
	h := newHouse(t, "pager")
	p, n := newPager(t)
	d := deliver(t, h, hook{n, func(notification alerting.Notification) {
		if notification.Event == alerting.EventTrigger { // resolved while the trigger is on its way
			h.resolve(notification.Incident.ID)
		}
	}}, nil)
	id := h.find("flood", 0, "198.51.100.7")
	d.work()
	if in := h.intent(id, "pager"); in.Delivered != 1 || in.Wanted != 2 || in.Job != nil {
		t.Errorf("%+v", in)
	}
	d.work()
	if got := p.actions(); got != "trigger resolve" {
		t.Error(got)
	}
}

// hook calls f before it notifies.
type hook struct {
	alerting.Notifier
	f func(alerting.Notification)
}

func (h hook) Notify(ctx context.Context, n alerting.Notification) (time.Duration, error) {
	h.f(n)
	return h.Notifier.Notify(ctx, n)
}

func TestFindingsAreToldTogetherAndMergesResolved(t *testing.T) {
	h := newHouse(t, "pager")
	p, n := newPager(t)
	d := deliver(t, h, n, nil)
	late := h.find("flood", 5, "198.51.100.7")
	early := h.find("who", 0, "arn:aws:iam::111122223333:user/ann")
	d.work()
	h.now = h.now.Add(time.Minute)
	h.find("both", 6, "198.51.100.7", "arn:aws:iam::111122223333:user/ann") // joins them
	agains := d.work()
	if p.state[late.String()] != "resolve" || p.state[early.String()] != "trigger" {
		t.Errorf("accepted: %v", p.state)
	}
	last := p.events[len(p.events)-1]
	if last.DedupKey != late.String() || last.Payload.Details.MergedInto != early.String() {
		t.Errorf("the merged one's: %+v", last)
	}
	waits := 0
	for _, again := range agains {
		if again == 4*time.Minute {
			waits++
		}
	}
	if waits != 1 {
		t.Errorf("the other is told again in %v", agains)
	}
	h.now = h.now.Add(4 * time.Minute)
	h.find("flood", 7, "198.51.100.7")
	d.work()
	if got := p.actions(); got != "trigger trigger resolve trigger" {
		t.Error(got)
	}
	if in := h.intent(early, "pager"); in.Delivered != in.Wanted || in.Wanted < 3 {
		t.Errorf("%+v", in)
	}
}

func TestJobThatStandsForNothing(t *testing.T) {
	h := newHouse(t, "pager", "gone")
	p, n := newPager(t)
	d := deliver(t, h, n, nil)
	id := h.find("flood", 0, "198.51.100.7")
	d.work()
	for name, del := range map[string]alerting.Delivery{
		"worked before":    {Tenant: tenant, Incident: id, Receiver: "pager"},
		"no such intent":   {Tenant: tenant, Incident: incident.ID{1}, Receiver: "pager"},
		"no such receiver": {Tenant: tenant, Incident: id, Receiver: "gone"},
		"another tenant's": {Tenant: "other", Incident: id, Receiver: "pager"},
	} {
		if again, err := d.a.Work(t.Context(), 1, del); err != nil || again >= 0 {
			t.Errorf("%s: %v, %v", name, again, err)
		}
	}
	if got := p.actions(); got != "trigger" {
		t.Error(got)
	}
	if in := h.intent(id, "gone"); in.Job != nil || in.Queued != 0 {
		t.Errorf("the intent of a receiver that is not configured: %+v", in)
	}
}

func TestOptions(t *testing.T) {
	_, n := newPager(t)
	var store alerting.Store = storage.Intents{}
	for name, o := range map[string]alerting.Options{
		"no store":    {Queue: &hand{}},
		"no queue":    {Store: store},
		"negative":    {Store: store, Queue: &hand{}, Update: -1},
		"no name":     {Store: store, Queue: &hand{}, Receivers: []alerting.Receiver{{Notifier: n}}},
		"name twice":  {Store: store, Queue: &hand{}, Receivers: []alerting.Receiver{{Name: "a", Notifier: n}, {Name: "a", Notifier: n}}},
		"no notifier": {Store: store, Queue: &hand{}, Receivers: []alerting.Receiver{{Name: "a"}}},
	} {
		if _, err := alerting.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
