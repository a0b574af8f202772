package file_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest/file"
)

// TestTypesOfAMixedFile: whatever stands beside a record in its file, it is taken
// for what it is by itself.
func TestTypesOfAMixedFile(t *testing.T) {
	wrapped := func(group, message string) string {
		return fmt.Sprintf(`{"owner":"1","logGroup":%q,"logStream":"s","id":"1","timestamp":1772445761512,"message":%q}`, group, message)
	}
	const (
		start    = "START RequestId: 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001 Version: $LATEST\n"
		platform = `{"time":"2026-03-02T10:02:41Z","type":"platform.start","record":{"requestId":"8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001","version":"1"}}`
		access   = `{"requestId":"r","extendedRequestId":"x","requestTimeEpoch":"1772445761512","httpMethod":"GET","resourcePath":"/a","path":"/a","status":"200"}`
	)
	records := []string{
		trail("a", 1),
		trail("b", 2),
		strings.Replace(trail("c", 3), `"eventName"`, `"other"`, 1),
		wrapped("/aws/lambda/f", trail("d", 4)),
		wrapped("/aws/lambda/f", start),
		wrapped("/aws/lambda/f", platform),
		wrapped("/aws/lambda/f", access),
		wrapped("/aws/lambda/f", `{"type":"platform.start","record":{`),
		wrapped("/aws/lambda/g", start),
		wrapped("/custom", start),
		wrapped("/custom", access),
		wrapped("/custom", `{"level":"info","message":"m","time":"2026-03-02T10:02:41Z","status":"200"}`),
		wrapped("/custom", `{"requestId":"r","level":"info"}`),
		wrapped("/custom", "nothing that is known"),
		wrapped("/aws/apigateway/a", access),
		strings.Replace(wrapped("/aws/lambda/f", start), `"message"`, `"note"`, 1),
		strings.Replace(wrapped("/aws/lambda/f", start), `"logStream":"s"`, `"logStream":5`, 1),
		access,
		platform,
		`{"neither":"this","nor":"that"}`,
		`{"eventVersion":"1.11","neither":"this"}`,
	}
	dec := event.NewDecoder()
	alone := func(rec string) string {
		var ev event.Event
		if err := dec.Decode(&ev, event.Record{Data: []byte(rec)}); err != nil {
			return err.Error()
		}
		return fmt.Sprint(ev.Type, " ", ev.Time, " ", string(ev.Attr(event.AttrUID)))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var lines []string
	for range 2000 {
		lines = append(lines, records[rng.IntN(len(records))])
	}
	path := write(t, filepath.Join(t.TempDir(), "mixed.jsonl"), strings.Join(lines, "\n")+"\n")
	m := file.NewMerger(file.MergeOptions{Inputs: []file.Input{input(path)}})
	defer m.Close()
	n := 0
	for {
		it, err := m.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || it.Err != nil {
			t.Fatal(err, it)
		}
		got := ""
		if it.Event == nil {
			got = it.DecodeErr.Error()
		} else {
			got = fmt.Sprint(it.Event.Type, " ", it.Event.Time, " ", string(it.Event.Attr(event.AttrUID)))
		}
		if want := alone(lines[n]); got != want {
			t.Fatalf("record %d, after %s\n%s\n got %s\nwant %s", n+1, lines[max(n-1, 0)], lines[n], got, want)
		}
		n++
	}
	if n != len(lines) {
		t.Errorf("%d records, want %d", n, len(lines))
	}
}
