package spinetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// ruleText holds a rule of each correlation type, with learning periods that a
// short load can fill. The rules "Slow" and "Failing" are left out of the second
// generation.
const ruleText = `
title: Request
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000001
name: request
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection: {sel: {layer: gateway}, condition: sel}
---
title: Denied
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000002
name: denied
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection: {sel: {outcome: denied}, condition: sel}
---
title: Report
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000003
name: report
status: test
level: informational
logsource: {product: vedette, service: aws.lambda}
detection: {sel: {function.phase: report}, condition: sel}
---
title: Failed
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000004
name: failed
status: test
level: informational
logsource: {product: vedette, service: aws.lambda}
detection: {sel: {function.phase: report, outcome: server_error}, condition: sel}
---
title: Start
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000005
name: start
status: test
level: informational
logsource: {product: vedette, service: aws.lambda}
detection: {sel: {function.phase: start}, condition: sel}
---
title: Trail stopped
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000006
status: test
level: high
author: Spine
logsource: {product: aws, service: cloudtrail}
detection: {sel: {eventName: StopLogging}, condition: sel}
---
title: Many
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000007
status: test
level: medium
correlation: {type: event_count, rules: [denied], group-by: [src_endpoint.ip], timespan: 5m, condition: {gte: 6}}
---
title: Few
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000008
status: test
level: low
correlation: {type: event_count, rules: [request], group-by: [src_endpoint.ip], timespan: 10m, condition: {lt: 2}}
---
title: Values
id: 8f3f1a52-3c0b-4c3e-9d0a-000000000009
status: test
level: medium
correlation: {type: value_count, rules: [request], group-by: [src_endpoint.ip], timespan: 10m, condition: {field: gateway.route, gte: 5}}
---
title: Denied then let in
id: 8f3f1a52-3c0b-4c3e-9d0a-00000000000a
status: test
level: medium
correlation: {type: temporal_ordered, rules: [denied, request], group-by: [src_endpoint.ip], timespan: 5m}
---
title: New country
id: 8f3f1a52-3c0b-4c3e-9d0a-00000000000b
status: test
level: high
correlation: {type: vedette.new_value, rules: [request], group-by: [actor.user.uid], condition: {field: src_endpoint.location.country}, vedette: {learning: 1h, forget: 10d}}
---
title: Orphan
id: 8f3f1a52-3c0b-4c3e-9d0a-00000000000c
status: test
level: high
correlation: {type: vedette.unmatched, rules: [start, request], group-by: [function.name], timespan: 5m, vedette: {before: 1m, hold: 1h, join: {start: [function.request_id], request: [gateway.integration_request_id]}}}
`

const ruleTextMore = `
---
title: Slow
id: 8f3f1a52-3c0b-4c3e-9d0a-00000000000d
status: test
level: medium
correlation: {type: vedette.baseline, rules: [report], group-by: [function.name], timespan: 10m, vedette: {measure: p95, field: duration, learning: 1h, min_volume: 3, min_buckets: 4, factor: 3, deviations: 4, floor: 100}}
---
title: Failing
id: 8f3f1a52-3c0b-4c3e-9d0a-00000000000e
status: test
level: medium
correlation: {type: vedette.baseline, rules: [failed, report], group-by: [function.name], timespan: 10m, vedette: {measure: ratio, learning: 1h, min_volume: 3, min_buckets: 4, factor: 3, deviations: 4, floor: 0.2}}
`

// enricher places addresses of the documentation ranges.
type enricher struct{ shift int }

func (e enricher) Enrich(ev *event.Event) {
	ip := ev.Attr(event.AttrSrcIP)
	last, err := strconv.Atoi(string(ip[max(0, strings.LastIndexByte(string(ip), '.')+1):]))
	if err != nil {
		return
	}
	country := "FR"
	if last >= 100 {
		country = fmt.Sprintf("X%d", (last+e.shift)%20)
	}
	ev.SetAttr(event.AttrSrcCountry, []byte(country))
}

// generations are two rule sets with two enrichments, by digest.
type generations map[string]*generation

type generation struct {
	set     *rule.Set
	program *match.Program
}

func newGenerations(t testing.TB) generations {
	t.Helper()
	g, err := loadGenerations()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func loadGenerations() (generations, error) {
	g := make(generations)
	for i, text := range []string{ruleText + ruleTextMore, ruleText} {
		set, _, err := rule.FromSources(map[string][]byte{"rules.yml": []byte(text)})
		if err != nil {
			return nil, err
		}
		digest := fmt.Sprintf("generation-%d", i)
		g[digest] = &generation{set, &match.Program{Digest: digest, Matcher: match.New(set), Enricher: enricher{i}}}
	}
	return g, nil
}

func (g generations) Load(_ context.Context, digest string) (*match.Program, error) {
	if p := g[digest]; p != nil {
		return p.program, nil
	}
	return nil, fmt.Errorf("no generation %q", digest)
}

// version is the generations as a program sees them that may be able to judge the
// records of one only.
type version struct {
	generations
	speaks string
}

func (v version) Load(ctx context.Context, digest string) (*match.Program, error) {
	if v.speaks != "" && v.speaks != digest {
		return nil, fmt.Errorf("%w: %s", match.ErrSemantics, digest)
	}
	return v.generations.Load(ctx, digest)
}

func (g generations) Rules(_ context.Context, digest string) (*rule.Set, error) {
	if p := g[digest]; p != nil {
		return p.set, nil
	}
	return nil, fmt.Errorf("no generation %q", digest)
}

func (g generations) First(context.Context) (string, error) { return "generation-0", nil }

// load makes records of an account in simulated time: benign traffic, bursts of
// refusals, scans of routes, new countries, slow and failing functions,
// invocations that no request asked for, repeats, late and broken records.
type load struct {
	rnd  *rand.Rand
	now  time.Time
	step int
	sent []stream.LogMessage // to be delivered again
	once bool                // nothing is, for as long as it is set
	n    int
}

const stepTime = 10 * time.Second

// next gives the records of the next step.
func (l *load) next() []stream.LogMessage {
	l.now = l.now.Add(stepTime)
	l.step++
	var out []stream.LogMessage
	episode := l.step / 60 % 6
	for range 2 + l.rnd.IntN(4) {
		at := l.now.Add(-time.Duration(l.rnd.IntN(100_000)) * time.Millisecond)
		if l.rnd.IntN(20) == 0 {
			// Late, but before their type is settled, 3 min: what comes after that is
			// judged with whatever arrived near it, and two runs need not agree on it.
			at = at.Add(-time.Duration(l.rnd.IntN(70)) * time.Second)
		}
		ip, status, route := fmt.Sprintf("192.0.2.%d", l.rnd.IntN(8)), 200, "/orders"
		switch {
		case episode == 1 && l.rnd.IntN(2) == 0:
			ip, status = fmt.Sprintf("192.0.2.%d", 20+l.step/60), 403
		case episode == 2 && l.rnd.IntN(3) == 0:
			ip, route = "192.0.2.11", fmt.Sprintf("/r%d", l.rnd.IntN(9))
		case episode == 3 && l.rnd.IntN(20) == 0:
			ip = fmt.Sprintf("192.0.2.%d", 100+l.rnd.IntN(100))
		case l.rnd.IntN(40) == 0:
			ip = fmt.Sprintf("198.51.100.%d", l.rnd.IntN(90)) // seen seldom
		}
		l.n++
		id := fmt.Sprintf("8b0f2f4e-7f0e-4f2f-bb4e-%012x", l.n)
		fn := fmt.Sprintf("fn-%d", l.rnd.IntN(3))
		ms := 100 + 20*l.rnd.Float64()
		failed := ""
		if episode == 4 && fn == "fn-1" {
			ms *= 8
			failed = "\tStatus: error\tError Type: Runtime.ExitError"
		}
		if episode != 5 || l.rnd.IntN(8) != 0 {
			out = append(out, message(event.TypeAPIGateway, fmt.Sprintf(
				`{"requestId":"%s","extendedRequestId":"x%d=","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod","requestTimeEpoch":"%d","httpMethod":"GET","path":"/prod%s","resourcePath":"%s","protocol":"HTTP/1.1","sourceIp":"%s","principalId":"user-%d","status":"%d","integrationRequestId":"%s"}`,
				strings.Replace(id, "8b0f", "9c1f", 1), l.n, at.UnixMilli(), route, route, ip, l.rnd.IntN(4), status, id)))
		}
		out = append(out,
			l.line(fn, at, "START RequestId: "+id+" Version: $LATEST\n"),
			l.line(fn, at.Add(time.Duration(ms)*time.Millisecond), fmt.Sprintf(
				"REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: 128 MB\tMax Memory Used: 71 MB%s\t\n", id, ms, int(ms)+1, failed)))
	}
	switch l.rnd.IntN(40) {
	case 0:
		out = append(out, stream.LogMessage{Value: []byte(`{"broken":`)})
	case 1:
		out = append(out, message(event.TypeCloudTrail, fmt.Sprintf(
			`{"eventVersion":"1.08","eventID":"%d","eventTime":%q,"eventSource":"cloudtrail.amazonaws.com","eventName":"StopLogging","awsRegion":"eu-west-1","sourceIPAddress":"192.0.2.%d","userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/u%d"},"recipientAccountId":"111122223333"}`,
			l.step, l.now.Add(-4*time.Minute).UTC().Format(time.RFC3339), l.rnd.IntN(3), l.rnd.IntN(3))))
	}
	l.sent = append(l.sent, out...)
	if len(l.sent) > 500 {
		l.sent = l.sent[len(l.sent)-500:]
	}
	if l.once {
		l.sent = nil
		return out
	}
	for range l.rnd.IntN(3) {
		out = append(out, l.sent[l.rnd.IntN(len(l.sent))])
	}
	return out
}

func (l *load) line(fn string, at time.Time, text string) stream.LogMessage {
	l.n++
	return message(event.TypeLambda, fmt.Sprintf(
		`{"owner":"111122223333","logGroup":"/aws/lambda/%s","logStream":"2026/03/02/[$LATEST]0123456789abcdef","id":"39%d","timestamp":%d,"message":%q}`,
		fn, l.n, at.UnixMilli(), text))
}

func message(typ event.Type, value string) stream.LogMessage {
	return stream.LogMessage{Tenant: "default", Type: string(typ), Origin: "spinetest", Value: []byte(value)}
}
