package spinetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// deliveries gives for each place in the log the first place of the same bytes, any
// of which evidence may point at.
type deliveries map[place]place

type place struct {
	partition int32
	offset    int64
}

// simHistory is a log in memory: two spells of traffic with quiet hours between
// them, so that what is kept ages out and windows are rebuilt from marks, and ticks
// behind them by which everything settles.
type simHistory struct {
	logs [][]stream.Record // by source
	cuts [][]int64         // how far the sources are behind each tick on all of them
	main []int64           // where the last ticks begin
	same deliveries
}

var simStart = time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)

// newSimHistory draws a log. All that is to be found twice alike happens within the
// time that its type takes to settle: what comes later counts with whatever arrived
// near it, and two runs need not agree on that.
func newSimHistory(t testing.TB, seed uint64) *simHistory {
	l := &simLog{rnd: rand.New(rand.NewPCG(seed, 21)), now: simStart}
	h := &simHistory{logs: make([][]stream.Record, simSources), same: make(deliveries)}
	put := func(source int, m stream.LogMessage) {
		r, err := stream.EncodeLog(&m)
		if err != nil {
			t.Fatal(err)
		}
		r.Time, r.Offset = l.now, int64(len(h.logs[source]))
		h.logs[source] = append(h.logs[source], r)
	}
	all := func(m stream.LogMessage) {
		for s := range simSources {
			put(s, m)
		}
	}
	tick := func(d time.Duration) {
		l.now = l.now.Add(d)
		all(stream.LogMessage{Kind: stream.KindTick})
		all(stream.LogMessage{Kind: stream.KindProgress, Origin: "files", Type: string(event.TypeLambda), Through: l.now.Add(-3 * time.Minute)})
		var cut []int64
		for _, log := range h.logs {
			cut = append(cut, int64(len(log)))
		}
		h.cuts = append(h.cuts, cut)
	}
	for spell := range 2 {
		for minute := range 150 {
			l.now = l.now.Add(time.Minute)
			for _, m := range l.minute(spell, minute) {
				put(l.rnd.IntN(simSources), m)
				l.now = l.now.Add(time.Millisecond)
			}
			if minute%6 == 0 {
				tick(0)
			}
			// Rules and enrichment change at other offsets of each source.
			if change := map[int]string{60: "generation-1", 85: "generation-0"}[minute]; change != "" && spell == int(seed%2) {
				l.sent = nil // to other rules, what is delivered again would be news
				all(stream.LogMessage{Kind: stream.KindGeneration, Generation: change})
			}
		}
		l.sent = nil
		if spell == 0 {
			for range 60 {
				tick(9 * time.Minute)
			}
		}
	}
	for s := range simSources {
		h.main = append(h.main, int64(len(h.logs[s])))
	}
	for _, d := range []time.Duration{5 * time.Minute, 20 * time.Minute, time.Hour, time.Hour, 3 * time.Hour, 6 * time.Hour} {
		tick(d)
	}
	first := make(map[string]place)
	for s, log := range h.logs {
		for _, r := range log {
			at := place{int32(s), r.Offset}
			if _, ok := first[string(r.Value)]; !ok {
				first[string(r.Value)] = at
			}
			h.same[at] = first[string(r.Value)]
		}
	}
	return h
}

// simLog makes the records, few of them, for every rule of ruleText.
type simLog struct {
	rnd  *rand.Rand
	now  time.Time
	sent []stream.LogMessage
	n    int
}

func (l *simLog) minute(spell, minute int) []stream.LogMessage {
	var out []stream.LogMessage
	back := func() time.Time { return l.now.Add(-time.Duration(l.rnd.IntN(160_000)) * time.Millisecond) }
	gateway := func(at time.Time, ip, route, id string, user, status int) {
		l.n++
		out = append(out, message(event.TypeAPIGateway, fmt.Sprintf(
			`{"requestId":"9c1f2f4e-7f0e-4f2f-bb4e-%012x","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod","requestTimeEpoch":"%d","httpMethod":"GET","path":"/prod%s","resourcePath":"%s","protocol":"HTTP/1.1","sourceIp":"%s","principalId":"user-%d","status":"%d","integrationRequestId":"%s"}`,
			l.n, at.UnixMilli(), route, route, ip, user, status, cmp.Or(id, "-"))))
	}
	line := func(fn string, at time.Time, text string) {
		l.n++
		out = append(out, message(event.TypeLambda, fmt.Sprintf(
			`{"owner":"111122223333","logGroup":"/aws/lambda/%s","logStream":"2026/03/02/[$LATEST]0123456789abcdef","id":"39%d","timestamp":%d,"message":%q}`,
			fn, l.n, at.UnixMilli(), text)))
	}
	if minute%2 == 0 { // somebody is served
		at, id := back(), fmt.Sprintf("8b0f2f4e-7f0e-4f2f-bb4e-%012x", l.n)
		ms, failed := 100+20*l.rnd.Float64(), ""
		if minute/10%5 == 4 && minute > 90 {
			ms, failed = 9*ms, "\tStatus: error\tError Type: Runtime.ExitError"
		}
		ip := fmt.Sprintf("192.0.2.%d", l.rnd.IntN(4))
		if minute > 70 && l.rnd.IntN(12) == 0 {
			ip = fmt.Sprintf("192.0.2.%d", 100+l.rnd.IntN(100)) // from elsewhere
		}
		if l.rnd.IntN(8) > 0 { // else nobody asked for it
			gateway(at, ip, "/orders", id, l.rnd.IntN(2), 200)
		}
		if l.rnd.IntN(4) == 0 {
			line("fn", at, "START RequestId: "+id+" Version: $LATEST\n")
		}
		line("fn", at.Add(time.Duration(ms)*time.Millisecond), fmt.Sprintf(
			"REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: 128 MB\tMax Memory Used: 71 MB%s\t\n", id, ms, int(ms)+1, failed))
	}
	switch {
	case minute%40 < 4: // refused again and again
		for range 3 {
			gateway(back(), fmt.Sprintf("192.0.2.%d", 20+2*spell+minute/40), "/orders", "", 3, 403)
		}
	case minute%50 == 30: // looks around
		for range 2 + l.rnd.IntN(6) {
			gateway(back(), "192.0.2.11", fmt.Sprintf("/r%d", l.rnd.IntN(9)), "", 3, 200)
		}
	case minute%25 == 12: // seen once
		gateway(back(), fmt.Sprintf("198.51.100.%d", l.rnd.IntN(90)), "/orders", "", 3, 200)
	case minute%60 == 20:
		out = append(out, message(event.TypeCloudTrail, fmt.Sprintf(
			`{"eventVersion":"1.08","eventID":"%d-%d","eventTime":%q,"eventSource":"cloudtrail.amazonaws.com","eventName":"StopLogging","awsRegion":"eu-west-1","sourceIPAddress":"192.0.2.%d","userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/u%d"},"recipientAccountId":"111122223333"}`,
			spell, minute, l.now.Add(-2*time.Minute).UTC().Format(time.RFC3339), l.rnd.IntN(3), l.rnd.IntN(3))))
	case minute%70 == 35:
		out = append(out, stream.LogMessage{Value: fmt.Appendf(nil, `{"broken":%d-%d`, spell, minute)})
	}
	l.sent = append(l.sent, out...)
	l.sent = l.sent[max(0, len(l.sent)-12):]
	if len(l.sent) > 0 && l.rnd.IntN(4) == 0 {
		out = append(out, l.sent[l.rnd.IntN(len(l.sent))])
	}
	return out
}

// simEffects orders and joins what the promise covers.
func simLines(all map[string][]string) string {
	var b strings.Builder
	for _, what := range []string{"finding", "profile", "incident", "letter"} {
		lines := slices.Clone(all[what])
		slices.Sort(lines)
		for _, l := range lines {
			fmt.Fprintf(&b, "%s %s\n", what, l)
		}
	}
	return b.String()
}
