package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzAgainstEncodingJSON holds the scanner to encoding/json. What it accepts,
// encoding/json accepts, and the values are the same. What encoding/json accepts,
// it accepts, but for these reasons, each of which is checked to be true: the
// document is no object, a key of the schema occurs twice, it is nested too
// deep, it is not UTF-8.
func FuzzAgainstEncodingJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, ` {"eventName" : "a\u0041\ud83d\ude00\ud800x\n"} `, `{"userIdentity":{"arn":1.5e-7,"sessionContext":{"sessionIssuer":{"arn":null}}}}`,
		`{"requestParameters":{"a":[{"b":[1,[2,{"b":3}]]},[]],"functionName":"f"},"x":{"y":{"y":true}},"x":{}}`,
		`{"eventName":1,"\u0065ventName":2}`, `{"resources":[{"ARN":"a"},{"ARN":"b"}]}`, `{"":{"":0},"\u0000":"\u0000"}`,
		`[1]`, `{"a":-}`, `{"a":01}`, `{"a":1.}`, `{"a":"` + "\x01" + `"}`, `{"a":tru}`, `{"a":{}`, `{"logGroup":"g","message":"{\"a\":1}"}`,
		`{"userIdentity":[{"arn":1},{"arn":[2]}]}`, `{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, ev := NewDecoder(), new(Event)
		if !utf8.Valid(data) {
			var refused *DecodeError
			if err := d.Decode(ev, Record{Type: TypeCloudTrail, Data: data}); !errors.As(err, &refused) || refused.Reason != ReasonUTF8 {
				t.Fatalf("not UTF-8: %v", err)
			}
			return
		}
		valid := json.Valid(data)
		if ev.Type = TypeCloudTrail; !d.take(ev) {
			t.Fatal("not decoded")
		}
		ok := d.document(ev, data, true)
		tree := readTree(data)
		switch {
		case ok && !valid:
			t.Fatalf("accepted, but it is no JSON")
		case ok:
			compareValues(t, ev, tree)
		case valid:
			justify(t, d.refused(), data, tree)
		}
	})
}

// justify fails unless the reason to refuse valid JSON holds.
func justify(t *testing.T, err *DecodeError, data []byte, tree any) {
	switch err.Reason {
	case ReasonSyntax:
		if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
			t.Fatalf("an object was refused: %v", err)
		}
	case ReasonDuplicate:
		if !duplicates(cloudTrailSchema.root, tree) {
			t.Fatalf("no duplicate key: %v", err)
		}
	case ReasonDepth:
		if depthOf(tree) <= MaxDepth {
			t.Fatalf("not that deep: %v", err)
		}
	default:
		t.Fatalf("encoding/json accepts it: %v", err)
	}
}

// member and object keep what a map would lose: duplicate keys.
type member struct {
	key   string
	value any
}

type object []member

// readTree reads JSON with the tokens of encoding/json; nil if it is none.
func readTree(data []byte) any {
	if !json.Valid(data) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := readValue(dec)
	if err != nil && !errors.Is(err, io.EOF) {
		panic(err)
	}
	return v
}

func readValue(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		o := object{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := readValue(dec)
			if err != nil {
				return nil, err
			}
			o = append(o, member{key.(string), v})
		}
		_, err = dec.Token()
		return o, err
	case json.Delim('['):
		a := []any{}
		for dec.More() {
			v, err := readValue(dec)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err = dec.Token()
		return a, err
	}
	return tok, nil
}

func duplicates(n *node, v any) bool {
	o, ok := v.(object)
	if !ok || n == nil {
		return false
	}
	seen := map[string]bool{}
	for _, m := range o {
		e := n.find([]byte(m.key), keyHash([]byte(m.key), n.mul))
		if e == nil {
			continue
		}
		if seen[m.key] || duplicates(e.child, m.value) {
			return true
		}
		seen[m.key] = true
	}
	return false
}

func depthOf(v any) int {
	deepest := -1
	switch v := v.(type) {
	case object:
		deepest = 0
		for _, m := range v {
			deepest = max(deepest, depthOf(m.value))
		}
	case []any:
		deepest = 0
		for _, el := range v {
			deepest = max(deepest, depthOf(el))
		}
	}
	return deepest + 1
}

// compareValues asks for every path of the tree and of the schema, and for some
// that are not there.
func compareValues(t *testing.T, ev *Event, tree any) {
	paths := map[string]bool{"eventName.x": true, "nothing": true, "requestParameters.nothing": true}
	listPaths(paths, "", tree, 0)
	schemaPaths(paths, "", cloudTrailSchema.root)
	for path := range paths {
		// A key that has dots or is empty can be read in two ways.
		if strings.HasPrefix(path, ".") || strings.HasSuffix(path, ".") || strings.Contains(path, "..") {
			continue
		}
		var got []string
		for _, v := range ev.Values(nil, CompilePath(path)) {
			got = append(got, fmt.Sprintf("%d:%s", v.Kind, v.AppendText(nil)))
		}
		want := lookUp(nil, tree, path, cloudTrailSchema.root)
		if !slices.Equal(got, want) {
			t.Fatalf("%q: %q, encoding/json has %q", path, got, want)
		}
	}
}

func listPaths(paths map[string]bool, prefix string, v any, depth int) {
	if len(paths) > 60 || depth > 8 {
		return
	}
	switch v := v.(type) {
	case object:
		for _, m := range v {
			paths[prefix+m.key] = true
			listPaths(paths, prefix+m.key+".", m.value, depth+1)
		}
	case []any:
		for _, el := range v {
			listPaths(paths, prefix, el, depth+1)
		}
	}
}

func schemaPaths(paths map[string]bool, prefix string, n *node) {
	for _, e := range n.keys[1:] {
		paths[prefix+e.key] = true
		if e.child != nil {
			schemaPaths(paths, prefix+e.key+".", e.child)
		}
	}
}

// lookUp is Values on the tree. Below a node of the schema, a path whose first
// word is one of its keys goes that way only.
func lookUp(dst []string, v any, path string, n *node) []string {
	switch v := v.(type) {
	case []any:
		for _, el := range v {
			dst = lookUp(dst, el, path, nil)
		}
	case object:
		var known *entry
		if n != nil {
			word, rest, more := strings.Cut(path, ".")
			if !more || rest != "" {
				known = n.find([]byte(word), keyHash([]byte(word), n.mul))
			}
		}
		for _, m := range v {
			if known != nil && m.key != known.key {
				continue
			}
			if m.key == path {
				dst = leaf(dst, m.value)
			} else if rest, ok := strings.CutPrefix(path, m.key+"."); ok && rest != "" {
				var child *node
				if known != nil {
					child = known.child
				}
				dst = lookUp(dst, m.value, rest, child)
			}
		}
	}
	return dst
}

func leaf(dst []string, v any) []string {
	var kind Kind
	var text string
	switch v := v.(type) {
	case nil:
		kind = KindNull
	case bool:
		kind, text = KindBool, fmt.Sprint(v)
	case json.Number:
		kind, text = KindNumber, v.String()
	case string:
		kind, text = KindString, v
	case object:
		kind, text = KindObject, compact(v)
	case []any:
		if len(v) > 0 {
			for _, el := range v {
				dst = leaf(dst, el)
			}
			return dst
		}
		kind, text = KindArray, "[]"
	}
	return append(dst, fmt.Sprintf("%d:%s", kind, text))
}

func compact(v any) string {
	var parts []string
	switch v := v.(type) {
	case object:
		for _, m := range v {
			parts = append(parts, `"`+m.key+`":`+compact(m.value))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		for _, el := range v {
			parts = append(parts, compact(el))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case string:
		return `"` + v + `"`
	case nil:
		return "null"
	}
	return fmt.Sprint(v)
}

// FuzzMessage holds the one-pass copy of a CloudWatch message to the two-step way.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{``, `abc"`, `\"quoted\" and \\ more and more"`, `\ud83d\ude00\ud800\u0041"tail`, `\`, `\u12`, "a\x01", `0123456\"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, end, _, fault := appendChecked([]byte("kept"), b, 0)
		wantEnd, esc, _, wantFault := strEnd(b, 0)
		if end != wantEnd || fault != wantFault {
			t.Fatalf("ends at %d with fault %d, want %d with %d", end, fault, wantEnd, wantFault)
		}
		if fault != faultNone {
			return
		}
		if want := append([]byte("kept"), appendUnescaped(nil, b[:end])...); !bytes.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
		if esc != (len(got)-len("kept") != end) {
			t.Fatalf("escapes: %t, but %d bytes became %d", esc, end, len(got)-len("kept"))
		}
	})
}

// FuzzDecode decodes anything as anything: no panic, no read past the record,
// attributes that are valid text, OCSF that is JSON.
func FuzzDecode(f *testing.F) {
	types := []Type{TypeUnknown, TypeCloudTrail, TypeAPIGateway, TypeLambda}
	for _, s := range []string{
		`{"eventTime":"2026-03-02T10:04:00Z","eventSource":"lambda.amazonaws.com","eventName":"Invoke","resources":[{"ARN":"arn:aws:lambda:r:a:function:f:1"}],"requestParameters":{"functionName":"f:"}}`,
		`{"requestTimeEpoch":"1772445761532","status":200,"userArn":"arn:aws:sts::1:assumed-role/a/b","routeKey":-,"x":-}`,
		`{"owner":"1","logGroup":"/aws/lambda/f","logStream":"2026/03/02/f[1]a","id":"1","timestamp":1772445761512,"message":"REPORT RequestId: 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001\tDuration: 1 ms\tStatus: timeout"}`,
		`{"logGroup":"/aws/lambda/f","timestamp":1,"message":"{\"time\":\"2026-03-02T10:04:00Z\",\"type\":\"platform.report\",\"record\":{\"metrics\":{\"durationMs\":1e400}}}"}`,
		"2026-03-02T10:02:43.900Z\t8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001\tERROR\tInvoke Error\t{\"errorType\":\"",
		`{"logGroup":"","timestamp":1,"message":"[ERROR] X: \nTraceback "}`,
	} {
		for i := range types {
			f.Add(uint8(i), []byte(s))
		}
	}
	d, ev := NewDecoder(), new(Event)
	f.Fuzz(func(t *testing.T, typ uint8, data []byte) {
		before := bytes.Clone(data)
		err := d.Decode(ev, Record{Type: types[int(typ)%len(types)], Data: data})
		if err != nil {
			var refused *DecodeError
			if !errors.As(err, &refused) || !slices.Contains(Reasons(), refused.Reason) {
				t.Fatalf("error %v is no DecodeError with a listed reason", err)
			}
			return
		}
		for a := range NumAttrs {
			v := ev.Attr(a)
			if !utf8.Valid(v) || v != nil && len(v) == 0 {
				t.Fatalf("%s = %q", a, v)
			}
		}
		if ev.Attr(AttrUID) == nil || ev.Time < 0 || ev.Layer == LayerUnknown {
			t.Fatalf("uid %q, time %d, layer %s", ev.Attr(AttrUID), ev.Time, ev.Layer)
		}
		for _, path := range []string{"a", "a.b", "eventName", "requestParameters.a", "record.metrics.x"} {
			for _, v := range ev.Values(nil, CompilePath(path)) {
				if !utf8.Valid(v.AppendText(nil)) {
					t.Fatalf("%s: %q", path, v.Raw)
				}
			}
		}
		if ev.Doc != nil && !json.Valid(ev.Doc) {
			t.Fatalf("document is no JSON: %s", ev.Doc)
		}
		if ocsf := OCSF(nil, ev); !json.Valid(ocsf) {
			t.Fatalf("OCSF is no JSON: %s", ocsf)
		}
		if !bytes.Equal(data, before) {
			t.Fatal("the record was written to")
		}
	})
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"2026-03-02T10:04:00Z", "2024-02-29T23:59:59.123456789+23:59", "2261-01-01T00:00:00-01:00", "1970-01-01T00:00:00+00:00"} {
		f.Add(s)
	}
	strict := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseTime([]byte(s))
		if !strict.MatchString(s) {
			return // more is accepted than RFC 3339, here and in package time
		}
		want, err := time.Parse(time.RFC3339Nano, s)
		if err == nil && (want.Year() <= minYear || want.Year() >= maxYear) {
			return
		}
		if ok != (err == nil) || ok && got != want.UnixNano() {
			t.Fatalf("%q: %d, %t; want %d, error %v", s, got, ok, want.UnixNano(), err)
		}
	})
}

func FuzzIP(f *testing.F) {
	for _, s := range []string{"198.51.100.7", "2001:db8::7", "::", "::1", "1::", "::ffff:1.2.3.4", "1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:1.2.3.4", "01.2.3.4", "1.2.3", "AWS Internal", "::1:2:3:4:5:6:7:8", "fe80::1%eth0", "1::2::3", ":::", "12345::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		addr, err := netip.ParseAddr(s)
		want := err == nil && addr.Zone() == ""
		if got := isIP([]byte(s)); got != want {
			t.Fatalf("isIP(%q) = %t, netip says %t", s, got, want)
		}
	})
}
