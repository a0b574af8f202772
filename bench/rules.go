package bench

import (
	"fmt"
	"strings"
)

// probeRoute is asked for by nobody else.
const probeRoute = "/bench/probe"

// probeRules fire for each probe.
const probeRules = `title: Bench Probe
id: 0f5b6a30-6a55-4f3e-9a4e-000000000001
name: bench_probe
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection: {sel: {gateway.route: GET ` + probeRoute + `}, condition: sel}
---
title: Bench Probe Came Through
id: 0f5b6a30-6a55-4f3e-9a4e-000000000002
status: test
level: high
correlation: {type: event_count, rules: [bench_probe], group-by: [src_endpoint.ip], timespan: 5m, condition: {gte: 1}}
`

// backlogRules fire for what [Traffic] makes, so that there is something to compare.
const backlogRules = `---
title: Backlog Refused
id: 0f5b6a30-6a55-4f3e-9a4e-000000000005
name: backlog_refused
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection: {sel: {outcome: [unauthenticated, denied]}, condition: sel}
---
title: Backlog Denied
id: 0f5b6a30-6a55-4f3e-9a4e-000000000006
name: backlog_denied
status: test
level: informational
logsource: {product: aws, service: cloudtrail}
detection: {sel: {errorCode|startswith: AccessDenied}, condition: sel}
---
title: Backlog Refusals
id: 0f5b6a30-6a55-4f3e-9a4e-000000000007
status: test
level: medium
correlation: {type: event_count, rules: [backlog_refused], group-by: [src_endpoint.ip], timespan: 5m, condition: {gte: 20}}
---
title: Backlog Routes
id: 0f5b6a30-6a55-4f3e-9a4e-000000000008
status: test
level: medium
correlation: {type: value_count, rules: [backlog_refused], group-by: [src_endpoint.ip], timespan: 10m, condition: {field: gateway.route, gte: 14}}
---
title: Backlog Denials
id: 0f5b6a30-6a55-4f3e-9a4e-000000000009
status: test
level: low
correlation: {type: event_count, rules: [backlog_denied], group-by: [userIdentity.arn], timespan: 30m, condition: {gte: 6}}
`

// Rules writes a Sigma rule set with n stateful rules of all types over the
// detections that they refer to, for the records that [Traffic] makes. All but
// the first keep state and do not fire; that one fires for each burst.
func Rules(n int) string {
	var b strings.Builder
	id := 16
	next := func() string { id++; return fmt.Sprintf("0f5b6a30-6a55-4f3e-9a4e-%012x", id) }
	// A detection that no correlation refers to would fire by itself.
	known, used := map[string]string{}, map[string]bool{}
	var names []string
	detection := func(name, logsource, sel string) {
		names = append(names, name)
		known[name] = fmt.Sprintf("---\ntitle: %s\nid: %s\nname: %s\nstatus: test\nlevel: informational\nlogsource: %s\ndetection: {sel: %s, condition: sel}\n",
			name, next(), name, logsource, sel)
	}
	const trail, gateway, lambda = "{product: aws, service: cloudtrail}", "{product: vedette, service: aws.apigateway}", "{product: vedette, service: aws.lambda}"
	for i, op := range operations {
		detection(fmt.Sprintf("bench_op_%d", i), trail, fmt.Sprintf("{eventSource: %s.amazonaws.com, eventName: %s}", op[0], op[1]))
	}
	detection("bench_op_never", trail, "{eventSource: cloudtrail.amazonaws.com, eventName: StopLogging}")
	detection("bench_denied", trail, "{errorCode|startswith: AccessDenied, userIdentity.arn|contains: assumed-role}")
	detection("bench_request", gateway, "{layer: gateway}")
	detection("bench_refused", gateway, "{outcome: [unauthenticated, denied]}")
	for i := range routes {
		detection(fmt.Sprintf("bench_route_%d", i), gateway, fmt.Sprintf("{gateway.route: GET /orders/v1/resource%d}", i))
	}
	detection("bench_start", lambda, "{function.phase: start}")
	detection("bench_report", lambda, "{function.phase: report}")

	correlation := func(i int, level, text string) {
		refs := text[strings.Index(text, "rules: [")+len("rules: ["):]
		for name := range strings.SplitSeq(refs[:strings.IndexByte(refs, ']')], ", ") {
			used[name] = true
		}
		fmt.Fprintf(&b, "---\ntitle: Bench %d\nid: %s\nstatus: test\nlevel: %s\ncorrelation: %s\n", i, next(), level, text)
	}
	spans := [...]string{"5m", "10m", "30m", "1h"}
	for i := range n {
		span := spans[i/10%len(spans)]
		op := fmt.Sprintf("bench_op_%d", i*7%len(operations))
		switch i % 10 {
		case 0:
			if i == 0 {
				correlation(i, "high", "{type: event_count, rules: [bench_refused], group-by: [src_endpoint.ip], timespan: 5m, condition: {gte: 20}}")
				continue
			}
			correlation(i, "medium", fmt.Sprintf("{type: event_count, rules: [bench_denied], group-by: [userIdentity.arn], timespan: %s, condition: {gte: 100000}}", span))
		case 1, 2, 3:
			correlation(i, "medium", fmt.Sprintf("{type: event_count, rules: [%s], group-by: [userIdentity.arn], timespan: %s, condition: {gte: 100000}}", op, span))
		case 4:
			correlation(i, "medium", fmt.Sprintf("{type: value_count, rules: [%s], group-by: [userIdentity.arn], timespan: %s, condition: {field: sourceIPAddress, gte: 100000}}", op, span))
		case 5:
			correlation(i, "medium", fmt.Sprintf("{type: value_count, rules: [bench_route_%d], group-by: [src_endpoint.ip], timespan: %s, condition: {field: actor.user.uid, gte: 100000}}", i%routes, span))
		case 6:
			correlation(i, "medium", fmt.Sprintf("{type: temporal_ordered, rules: [%s, bench_op_never], group-by: [userIdentity.arn], timespan: %s}", op, span))
		case 7:
			correlation(i, "medium", fmt.Sprintf("{type: vedette.new_value, rules: [%s], group-by: [userIdentity.arn], condition: {field: awsRegion}, vedette: {learning: 7d, forget: 90d}}", op))
		case 8:
			switch i / 10 % 3 {
			case 0:
				correlation(i, "medium", "{type: value_count, rules: [bench_request], group-by: [src_endpoint.ip], timespan: "+span+", condition: {field: gateway.route, gte: 100000}}")
			case 1:
				correlation(i, "medium", "{type: vedette.unmatched, rules: [bench_op_never, bench_request], group-by: [userIdentity.arn], timespan: 5m, vedette: {before: 1m, hold: 1h, join: {bench_op_never: [requestID], bench_request: [gateway.integration_request_id]}}}")
			default:
				correlation(i, "medium", "{type: event_count, rules: [bench_start], group-by: [function.name], timespan: "+span+", condition: {gte: 10000000}}")
			}
		default:
			correlation(i, "medium", fmt.Sprintf("{type: vedette.baseline, rules: [bench_report], group-by: [function.name], timespan: %s, vedette: {measure: p95, field: duration, learning: 3d, min_volume: 20, min_buckets: 48, factor: 4, deviations: 6, floor: 250}}", span))
		}
	}
	for _, name := range names {
		if used[name] {
			b.WriteString(known[name])
		}
	}
	return b.String()
}
