package simulate_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest"
	"github.com/vedette-sec/vedette/simulate"
)

var start = time.Date(2026, 11, 23, 20, 30, 0, 0, time.UTC)

func simulated(t testing.TB, o simulate.Options) (string, simulate.Result) {
	t.Helper()
	if o.Out == "" {
		o.Out = t.TempDir()
	}
	if o.Start.IsZero() {
		o.Start = start
	}
	res, err := simulate.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return o.Out, res
}

// eachFile calls f for the log files of a simulation.
func eachFile(t testing.TB, dir string, f func(path string, r io.Reader)) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "logs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		f(path, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// eachEvent decodes every record of a simulation.
func eachEvent(t testing.TB, dir string, f func(path string, ev *event.Event)) int {
	t.Helper()
	n := 0
	dec := event.NewDecoder()
	var ev event.Event
	eachFile(t, dir, func(path string, r io.Reader) {
		s := ingest.NewSplitter(r, ingest.SplitOptions{})
		for {
			rec, err := s.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil || rec.Err != nil {
				t.Fatalf("%s: record %d: %v, %v", path, rec.Line, err, rec.Err)
			}
			if err := dec.Decode(&ev, event.Record{Data: rec.Data}); err != nil {
				t.Fatalf("%s: record %d: %v: %s", path, rec.Line, err, rec.Data)
			}
			n++
			f(path, &ev)
		}
	})
	return n
}

func digest(t testing.TB, dir string) string {
	t.Helper()
	h := sha256.New()
	eachFile(t, dir, func(path string, r io.Reader) {
		rel, _ := filepath.Rel(dir, path)
		io.WriteString(h, rel)
		io.Copy(h, r)
	})
	b, err := os.ReadFile(filepath.Join(dir, "labels.json"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

func TestTheSeedDecides(t *testing.T) {
	o := simulate.Options{Seed: 5, Duration: 2 * time.Hour}
	a, _ := simulated(t, o)
	b, _ := simulated(t, o)
	o.Seed = 6
	c, _ := simulated(t, o)
	if digest(t, a) != digest(t, b) {
		t.Error("one seed wrote two worlds")
	}
	if digest(t, a) == digest(t, c) {
		t.Error("two seeds wrote one world")
	}
}

// TestLogsAgree follows the request ids through the three logs: every
// integration and authorizer request of the gateway is an invocation that
// started and ended and that CloudTrail knows, and the only invocations of
// gateway functions that nobody expected are the episode's.
func TestLogsAgree(t *testing.T) {
	hours := time.Duration(30)
	if testing.Short() {
		hours = 10
	}
	dir, res := simulated(t, simulate.Options{Seed: 3, Duration: hours * time.Hour})
	e, err := enrich.New(enrich.Options{Inventory: simulate.Inventory()})
	if err != nil {
		t.Fatal(err)
	}
	type seen struct{ gateway, start, report, trail, expected bool }
	reqs := map[string]*seen{}
	req := func(id []byte) *seen {
		s := reqs[string(id)]
		if s == nil {
			s = new(seen)
			reqs[string(id)] = s
		}
		return s
	}
	fn := map[string]string{}
	uids := map[string]bool{}
	end := start.Add(hours * time.Hour)
	outcomes := map[event.Outcome]int{}
	cold, text, jsonLog := 0, 0, 0
	name := regexp.MustCompile(`^cloudtrail/AWSLogs/111122223333/CloudTrail/eu-west-1/\d{4}/\d\d/\d\d/111122223333_CloudTrail_eu-west-1_\d{8}T\d{4}Z_[A-Za-z0-9]{16}\.json\.gz$|^(apigateway|lambda)/[a-z-]+/\d{4}-\d\d-\d\d\.json\.gz$`)
	n := eachEvent(t, dir, func(path string, ev *event.Event) {
		rel, _ := filepath.Rel(filepath.Join(dir, "logs"), path)
		if !name.MatchString(rel) {
			t.Fatalf("file name %s", rel)
		}
		if at := time.Unix(0, ev.Time); at.Before(start.Add(-time.Second)) || !at.Before(end) {
			t.Fatalf("%s: event of %v", rel, at)
		}
		if uid := string(ev.Attr(event.AttrUID)); uids[uid] {
			t.Fatalf("%s: id %s is there twice", rel, uid)
		} else {
			uids[uid] = true
		}
		if ip := ev.Attr(event.AttrSrcIP); ip != nil {
			checkAddress(t, string(ip))
		}
		switch ev.Type {
		case event.TypeAPIGateway:
			outcomes[ev.Outcome]++
			for _, a := range []event.Attr{event.AttrGatewayIntegration, event.AttrGatewayAuthorizer} {
				if id := ev.Attr(a); id != nil {
					req(id).gateway = true
				}
			}
			if ev.Duration <= 0 || ev.Attr(event.AttrGatewayRoute) == nil || ev.Attr(event.AttrHTTPUserAgent) == nil {
				t.Fatalf("incomplete access line: %s", ev.Raw)
			}
		case event.TypeLambda:
			s := req(ev.Attr(event.AttrFunctionRequest))
			switch string(ev.Attr(event.AttrFunctionPhase)) {
			case "start":
				s.start = true
				fn[string(ev.Attr(event.AttrFunctionRequest))] = string(ev.Attr(event.AttrFunctionName))
			case "report":
				s.report = true
				if string(ev.Attr(event.AttrFunctionColdStart)) == "true" {
					cold++
				}
				if ev.Doc != nil {
					jsonLog++
				} else {
					text++
				}
			}
		case event.TypeCloudTrail:
			e.Enrich(ev)
			if ev.Layer == event.LayerFunction {
				s := req(ev.Attr(event.AttrAPIRequestUID))
				s.trail = true
				s.expected = s.expected || string(ev.Attr(event.AttrFunctionCaller)) == "expected"
			}
		}
	})
	if n != res.Records {
		t.Errorf("%d records, %d said", n, res.Records)
	}
	orphans := 0
	for id, s := range reqs {
		if s.gateway && !(s.start && s.report && s.trail && s.expected) {
			t.Fatalf("request %s of the gateway: %+v", id, *s)
		}
		if id != "" && s.start != s.report {
			t.Fatalf("request %s: %+v", id, *s)
		}
		if f := fn[id]; f != "" && f != "nightly-report" && f != "order-worker" && !s.gateway && !s.expected {
			orphans++
			if f != "payments" {
				t.Errorf("orphan of %s", f)
			}
		}
	}
	if orphans == 0 || orphans > 40 {
		t.Errorf("%d orphans", orphans)
	}
	if cold == 0 || text == 0 || jsonLog == 0 {
		t.Errorf("%d cold starts, %d reports as text, %d as JSON", cold, text, jsonLog)
	}
	for _, o := range []event.Outcome{event.OutcomeSuccess, event.OutcomeUnauthenticated, event.OutcomeDenied, event.OutcomeClientError, event.OutcomeServerError, event.OutcomeTimeout} {
		if outcomes[o] == 0 {
			t.Errorf("no request with outcome %v", o)
		}
	}
	if rate := float64(n) / (float64(hours) * 3600); math.Abs(rate/simulate.DefaultRate-1) > 0.2 {
		t.Errorf("%.2f records a second, want about %v", rate, simulate.DefaultRate)
	}
}

func checkAddress(t testing.TB, ip string) {
	t.Helper()
	for _, p := range []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"} {
		if netip.MustParsePrefix(p).Contains(netip.MustParseAddr(ip)) {
			return
		}
	}
	t.Fatalf("address %s is not from a documentation range", ip)
}

// TestLabels holds the labels against the logs.
func TestLabels(t *testing.T) {
	for _, d := range []time.Duration{simulate.MinDuration, 2 * time.Hour, 12 * time.Hour} {
		t.Run(d.String(), func(t *testing.T) {
			if testing.Short() && d > 2*time.Hour {
				t.Skip("simulates half a day; left out with -short")
			}
			dir, res := simulated(t, simulate.Options{Seed: 9, Duration: d, Rate: 1})
			b, err := os.ReadFile(filepath.Join(dir, "labels.json"))
			if err != nil {
				t.Fatal(err)
			}
			var labels simulate.Labels
			if err := json.Unmarshal(b, &labels); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(res.Labels, labels); diff != "" {
				t.Errorf("labels (-returned +written):\n%s", diff)
			}
			at := map[string]time.Time{}
			eachEvent(t, dir, func(_ string, ev *event.Event) { at[string(ev.Attr(event.AttrUID))] = time.Unix(0, ev.Time) })
			var names []string
			for _, l := range labels.Episodes {
				names = append(names, l.Episode)
				for _, id := range []string{l.FirstEventID, l.LastEventID} {
					when, ok := at[id]
					if !ok || when.Before(l.Start.Add(-time.Second)) || when.After(l.End.Add(time.Minute)) {
						t.Errorf("%s: event %s at %v, there %v; from %v to %v", l.Episode, id, when, ok, l.Start, l.End)
					}
				}
				if l.Kind == "" || len(l.Entities) == 0 || l.Records < 5 || l.End.Before(l.Start) {
					t.Errorf("label %+v", l)
				}
				if d == 12*time.Hour && labels.End.Sub(l.End) < 50*time.Minute {
					t.Errorf("%s ends at %v, the simulation at %v", l.Episode, l.End, labels.End)
				}
			}
			for i, a := range labels.Episodes {
				for _, b := range labels.Episodes[:i] {
					gap := max(a.Start.Sub(b.End), b.Start.Sub(a.End))
					if d == 12*time.Hour && gap < time.Hour {
						t.Errorf("%s and %s lie %v apart", a.Episode, b.Episode, gap)
					}
				}
			}
			if len(names) != 4 {
				t.Errorf("episodes %v", names)
			}
		})
	}
}

func TestEpisodesAreChosen(t *testing.T) {
	_, none := simulated(t, simulate.Options{Seed: 1, Duration: time.Hour, Episodes: []string{"none"}})
	if len(none.Labels.Episodes) != 0 {
		t.Errorf("episodes %+v", none.Labels.Episodes)
	}
	_, two := simulated(t, simulate.Options{Seed: 1, Duration: time.Hour, Episodes: []string{simulate.NewCountry, simulate.GatewayBypass}})
	if len(two.Labels.Episodes) != 2 || two.Records <= none.Records {
		t.Errorf("episodes %+v, %d records, without them %d", two.Labels.Episodes, two.Records, none.Records)
	}
}

// TestBenignTrafficIsTheSame compares the requests with and without attacks.
func TestBenignTrafficIsTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates nine hours twice; left out with -short")
	}
	requests := func(episodes string) map[string]int {
		dir, _ := simulated(t, simulate.Options{Seed: 4, Duration: 9 * time.Hour, Episodes: []string{episodes}})
		n := map[string]int{}
		eachEvent(t, dir, func(_ string, ev *event.Event) {
			ip := string(ev.Attr(event.AttrSrcIP))
			if ev.Type == event.TypeAPIGateway && !strings.HasPrefix(ip, "203.") && !strings.HasPrefix(ip, "198.") {
				n[time.Unix(0, ev.Time).UTC().Format(time.RFC3339Nano)+" "+ip+" "+string(ev.Attr(event.AttrHTTPPath))]++
			}
		})
		return n
	}
	with, without := requests("all"), requests("none")
	if len(without) < 500 {
		t.Fatalf("only %d requests", len(without))
	}
	if d := cmp.Diff(without, with); d != "" {
		t.Errorf("requests (-without +with attacks):\n%s", d)
	}
}

func TestWriteMMDB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.mmdb")
	if err := simulate.WriteMMDB(path); err != nil {
		t.Fatal(err)
	}
	e, err := enrich.New(enrich.Options{Databases: []string{path}, Inventory: simulate.Inventory()})
	if err != nil {
		t.Fatal(err)
	}
	if blind := e.Blind(); len(blind) != 0 {
		t.Errorf("blind for %v", blind)
	}
	dir, _ := simulated(t, simulate.Options{Seed: 2, Duration: 6 * time.Hour})
	countries := map[string]int{}
	eachEvent(t, dir, func(_ string, ev *event.Event) {
		e.Enrich(ev)
		if ev.Attr(event.AttrSrcIP) == nil {
			return
		}
		c := string(ev.Attr(event.AttrSrcCountry))
		if c == "" || ev.Attr(event.AttrSrcASN) == nil || ev.Attr(event.AttrSrcASName) == nil || ev.Attr(event.AttrSrcNetwork) == nil {
			t.Fatalf("address %s is nowhere", ev.Attr(event.AttrSrcIP))
		}
		countries[c]++
	})
	if len(countries) < 6 {
		t.Errorf("countries %v", countries)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := simulate.Run(ctx, simulate.Options{Start: start, Duration: time.Hour, Out: t.TempDir()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// BenchmarkRun is what the demo waits for.
func BenchmarkRun(b *testing.B) {
	b.ReportAllocs()
	records := 0
	for b.Loop() {
		res, err := simulate.Run(b.Context(), simulate.Options{Start: start, Duration: 24 * time.Hour, Out: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		records += res.Records
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}

func TestRunRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.Mkdir(filepath.Join(full, "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	ok := simulate.Options{Start: start, Duration: time.Hour, Out: t.TempDir()}
	tests := []struct {
		want   string
		change func(*simulate.Options)
	}{
		{"start", func(o *simulate.Options) { o.Start = time.Time{} }},
		{"duration", func(o *simulate.Options) { o.Duration = time.Minute }},
		{"rate", func(o *simulate.Options) { o.Rate = -1 }},
		{"rate", func(o *simulate.Options) { o.Rate = math.NaN() }},
		{"out", func(o *simulate.Options) { o.Out = "" }},
		{"does not add to", func(o *simulate.Options) { o.Out = full }},
		{`episode "nonsense"`, func(o *simulate.Options) { o.Episodes = []string{"nonsense"} }},
		{"named twice", func(o *simulate.Options) { o.Episodes = []string{simulate.NewCountry, simulate.NewCountry} }},
	}
	for _, tt := range tests {
		o := ok
		tt.change(&o)
		if _, err := simulate.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want one with %q", err, tt.want)
		}
	}
}
