package match_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/event"
)

// FuzzRecord matches whatever decodes with a rule of every kind and with the
// reference, and observes it.
func FuzzRecord(f *testing.F) {
	f.Add(dullRecord)
	f.Add(trail("s3", "put", `,"x":"a\u007azb","userAgent":"CURL/7","requestParameters":{"n":3}`))
	f.Add(trail("www.google.com", "x", `,"tags":[["one"],"FOUR"],"sourceIPAddress":"::ffff:10.1.1.1"`))
	f.Add(trail("s", "n", `,"x":[[],{},null,"\ud800"],"userIdentity":{"arn":["ARN:x"]}`))
	set := everyKind(f)
	rules := reference(f, set, refLike)
	m := match.New(set)
	d := event.NewDecoder()
	f.Fuzz(func(t *testing.T, record []byte) {
		var ev event.Event
		if d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: record}) != nil {
			return
		}
		doc, err := decodeOrdered(record)
		if err != nil {
			t.Fatalf("decoded what encoding/json refuses: %v", err)
		}
		o := doc.(object)
		if hasDots(o) || slices.ContainsFunc(o, func(m member) bool { return m.key == "message" }) {
			return // a record within a record, or a key that reads as a path
		}
		var got []string
		for _, id := range matched(set, m, &ev) {
			if !strings.HasPrefix(id, "id-n") { // on attributes, which the reference does not know
				got = append(got, id)
			}
		}
		var want []string
		for _, id := range referenceMatched(rules, doc) {
			if !strings.HasPrefix(id, "id-n") {
				want = append(want, id)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("matched %v, reference %v", got, want)
		}
	})
}

func hasDots(v any) bool {
	switch v := v.(type) {
	case object:
		for _, m := range v {
			if strings.Contains(m.key, ".") || hasDots(m.value) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, hasDots)
	}
	return false
}
