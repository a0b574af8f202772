// Package alertingtest holds the tests that every notifier has to pass, and
// notifications to try it on.
package alertingtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

// Kit describes the notifier under test.
type Kit struct {
	// New makes a notifier that posts to url with client.
	New func(t *testing.T, client *alerting.Client, url string) alerting.Notifier
	// Path is the path and query of the URL that New is given; put a secret in it if
	// the kind has it there.
	Path string
	// Secrets are values that must show in no error, the path's among them.
	Secrets []string
	// Check looks at a request that carries n. It may be nil.
	Check func(t *testing.T, r *http.Request, body []byte, n alerting.Notification)
}

// Test runs all of the kit.
func Test(t *testing.T, k Kit) {
	t.Run("codes", k.codes)
	t.Run("retry after", k.retryAfter)
	t.Run("events", k.events)
	t.Run("hostile text", k.hostile)
	t.Run("redirect", k.redirect)
	t.Run("hang", k.hang)
	t.Run("cancel", k.cancel)
	t.Run("refused connection", k.refused)
	t.Run("cut connection", k.cut)
	t.Run("endless answer", k.endless)
	t.Run("secrets", k.secrets)
	t.Run("concurrent use", k.concurrent)
}

// Notification is an ordinary one.
func Notification() alerting.Notification {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	id, err := incident.ParseID("7d444840-9dc0-81d1-b245-5ffdce74fad2")
	if err != nil {
		panic(err)
	}
	rule := incident.Rule{
		Version: "v1", ID: "c05648d9-dbba-59b1-bead-0b52521334ac", Title: "Many Refused API Requests From One Source Address",
		Level: detect.LevelHigh, Author: "Jane Doe, John Roe", License: "DRL-1.1",
		References: []string{"https://attack.mitre.org/techniques/T1110/"}, Tags: []string{"attack.t1110"},
	}
	return alerting.Notification{
		Event: alerting.EventTrigger, At: at.Add(time.Minute), URL: "https://vedette.example/incidents/" + id.String(),
		Explanation: "83 events in 5m from 198.51.100.77 (threshold 20).",
		Incident: incident.Incident{
			Tenant: "default", ID: id, Status: incident.StatusOpen, RuleID: rule.ID, RuleIDs: []string{rule.ID},
			Title: rule.Title + ": 198.51.100.77", Severity: detect.LevelHigh, Account: "111122223333", Tags: rule.Tags,
			Count: 83, First: at.Add(-5 * time.Minute).UnixNano(), Last: at.UnixNano(), Version: 1, OpenedAt: at, UpdatedAt: at,
		},
		Entities: []incident.Entity{{Type: incident.EntitySrcIP, Value: "198.51.100.77"}, {Type: incident.EntityAccount, Value: "111122223333"}},
		Rules:    []incident.Rule{rule},
	}
}

// Hostile is one whose every text comes from an attacker, and is long.
func Hostile() alerting.Notification {
	n := Notification()
	evil := "<!channel> <https://evil.example|click> & `x` *b* \"q\" \x01\u202e\n@here " + strings.Repeat("<&>é", 4000)
	n.Explanation = evil
	n.Incident.Title, n.Incident.Account, n.Incident.Assignee = evil, evil, evil
	n.Incident.Tags = []string{evil}
	n.Entities = nil
	for i := range 200 {
		n.Entities = append(n.Entities, incident.Entity{Type: fmt.Sprintf("type%d", i%7), Value: evil})
	}
	n.Rules = nil
	for i := range 40 {
		n.Rules = append(n.Rules, incident.Rule{
			Version: fmt.Sprint(i), ID: fmt.Sprint(i), Title: evil, Author: evil, License: evil,
			References: []string{"javascript:alert(1)", "https://ok.example/?a=1&b=<2>", evil},
		})
	}
	return n
}

func (k Kit) serve(t *testing.T, h http.HandlerFunc) (n alerting.Notifier, url string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return k.notifier(t, s.URL+k.Path, 10*time.Second), s.URL
}

func (k Kit) notifier(t *testing.T, url string, timeout time.Duration) alerting.Notifier {
	t.Helper()
	c := alerting.NewClient(alerting.ClientOptions{Timeout: timeout, Now: now})
	t.Cleanup(c.Close)
	return k.New(t, c, url)
}

// now is the client's time.
func now() time.Time { return time.Date(2026, 3, 2, 10, 1, 0, 0, time.UTC) }

// want says what becomes of a status.
func want(code int) (reason alerting.Reason, retry bool) {
	switch {
	case code < 300:
		return "", false
	case code < 400:
		return alerting.ReasonRedirect, false
	case code == http.StatusTooManyRequests:
		return alerting.ReasonThrottled, true
	case code < 500:
		return alerting.ReasonRefused, false
	}
	return alerting.ReasonServer, true
}

func (k Kit) codes(t *testing.T) {
	var code atomic.Int64
	n, _ := k.serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(int(code.Load())) })
	for c := 200; c < 600; c++ {
		code.Store(int64(c))
		_, err := n.Notify(t.Context(), Notification())
		reason, retry := want(c)
		if reason == "" {
			if err != nil {
				t.Errorf("status %d: %v", c, err)
			}
			continue
		}
		f, ok := errors.AsType[*alerting.Failure](err)
		if !ok {
			t.Errorf("status %d: %v, want a *Failure", c, err)
			continue
		}
		if f.Reason != reason || f.Retry != retry || f.Status != c {
			t.Errorf("status %d: reason %s, retry %v, status %d; want %s, %v", c, f.Reason, f.Retry, f.Status, reason, retry)
		}
	}
}

func (k Kit) retryAfter(t *testing.T) {
	for _, c := range []struct {
		code   int
		header string
		want   time.Duration
	}{
		{429, "7", 7 * time.Second},
		{503, "90", 90 * time.Second},
		{429, now().Add(2 * time.Minute).Format(http.TimeFormat), 2 * time.Minute},
		{429, now().Add(-time.Minute).Format(http.TimeFormat), 0},
		{429, "-5", 0},
		{429, "soon", 0},
		{429, "", 0},
		{429, "99999999", time.Hour},
		{400, "7", 0},
	} {
		n, _ := k.serve(t, func(w http.ResponseWriter, r *http.Request) {
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.WriteHeader(c.code)
		})
		got, err := n.Notify(t.Context(), Notification())
		if err == nil || got != c.want {
			t.Errorf("status %d, Retry-After %q: %v, %v; want %v and an error", c.code, c.header, got, err, c.want)
		}
	}
}

// check sends n and looks at what arrives.
func (k Kit) check(t *testing.T, n alerting.Notification) {
	t.Helper()
	var mu sync.Mutex
	var reqs []*http.Request
	var bodies [][]byte
	nt, _ := k.serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		reqs, bodies = append(reqs, r), append(bodies, b)
	})
	if _, err := nt.Notify(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(reqs) != 1 {
		t.Fatalf("%d requests, want 1", len(reqs))
	}
	r := reqs[0]
	if r.Method != http.MethodPost || r.URL.RequestURI() != k.path() || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		t.Errorf("%s %s, Content-Type %q", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"))
	}
	if k.Check != nil {
		k.Check(t, r, bodies[0], n)
	}
}

func (k Kit) path() string {
	if k.Path == "" {
		return "/"
	}
	return k.Path
}

func (k Kit) events(t *testing.T) {
	n := Notification()
	for _, c := range []struct {
		event  alerting.Event
		status incident.Status
	}{
		{alerting.EventTrigger, incident.StatusOpen},
		{alerting.EventAcknowledge, incident.StatusAcknowledged},
		{alerting.EventResolve, incident.StatusResolved},
		{alerting.EventResolve, incident.StatusMerged},
	} {
		n.Event, n.Incident.Status, n.Update = c.event, c.status, c.event != alerting.EventTrigger
		if c.status == incident.StatusMerged {
			n.Incident.MergedInto = incident.ID{1}
			n.MergedURL = "https://vedette.example/incidents/" + n.Incident.MergedInto.String()
		}
		k.check(t, n)
	}
	n = Notification()
	n.URL, n.Explanation, n.Entities, n.Rules = "", "", nil, nil
	n.Incident.Account, n.Incident.Tags = "", nil
	k.check(t, n)
}

func (k Kit) hostile(t *testing.T) { k.check(t, Hostile()) }

func (k Kit) redirect(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		n, _ := k.serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, code) })
		_, err := n.Notify(t.Context(), Notification())
		if f, ok := errors.AsType[*alerting.Failure](err); !ok || f.Retry || f.Reason != alerting.ReasonRedirect {
			t.Errorf("status %d: %v", code, err)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func (k Kit) hang(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(release)
	n := k.notifier(t, s.URL+k.Path, 50*time.Millisecond)
	_, err := n.Notify(t.Context(), Notification())
	if f, ok := errors.AsType[*alerting.Failure](err); !ok || !f.Retry || f.Reason != alerting.ReasonTimeout {
		t.Errorf("a receiver that hangs: %v", err)
	}
	k.clean(t, err)
}

func (k Kit) cancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n, _ := k.serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client has gone
		cancel()
		<-r.Context().Done()
	})
	_, err := n.Notify(ctx, Notification())
	if f, ok := errors.AsType[*alerting.Failure](err); !ok || !f.Retry || f.Reason != alerting.ReasonCanceled {
		t.Errorf("cancelled: %v", err)
	}
}

func (k Kit) refused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String() + k.Path
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = k.notifier(t, url, 5*time.Second).Notify(t.Context(), Notification())
	if f, ok := errors.AsType[*alerting.Failure](err); !ok || !f.Retry || f.Reason != alerting.ReasonUnreachable {
		t.Errorf("refused connection: %v", err)
	}
	k.clean(t, err)
}

func (k Kit) cut(t *testing.T) {
	n, _ := k.serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := n.Notify(t.Context(), Notification())
	if f, ok := errors.AsType[*alerting.Failure](err); !ok || !f.Retry {
		t.Errorf("cut connection: %v", err)
	}
	k.clean(t, err)
}

func (k Kit) endless(t *testing.T) {
	for _, code := range []int{200, 500} {
		n, _ := k.serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			junk := []byte(strings.Repeat("x", 32<<10))
			for r.Context().Err() == nil {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		})
		_, err := n.Notify(t.Context(), Notification())
		if (err != nil) != (code == 500) {
			t.Errorf("endless answer with status %d: %v", code, err)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}

// secrets has the receiver send everything back that it got.
func (k Kit) secrets(t *testing.T) {
	for _, code := range []int{400, 403, 429, 500} {
		n, base := k.serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			fmt.Fprintf(w, "%s http://%s%s %s %s\n", strings.Join(k.Secrets, " "), r.Host, r.URL.RequestURI(), r.URL.Path, r.URL.RawQuery)
			if b, err := io.ReadAll(r.Body); err == nil {
				_, _ = w.Write(b)
			}
		})
		_, err := n.Notify(t.Context(), Notification())
		if err == nil {
			t.Fatalf("status %d: no error", code)
		}
		k.clean(t, err)
		if k.Path != "" && strings.Contains(err.Error(), base+k.Path) {
			t.Errorf("the error names the URL: %v", err)
		}
	}
	printed := fmt.Sprintf("%v %+v", k.notifier(t, "http://127.0.0.1:1"+k.Path, time.Second), k.notifier(t, "http://127.0.0.1:1"+k.Path, time.Second))
	for _, s := range k.Secrets {
		if strings.Contains(printed, s) {
			t.Error("a printed notifier shows a secret")
		}
	}
}

// clean checks that an error holds no secret.
func (k Kit) clean(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, s := range k.Secrets {
			if strings.Contains(fmt.Sprintf("%v %+v", e, e), s) {
				t.Errorf("the error holds a secret: %v", e)
			}
		}
	}
}

func (k Kit) concurrent(t *testing.T) {
	var got atomic.Int64
	n, _ := k.serve(t, func(http.ResponseWriter, *http.Request) { got.Add(1) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := n.Notify(t.Context(), Notification()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got.Load() != 8 {
		t.Errorf("%d requests, want 8", got.Load())
	}
}
