package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/bench"
)

func TestBenchPrints(t *testing.T) {
	var out, errs bytes.Buffer
	if code := Main(t.Context(), []string{"bench", "--keys", "2000", "--format", "json"}, &Streams{In: strings.NewReader(""), Out: &out, Err: &errs}); code != 0 {
		t.Fatalf("exit status %d: %s", code, &errs)
	}
	var r bench.KeysReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Keys != 2000 {
		t.Errorf("%v, %d keys in %s", err, r.Keys, &out)
	}
	if errs.Len() > 0 {
		t.Errorf("nobody looks, and it shows %q", &errs)
	}
}

func TestBenchRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"--events", "5"},
		{"--keys", "-1"},
		{"--format", "xml"},
		{"--rate", "-3"},
		{"--rules", "/no/such/directory"},
	} {
		var out, errs bytes.Buffer
		if code := Main(t.Context(), append([]string{"bench"}, args...), &Streams{In: strings.NewReader(""), Out: &out, Err: &errs}); code == 0 || errs.Len() == 0 {
			t.Errorf("%v: exit status %d, %q", args, code, &errs)
		}
	}
}
