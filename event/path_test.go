package event_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/event"
)

func TestValues(t *testing.T) {
	const record = `{
		"eventTime": "2026-03-02T10:04:00Z", "eventSource": "ec2.amazonaws.com", "eventName": "Authorize\u0049ngress",
		"readOnly": false, "errorCode": null,
		"userIdentity": {"arn": "arn:a", "sessionContext": {"attributes": {"mfaAuthenticated": "true"}, "extra": 7}},
		"requestParameters": {
			"ipPermissions": {"items": [
				{"fromPort": 22, "ipRanges": {"items": [{"cidrIp": "0.0.0.0/0"}, {"cidrIp": "10.0.0.0/8"}]}},
				{"fromPort": 443, "ipRanges": {"items": []}},
				[{"fromPort": 80}]
			]},
			"groups": ["a", "b\n", ["c"]], "none": [], "empty": {},
			"twice": 1, "tw\u0069ce": "2",
			"x.y": "dots", "x": {"y": "below", "y.z": 1, "y": {"z": 2}}
		},
		"resources": [{"ARN": "r1"}, {"ARN": "r2", "accountId": "1"}],
		"unknown": {"a": [true, null]}, "odd": "value"
	}`
	ev := decode(t, event.TypeCloudTrail, record)
	for path, want := range map[string][]string{
		"eventName":            {"string AuthorizeIngress"},
		"readOnly":             {"bool false"},
		"errorCode":            {"null "},
		"errorMessage":         nil,
		"userIdentity.arn":     {"string arn:a"},
		"userIdentity.type":    nil,
		"userIdentity.arn.x":   nil,
		"userIdentity.nothing": nil,
		"userIdentity.sessionContext.attributes.mfaAuthenticated": {"string true"},
		"userIdentity.sessionContext.extra":                       {"number 7"},
		"userIdentity.sessionContext.sessionIssuer.arn":           nil,
		"requestParameters.ipPermissions.items.fromPort":          {"number 22", "number 443", "number 80"},
		"requestParameters.ipPermissions.items.ipRanges.items.cidrIp": {
			"string 0.0.0.0/0", "string 10.0.0.0/8",
		},
		"requestParameters.ipPermissions.items.ipRanges": {
			`object {"items":[{"cidrIp":"0.0.0.0/0"},{"cidrIp":"10.0.0.0/8"}]}`, `object {"items":[]}`,
		},
		"requestParameters.groups":   {"string a", "string b\n", "string c"},
		"requestParameters.none":     {"array []"},
		"requestParameters.empty":    {"object {}"},
		"requestParameters.empty.x":  nil,
		"requestParameters.twice":    {"number 1", "string 2"},
		"requestParameters.x.y":      {"string dots", "string below", `object {"z":2}`},
		"requestParameters.x.y.z":    {"number 1", "number 2"},
		"requestParameters.missing":  nil,
		"resources.ARN":              {"string r1", "string r2"},
		"resources.accountId":        {"string 1"},
		"unknown.a":                  {"bool true", "null "},
		"unknown":                    {`object {"a":[true,null]}`},
		"odd":                        {"string value"},
		"odd.x":                      nil,
		"error_code":                 nil,
		"":                           nil,
		".":                          nil,
		"requestParameters.":         nil,
		"eventName.":                 nil,
		"requestParameters..groups":  nil,
		"requestparameters.groups":   nil,
		"requestParameters.groups.0": nil,
	} {
		p := event.CompilePath(path)
		if p.String() != path {
			t.Errorf("path %q is called %q", path, p)
		}
		if diff := cmp.Diff(want, texts(ev.Values(nil, p))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func texts(vals []event.Value) []string {
	var all []string
	for _, v := range vals {
		all = append(all, kindNames[v.Kind]+" "+string(v.AppendText(nil)))
		if v.Plain() && string(v.Raw) != string(v.AppendText(nil)) {
			all = append(all, "plain, but not its raw bytes: "+string(v.Raw))
		}
	}
	return all
}

var kindNames = map[event.Kind]string{
	event.KindNone: "none", event.KindNull: "null", event.KindBool: "bool", event.KindNumber: "number",
	event.KindString: "string", event.KindObject: "object", event.KindArray: "array",
}

// What should be an object and is an array is walked, not taken as scanned.
func TestValuesOfArraysInPlaceOfObjects(t *testing.T) {
	ev := decode(t, event.TypeCloudTrail, trail(`"userIdentity":[{"arn":"a"},{"arn":"b"}],"tlsDetails":"none",`))
	want := []string{"string a", "string b"}
	if diff := cmp.Diff(want, texts(ev.Values(nil, event.CompilePath("userIdentity.arn")))); diff != "" {
		t.Errorf("userIdentity.arn (-want +got):\n%s", diff)
	}
	if got := ev.Values(nil, event.CompilePath("tlsDetails.tlsVersion")); got != nil {
		t.Errorf("tlsDetails.tlsVersion of a string: %v", texts(got))
	}
	if got := ev.Attr(event.AttrActorUID); got != nil {
		t.Errorf("actor %q from an array", got)
	}
}

// A dot in a path means nesting: no key with dots in it stands in for a field that
// matters, nor beside one. Elsewhere such a key is taken at its word as well.
func TestValuesOfKeysWithDots(t *testing.T) {
	for _, c := range []struct {
		fields, path string
		want         []string
	}{
		{`"userIdentity.type":"Root",`, "userIdentity.type", nil},
		{`"userIdentity.type":"Root","userIdentity":{"type":"IAMUser"},`, "userIdentity.type", []string{"string IAMUser"}},
		{`"userIdentity":{"type":"IAMUser"},"userIdentity\u002etype":"Root",`, "userIdentity.type", []string{"string IAMUser"}},
		{`"userIdentity":{"sessionContext.attributes.mfaAuthenticated":"true"},`, "userIdentity.sessionContext.attributes.mfaAuthenticated", nil},
		{`"requestParameters.a":"beside","requestParameters":{"a":"below"},`, "requestParameters.a", []string{"string below"}},
		{`"requestParameters":{"x.y":"dots","x":{"y":"below"}},`, "requestParameters.x.y", []string{"string dots", "string below"}},
		{`"odd.key":"dots","odd":{"key":"below"},`, "odd.key", []string{"string dots", "string below"}},
	} {
		ev := decode(t, event.TypeCloudTrail, trail(c.fields))
		if diff := cmp.Diff(c.want, texts(ev.Values(nil, event.CompilePath(c.path)))); diff != "" {
			t.Errorf("%s in %s (-want +got):\n%s", c.path, c.fields, diff)
		}
	}
}

func TestValuesWithinCloudWatch(t *testing.T) {
	ev := decode(t, event.TypeAPIGateway, string(wrapped("api", `{"requestTimeEpoch":"1772445761532","status":"200","mine":{"a":"b\"c"}}`)))
	if diff := cmp.Diff([]string{`string b"c`}, texts(ev.Values(nil, event.CompilePath("mine.a")))); diff != "" {
		t.Errorf("mine.a (-want +got):\n%s", diff)
	}
	if got := ev.Values(nil, event.CompilePath("logGroup")); got != nil {
		t.Errorf("the envelope is not the record: %v", texts(got))
	}
	if got := string(ev.Doc); got != `{"requestTimeEpoch":"1772445761532","status":"200","mine":{"a":"b\"c"}}` {
		t.Errorf("document %s", got)
	}
	line := decode(t, event.TypeLambda, string(wrapped("/aws/lambda/f", startLine)))
	if got := line.Values(nil, event.CompilePath("message")); got != nil || line.Doc != nil {
		t.Errorf("a line of text has values %v, document %q", texts(got), line.Doc)
	}
}

func TestDiscriminator(t *testing.T) {
	a, b := decode(t, event.TypeCloudTrail, `{"eventTime":"2026-03-02T10:04:00Z","eventSource":"s\u0033.amazonaws.com","eventName":"GetObject"}`).Discriminator()
	if string(a) != "s3.amazonaws.com" || string(b) != "GetObject" {
		t.Errorf("discriminator %q, %q", a, b)
	}
	a, b = decode(t, event.TypeLambda, string(wrapped("/aws/lambda/f", startLine))).Discriminator()
	if a != nil || b != nil {
		t.Errorf("discriminator of a function's line %q, %q", a, b)
	}
}
