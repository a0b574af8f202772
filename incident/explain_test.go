package incident_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

func TestExplain(t *testing.T) {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC).UnixNano()
	const sec = int64(time.Second)
	for _, c := range []struct {
		name   string
		rule   incident.Rule
		values []string
		f      detect.Finding
		want   string
	}{
		{
			"event count",
			incident.Rule{GroupBy: []string{"src_endpoint.ip"}},
			[]string{"198.51.100.77"},
			detect.Finding{Count: 83, Last: at + 300*sec, Detail: `{"count":83,"threshold":60,"window":"5m0s"}`},
			"83 events in 5m from 198.51.100.77 (threshold 60), from 2026-03-02 10:00:00 to 10:05:00 UTC.",
		},
		{
			"more than the peak, with a summary",
			incident.Rule{GroupBy: []string{"userIdentity.arn"}, Summary: "at least 20 events within 10m."},
			[]string{"arn:aws:iam::111122223333:user/ann"},
			detect.Finding{Count: 12345, Last: at + 50*3600*sec, Detail: `{"count":83,"op":"gt","threshold":60,"window":"1h0m0s","estimated":true}`},
			"83 events in 1h by arn:aws:iam::111122223333:user/ann (threshold: more than 60); 12,345 events in all; " +
				"too many to count exactly, the number is an estimate, from 2026-03-02 10:00:00 to 2026-03-04 12:00:00 UTC. " +
				"The rule fires on at least 20 events within 10m.",
		},
		{
			"sum",
			incident.Rule{GroupBy: []string{"src_endpoint.ip"}},
			[]string{"198.51.100.77"},
			detect.Finding{Count: 83, Last: at + 300*sec, Detail: `{"sum":1234567,"field":"bytes","op":"gt","threshold":1000000,"window":"5m0s"}`},
			"Bytes adds up to 1,234,567 in 5m from 198.51.100.77 (threshold: more than 1,000,000), from 2026-03-02 10:00:00 to 10:05:00 UTC.",
		},
		{
			"percentile",
			incident.Rule{GroupBy: []string{"src_endpoint.ip"}},
			[]string{"198.51.100.77"},
			detect.Finding{Count: 83, Last: at + 300*sec, Detail: `{"at_percentile":3200,"percentile":95,"field":"duration","op":"gte","threshold":3000,"window":"5m0s"}`},
			"95 % of events have a duration of 3,200 or less in 5m from 198.51.100.77 (threshold 3,000), from 2026-03-02 10:00:00 to 10:05:00 UTC.",
		},
		{
			"some came late",
			incident.Rule{GroupBy: []string{"src_endpoint.ip"}},
			[]string{"198.51.100.77"},
			detect.Finding{Count: 83, Late: 4, Last: at + 300*sec, Detail: `{"count":83,"threshold":60,"window":"5m0s"}`},
			"83 events in 5m from 198.51.100.77 (threshold 60); 4 of the events came late and may count apart from others of their time, from 2026-03-02 10:00:00 to 10:05:00 UTC.",
		},
		{
			"single event",
			incident.Rule{GroupBy: []string{"sourceIPAddress", "awsRegion"}},
			[]string{"198.51.100.77", "eu-west-1"},
			detect.Finding{Count: 1, Last: at, Detail: `{"count":1,"threshold":1,"window":"1s"}`},
			"1 event from 198.51.100.77, cloud.region eu-west-1, at 2026-03-02 10:00:00 UTC.",
		},
		{
			"distinct values",
			incident.Rule{GroupBy: []string{"gateway.route"}},
			[]string{"POST /login"},
			detect.Finding{Count: 40, Last: at, Detail: `{"distinct":31,"field":"src_endpoint.ip","threshold":25,"window":"10m0s"}`},
			"31 different values of src_endpoint.ip in 10m on route POST /login (threshold 25); 40 events in all, at 2026-03-02 10:00:00 UTC.",
		},
		{
			"baseline of a percentile",
			incident.Rule{GroupBy: []string{"cloud.account.uid", "function.name"}},
			[]string{"111122223333", "orders-api"},
			detect.Finding{Count: 240, Last: at, Detail: `{"measure":"p95","field":"duration","value":4120,"median":88,"mad":3,"buckets":288,"volume":240,"bucket":"2026-03-02T10:00:00Z","size":"15m0s"}`},
			"P95 of duration on function orders-api: 4,120 ms, 47 times the learned median of 88 ms (over 240 events in 15m; learned from 288 such periods), at 2026-03-02 10:00:00 UTC.",
		},
		{
			"baseline of a ratio",
			incident.Rule{GroupBy: []string{"function.name"}},
			[]string{"orders-api"},
			detect.Finding{Count: 240, Last: at, Detail: `{"measure":"ratio","value":0.125,"median":0,"volume":240,"size":"15m0s"}`},
			"Ratio on function orders-api: 12.5 % against a learned median of 0 % (over 240 events in 15m), at 2026-03-02 10:00:00 UTC.",
		},
		{
			"new value",
			incident.Rule{GroupBy: []string{"actor.user.uid"}},
			[]string{"customer-7"},
			detect.Finding{Count: 1, Last: at, Detail: `{"value":"KP","field":"src_endpoint.location.country","known":["DE","FR"],"known_more":3,"learned_days":12.5,"settled":true}`},
			`"KP" is new as src_endpoint.location.country by customer-7; known before: DE, FR and 3 more, learned over 12.5 days, at 2026-03-02 10:00:00 UTC.`,
		},
		{
			"bypass",
			incident.Rule{GroupBy: []string{"function.name"}},
			[]string{"orders-api"},
			detect.Finding{Count: 3, Last: at, Verdict: "bypass", Detail: `{"partners":0,"before":"1m0s","after":"15m0s","verdict":"bypass"}`},
			"3 events on function orders-api without the record that should go with each of them, from 1m before to 15m after it, at 2026-03-02 10:00:00 UTC.",
		},
		{
			"cannot tell",
			incident.Rule{GroupBy: []string{"function.name"}},
			nil,
			detect.Finding{Count: 1200, Last: at, Verdict: "unknown", Detail: `{"partners":0,"before":"1m0s","after":"15m0s","verdict":"unknown","reason":"stale"}`},
			"1,200 events could not be judged: the log that would show their counterpart has nothing as new, at 2026-03-02 10:00:00 UTC.",
		},
		{
			"not in the inventory",
			incident.Rule{GroupBy: []string{"function.name"}},
			nil,
			detect.Finding{Count: 1200, Last: at, Verdict: "unknown", Detail: `{"partners":0,"before":"1m0s","after":"15m0s","verdict":"unknown","reason":"no inventory","examples":["catalog","orders-api"]}`},
			"1,200 events could not be judged: the function inventory does not say how the functions may be called, such as catalog, orders-api, at 2026-03-02 10:00:00 UTC.",
		},
		{
			"detail that nobody can read",
			incident.Rule{},
			nil,
			detect.Finding{Count: 2, Last: at, Detail: `{`},
			"2 events, at 2026-03-02 10:00:00 UTC.",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.First, c.f.Key = at, key(c.values...)
			if got := incident.Explain(c.f, c.rule); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// FuzzExplain wants no detail and no key to upset it.
func FuzzExplain(f *testing.F) {
	f.Add(`{"measure":"p95","value":1e308,"median":1e-308,"size":"x"}`, []byte{1, 'a'}, int64(1))
	f.Add(`{"value":{},"field":"a"}`, []byte{200}, int64(-1))
	f.Add(`{"count":null,"distinct":-1,"window":""}`, []byte(nil), int64(1)<<62)
	f.Fuzz(func(t *testing.T, detail string, key []byte, count int64) {
		s := incident.Explain(detect.Finding{Detail: detail, Key: key, Count: count}, incident.Rule{GroupBy: []string{"src_endpoint.ip", "x"}})
		if s == "" || s[len(s)-1] != '.' {
			t.Errorf("Explain(%q) = %q", detail, s)
		}
		if json.Valid([]byte(s)) {
			t.Errorf("Explain(%q) is not a sentence: %q", detail, s)
		}
	})
}
