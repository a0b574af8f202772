package event_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/event"
)

// trail is a CloudTrail record with more members in front.
func trail(members string) string {
	return `{` + members + `"eventTime":"2026-03-02T10:04:00Z","eventSource":"iam.amazonaws.com","eventName":"CreateUser"}`
}

func decode(t testing.TB, typ event.Type, data string) *event.Event {
	t.Helper()
	ev := new(event.Event)
	if err := event.NewDecoder().Decode(ev, event.Record{Type: typ, Data: []byte(data)}); err != nil {
		t.Fatalf("%s\n%v", data, err)
	}
	return ev
}

func TestRefused(t *testing.T) {
	nested := func(n int) string {
		return trail(`"requestParameters":` + strings.Repeat(`[`, n) + strings.Repeat(`]`, n) + `,`)
	}
	for _, tc := range []struct {
		name, data string
		typ        event.Type
		reason     event.Reason
	}{
		{"nothing", "", event.TypeCloudTrail, event.ReasonEmpty},
		{"white space", " \n\t", event.TypeLambda, event.ReasonEmpty},
		{"not an object", `[1]`, event.TypeCloudTrail, event.ReasonSyntax},
		{"a word", `hello`, event.TypeAPIGateway, event.ReasonSyntax},
		{"key without quotes", `{a:1}`, event.TypeCloudTrail, event.ReasonSyntax},
		{"trailing comma", `{"a":1,}`, event.TypeCloudTrail, event.ReasonSyntax},
		{"trailing comma below", `{"a":[1,]}`, event.TypeCloudTrail, event.ReasonSyntax},
		{"brackets crossed", `{"a":[}`, event.TypeCloudTrail, event.ReasonSyntax},
		{"misspelt literal", `{"a":nul}`, event.TypeCloudTrail, event.ReasonSyntax},
		{"trailing bytes", trail("") + "x", event.TypeCloudTrail, event.ReasonTrailing},
		{"two documents", trail("") + trail(""), event.TypeCloudTrail, event.ReasonTrailing},
		{"truncated in a string", `{"eventName":"Cre`, event.TypeCloudTrail, event.ReasonTruncated},
		{"truncated in an escape", `{"eventName":"Cre\u00`, event.TypeCloudTrail, event.ReasonTruncated},
		{"truncated in an object", `{"a":{"b":1`, event.TypeCloudTrail, event.ReasonTruncated},
		{"truncated in a literal", `{"a":tr`, event.TypeCloudTrail, event.ReasonTruncated},
		{"truncated in a number", `{"a":-`, event.TypeCloudTrail, event.ReasonTruncated},
		{"control character", trail("\"userAgent\":\"a\x01b\","), event.TypeCloudTrail, event.ReasonControl},
		{"line break in a string", trail("\"x\":{\"y\":\"a\nb\"},"), event.TypeCloudTrail, event.ReasonControl},
		{"no such escape", trail(`"x":"\q",`), event.TypeCloudTrail, event.ReasonEscape},
		{"escape without digits", trail(`"x":"\u12g4",`), event.TypeCloudTrail, event.ReasonEscape},
		{"leading zero", trail(`"x":01,`), event.TypeCloudTrail, event.ReasonSyntax},
		{"number ends in a point", trail(`"x":1.,`), event.TypeCloudTrail, event.ReasonNumber},
		{"number without exponent", trail(`"x":1e+,`), event.TypeCloudTrail, event.ReasonNumber},
		{"bare dash", trail(`"x":-,`), event.TypeCloudTrail, event.ReasonNumber},
		{"bad UTF-8", trail("\"x\":\"\xff\","), event.TypeCloudTrail, event.ReasonUTF8},
		{"bad UTF-8 in a key", trail("\"x\xff\":1,"), event.TypeCloudTrail, event.ReasonUTF8},
		{"bad UTF-8 below, long before the end", trail("\"requestParameters\":{\"a\":[{\"b\":\"0123456789abcdef\x80\"}],\"c\":\"" + strings.Repeat("x", 200) + "\"},"), event.TypeCloudTrail, event.ReasonUTF8},
		{"bad UTF-8 after a syntax error", trail("\"x\"1,\"y\":\"\xff\","), event.TypeCloudTrail, event.ReasonUTF8},
		{"bad UTF-8 in a message", strings.Replace(string(wrapped("api", `{"status":"200","requestTimeEpoch":"1772445761532","x":"0123456789abcdef?"}`)), "?", "\xff", 1), event.TypeAPIGateway, event.ReasonUTF8},
		{"bad UTF-8 in a line of text", "START RequestId: \xff", event.TypeLambda, event.ReasonUTF8},
		{"bad UTF-8 in a function's message", strings.Replace(string(wrapped("/aws/lambda/f", "START RequestId: ?")), "?", "\xff", 1), event.TypeLambda, event.ReasonUTF8},
		{"overlong UTF-8", trail("\"x\":\"\xc0\xaf\","), event.TypeCloudTrail, event.ReasonUTF8},
		{"surrogate in UTF-8", trail("\"x\":\"\xed\xa0\x80\","), event.TypeCloudTrail, event.ReasonUTF8},
		{"too deep", nested(event.MaxDepth), event.TypeCloudTrail, event.ReasonDepth},
		{"duplicate key", trail(`"eventName":"ListUsers",`), event.TypeCloudTrail, event.ReasonDuplicate},
		{"duplicate key, escaped", trail(`"\u0065ventName":"ListUsers",`), event.TypeCloudTrail, event.ReasonDuplicate},
		{"duplicate key below", trail(`"userIdentity":{"arn":"a","type":"Root","\u0061rn":"b"},`), event.TypeCloudTrail, event.ReasonDuplicate},
		{"duplicate container", trail(`"userIdentity":{},"userIdentity":null,`), event.TypeCloudTrail, event.ReasonDuplicate},
		{"too long", trail(`"x":"` + strings.Repeat("a", event.MaxSize) + `",`), event.TypeCloudTrail, event.ReasonSize},

		{"no event name", `{"eventTime":"2026-03-02T10:04:00Z","eventSource":"iam.amazonaws.com"}`, event.TypeCloudTrail, event.ReasonMissing},
		{"event name null", `{"eventTime":"2026-03-02T10:04:00Z","eventSource":"iam.amazonaws.com","eventName":null}`, event.TypeCloudTrail, event.ReasonMissing},
		{"no time", `{"eventSource":"iam.amazonaws.com","eventName":"x"}`, event.TypeCloudTrail, event.ReasonTime},
		{"no such day", `{"eventTime":"2026-02-29T10:04:00Z","eventSource":"iam.amazonaws.com","eventName":"x"}`, event.TypeCloudTrail, event.ReasonTime},
		{"time is a word", `{"eventTime":"yesterday","eventSource":"iam.amazonaws.com","eventName":"x"}`, event.TypeCloudTrail, event.ReasonTime},

		{"access line without status", `{"requestId":"r","requestTimeEpoch":"1772445761532","httpMethod":"GET"}`, event.TypeAPIGateway, event.ReasonMissing},
		{"access line without time", `{"requestId":"r","httpMethod":"GET","status":"200"}`, event.TypeAPIGateway, event.ReasonTime},
		{"access line with a quote of the client's", `{"requestId":"r","userAgent":"x" y","status":"200"}`, event.TypeAPIGateway, event.ReasonSyntax},
		{"access line, fields of the client's", `{"requestTimeEpoch":"1","status":"200","userAgent":"x","status":"200"}`, event.TypeAPIGateway, event.ReasonDuplicate},
		{"access line, dash within a number", `{"requestTimeEpoch":"1772445761532","status":-4-}`, event.TypeAPIGateway, event.ReasonSyntax},

		{"line without time", "START RequestId: 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001 Version: 1", event.TypeLambda, event.ReasonTime},
		{"platform record, broken", string(wrapped("/aws/lambda/f", `{"type":"platform.report","record":{`)), event.TypeLambda, event.ReasonTruncated},

		{"no type", `{"hello":"world"}`, event.TypeUnknown, event.ReasonType},
		{"type without decoder", `{"hello":"world"}`, "acme.log", event.ReasonType},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ev := new(event.Event)
			err := event.NewDecoder().Decode(ev, event.Record{Type: tc.typ, Data: []byte(tc.data)})
			var refused *event.DecodeError
			if !errors.As(err, &refused) {
				t.Fatalf("error %v, want a DecodeError", err)
			}
			if refused.Reason != tc.reason {
				t.Errorf("reason %q at %d, want %q", refused.Reason, refused.Offset, tc.reason)
			}
			if refused.Type != tc.typ {
				t.Errorf("type %q, want %q", refused.Type, tc.typ)
			}
			if refused.Offset < 0 || refused.Offset > len(tc.data) {
				t.Errorf("offset %d of %d bytes", refused.Offset, len(tc.data))
			}
			if !strings.Contains(err.Error(), string(tc.reason)) {
				t.Errorf("error %q does not say the reason", err)
			}
		})
	}
}

func TestReasonsAreComplete(t *testing.T) {
	seen := map[event.Reason]bool{}
	for _, r := range event.Reasons() {
		if r == "" || seen[r] || r.String() != string(r) {
			t.Errorf("reason %q is empty or listed twice", r)
		}
		seen[r] = true
	}
	if len(seen) != 14 {
		t.Errorf("%d reasons, want 14", len(seen))
	}
}

func TestNestingAtTheLimitIsAccepted(t *testing.T) {
	n := event.MaxDepth - 1
	decode(t, event.TypeCloudTrail, trail(`"requestParameters":`+strings.Repeat(`[`, n)+strings.Repeat(`]`, n)+`,`))
}

func TestAttrNames(t *testing.T) {
	seen := map[string]bool{}
	for a := range event.NumAttrs {
		name := a.String()
		got, ok := event.ParseAttr(name)
		if name == "" || !ok || got != a || seen[name] {
			t.Errorf("attribute %d is called %q, which parses as %d, %t", a, name, got, ok)
		}
		seen[name] = true
	}
	for _, name := range []string{"", "actor", "Actor.User.UID", "attr(200)"} {
		if a, ok := event.ParseAttr(name); ok {
			t.Errorf("ParseAttr(%q) = %v", name, a)
		}
	}
}

func TestSetAttr(t *testing.T) {
	d, ev := event.NewDecoder(), new(event.Event)
	rec := event.Record{Type: event.TypeCloudTrail, Data: []byte(trail(`"sourceIPAddress":"198.51.100.9",`))}
	if err := d.Decode(ev, rec); err != nil {
		t.Fatal(err)
	}
	ev.SetAttr(event.AttrSrcCountry, []byte("NL"))
	ev.SetAttr(event.AttrSrcIP, nil)
	ev.SetAttr(event.NumAttrs, []byte("out of range"))
	if got := ev.Attr(event.AttrSrcCountry); string(got) != "NL" {
		t.Errorf("country %q, want the one set", got)
	}
	if got := ev.Attr(event.AttrSrcIP); got != nil {
		t.Errorf("ip %q, want none", got)
	}
	if got := ev.Attr(event.NumAttrs); got != nil {
		t.Errorf("attribute out of range is %q", got)
	}
	if err := d.Decode(ev, rec); err != nil {
		t.Fatal(err)
	}
	if got := ev.Attr(event.AttrSrcCountry); got != nil {
		t.Errorf("country %q outlived its record", got)
	}
	if got := ev.Attr(event.AttrSrcIP); string(got) != "198.51.100.9" {
		t.Errorf("ip %q", got)
	}
}

// A record after another must not inherit anything.
func TestDecodeStartsAfresh(t *testing.T) {
	files := map[string]event.Type{
		"cloudtrail.log": event.TypeCloudTrail,
		"apigateway.log": event.TypeAPIGateway,
		"lambda.log":     event.TypeLambda,
	}
	d, used := event.NewDecoder(), new(event.Event)
	for range 2 {
		for file, typ := range files {
			for _, s := range samples(t, file) {
				if err := d.Decode(used, event.Record{Type: typ, Data: s.data}); err != nil {
					t.Fatal(err)
				}
				fresh := decode(t, typ, string(s.data))
				if got, want := describe(used), describe(fresh); got != want {
					t.Errorf("%s: an event used before says\n%s\na new one\n%s", s.name, got, want)
				}
				if got, want := event.OCSF(nil, used), event.OCSF(nil, fresh); !bytes.Equal(got, want) {
					t.Errorf("%s: OCSF of an event used before\n%s\nof a new one\n%s", s.name, got, want)
				}
			}
			_ = d.Decode(used, event.Record{Type: typ, Data: []byte(`{"eventName":`)})
		}
	}
}

func TestErrorCodes(t *testing.T) {
	for _, tc := range []struct {
		code, message string
		status        int
		outcome       event.Outcome
	}{
		{"", "", 200, event.OutcomeSuccess},
		{"AccessDenied", "", 403, event.OutcomeDenied},
		{"accessdenied", "", 403, event.OutcomeDenied},
		{"Client.UnauthorizedOperation", "", 403, event.OutcomeDenied},
		{"KMS.AccessDeniedException", "", 403, event.OutcomeDenied},
		{"Client.AuthFailure", "", 401, event.OutcomeUnauthenticated},
		{"ExpiredTokenException", "", 401, event.OutcomeUnauthenticated},
		{"ThrottlingException", "Rate exceeded", 429, event.OutcomeThrottled},
		{"Client.RequestLimitExceeded", "", 429, event.OutcomeThrottled},
		{"LimitExceededException", "Rate exceeded", 429, event.OutcomeThrottled},
		{"LimitExceededException", "Cannot have more than 5000 users", 400, event.OutcomeClientError},
		{"TrailNotFoundException", "", 404, event.OutcomeClientError},
		{"NoSuchBucketPolicy", "", 404, event.OutcomeClientError},
		{"Client.InvalidInstanceID.NotFound", "", 404, event.OutcomeClientError},
		{"InvalidParameterValueException", "", 400, event.OutcomeClientError},
		{"SomethingNew", "", 400, event.OutcomeClientError},
		{"Server.InternalError", "", 500, event.OutcomeServerError},
		{"ServiceUnavailable", "", 503, event.OutcomeServerError},
		{"", "it did not work", 400, event.OutcomeClientError},
		{strings.Repeat("x", 300), "", 400, event.OutcomeClientError},
	} {
		var members string
		if tc.code != "" {
			members += fmt.Sprintf(`"errorCode":%q,`, tc.code)
		}
		if tc.message != "" {
			members += fmt.Sprintf(`"errorMessage":%q,`, tc.message)
		}
		ev := decode(t, event.TypeCloudTrail, trail(members))
		if ev.Status != tc.status || ev.Outcome != tc.outcome {
			t.Errorf("%s %q: status %d, outcome %s; want %d, %s", tc.code, tc.message, ev.Status, ev.Outcome, tc.status, tc.outcome)
		}
	}
}

func TestActivities(t *testing.T) {
	for name, want := range map[string]uint8{
		"CreateFunction20150331": 1, "PutRolePolicy": 1, "RunInstances": 1, "AttachUserPolicy": 1,
		"GetCallerIdentity": 2, "BatchGetSecretValue": 2, "ListBuckets": 2, "LookupEvents": 2, "DescribeTrails": 2,
		"UpdateTrail": 3, "ModifyImageAttribute": 3, "SetDefaultPolicyVersion": 3,
		"DeleteTrail": 4, "StopLogging": 4, "DetachRolePolicy": 4, "RemoveUserFromGroup": 4,
		"AssumeRole": 99, "Decrypt": 99, "SetupThing": 99, "Addendum": 99, "Get": 2,
	} {
		ev := decode(t, event.TypeCloudTrail, fmt.Sprintf(`{"eventTime":"2026-03-02T10:04:00Z","eventSource":"iam.amazonaws.com","eventName":%q}`, name))
		if ev.Activity != want || ev.Class != event.ClassAPIActivity || ev.Layer != event.LayerControl {
			t.Errorf("%s: class %d, activity %d, layer %s; want API activity %d, control", name, ev.Class, ev.Activity, ev.Layer, want)
		}
	}
}

func TestTimes(t *testing.T) {
	const want = 1772445840000000000
	for text, ns := range map[string]int64{
		"2026-03-02T10:04:00Z":           want,
		"2026-03-02T10:04:00+00:00":      want,
		"2026-03-02T11:04:00+01:00":      want,
		"2026-03-02T11:04:00+0100":       want,
		"2026-03-02T09:34:00.000-00:30":  want,
		"2026-03-02 10:04:00":            want,
		"2026-03-02 10:04:00 UTC":        want,
		"2026-03-02 10:04:00.000000000":  want,
		"2026-03-02T10:04:00.123456789Z": want + 123456789,
		"2026-03-02T10:04:00.1234567899": want + 123456789,
		"2026-03-02T10:03:60Z":           want,
		"1970-01-01T00:00:00Z":           0,
		"2024-02-29T00:00:00Z":           1709164800000000000,
		"2261-12-31T23:59:59Z":           9214646399000000000,
	} {
		ev := decode(t, event.TypeCloudTrail, fmt.Sprintf(`{"eventTime":%q,"eventSource":"a","eventName":"b"}`, text))
		if ev.Time != ns {
			t.Errorf("%s: %d, want %d", text, ev.Time, ns)
		}
	}
}

// The steady state allocates nothing: decoding, attributes, values.
func TestNoAllocations(t *testing.T) {
	paths := []*event.Path{
		event.CompilePath("eventName"),
		event.CompilePath("requestParameters.filterSet.items.name"),
		event.CompilePath("error_code"),
	}
	for _, file := range []string{"cloudtrail.log", "apigateway.log", "lambda.log"} {
		typ := event.Type("aws." + strings.TrimSuffix(file, ".log"))
		for _, s := range samples(t, file) {
			d, ev := event.NewDecoder(), new(event.Event)
			var vals []event.Value
			var failed error
			allocs := testing.AllocsPerRun(20, func() {
				if err := d.Decode(ev, event.Record{Type: typ, Data: s.data}); err != nil {
					failed = err
				}
				for a := range event.NumAttrs {
					ev.Attr(a)
				}
				for _, p := range paths {
					vals = ev.Values(vals[:0], p)
				}
				ev.Discriminator()
			})
			if allocs != 0 || failed != nil {
				t.Errorf("%s: %g allocations, error %v", s.name, allocs, failed)
			}
		}
	}
}

func TestHashID(t *testing.T) {
	// Written down with observations: these must never change.
	for uid, want := range map[string]uint64{
		"":                                     0xb5f7090e6bd72361,
		"1":                                    0x78567fc8557c7d96,
		"JkL0aExampleIDoFgg=":                  0x350e10558445bb0a,
		"4c1d6f2a-9e0b-4f5d-9a37-2f9f4be10001": 0x8acd5687bf0e23b9,
	} {
		if got := event.HashID([]byte(uid)); got != want {
			t.Errorf("HashID(%q) = %#x, want %#x", uid, got, want)
		}
	}
	seen := make(map[uint64]string, 200000)
	for i := range 100000 {
		for _, uid := range []string{fmt.Sprintf("%08x-9e0b-4f5d-9a37-2f9f4be10001", i), fmt.Sprint(i)} {
			h := event.HashID([]byte(uid))
			if other, ok := seen[h]; ok {
				t.Fatalf("%q and %q have one hash", uid, other)
			}
			seen[h] = uid
		}
	}
}
