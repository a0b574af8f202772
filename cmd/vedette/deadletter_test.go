package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// letters is a broker with dead letters on it, and a configuration file that
// names it.
type letters struct {
	t      *testing.T
	client *stream.Client
	config string
}

func newLetters(t *testing.T) *letters {
	t.Helper()
	broker, err := devbroker.Start(devbroker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	client, err := stream.NewClient(stream.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.EnsureTopics(t.Context(), stream.Topic{Name: stream.TopicLogs, Partitions: 2}, stream.Topic{Name: stream.TopicDeadLetter, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	l := &letters{t: t, client: client, config: filepath.Join(t.TempDir(), "vedette.yaml")}
	yaml := fmt.Sprintf("postgres: {dsn: 'postgres://localhost/x'}\nkafka: {brokers: ['%s'], logs_partitions: 2}\n", broker.Addr())
	if err := os.WriteFile(l.config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// bury writes dead letters to a partition, stamped at.
func (l *letters) bury(partition int32, at time.Time, ds ...stream.DeadLetter) {
	l.t.Helper()
	p, err := l.client.NewProducer(stream.ProducerOptions{Topic: stream.TopicDeadLetter, Now: func() time.Time { return at }})
	for i := range ds {
		if err == nil {
			_, err = p.Produce(l.t.Context(), partition, []stream.Record{stream.EncodeDeadLetter(&ds[i])})
		}
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// run runs a deadletter command.
func (l *letters) run(command string, args ...string) (code int, stdout, stderr string) {
	l.t.Helper()
	return vedette(l.t, append([]string{"deadletter", command, "--config", l.config}, args...)...)
}

func vedette(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = Main(ctx, args, &Streams{In: strings.NewReader(""), Out: &out, Err: &err})
	return code, out.String(), err.String()
}

// logs are the records on vedette.logs, all partitions together.
func (l *letters) logs() []stream.LogMessage {
	l.t.Helper()
	var all []stream.LogMessage
	for p := range int32(2) {
		_, end, err := l.client.Bounds(l.t.Context(), stream.TopicLogs, p)
		if err != nil {
			l.t.Fatal(err)
		}
		r := l.client.NewReader(stream.ReaderOptions{Topic: stream.TopicLogs, Partition: p})
		for r.Next() < end {
			b, err := r.Read(l.t.Context())
			if err != nil {
				l.t.Fatal(err)
			}
			for i := range b.Records {
				m, err := stream.DecodeLog(&b.Records[i], nil)
				if err != nil {
					l.t.Fatal(err)
				}
				all = append(all, m)
			}
		}
	}
	return all
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// stood is when the examples were buried.
var stood = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// fill buries the examples: 0/0 to 0/2 and 1/0, of which the newest is 1/0.
func (l *letters) fill() {
	l.bury(0, stood,
		stream.DeadLetter{
			Reason: "syntax", Detail: "offset 9: a colon is missing", Tenant: "default", Type: "aws.cloudtrail", Origin: "trail",
			Partition: 1, Offset: 42, Value: []byte(`{"broken" 1}`),
		},
		stream.DeadLetter{
			Reason: "too_long", Detail: "cut at 8 bytes", Tenant: "default", Origin: "files", Partition: -1, Offset: -1,
			SHA256: hash("the whole of it"), Value: []byte("the whol"),
		})
	l.bury(0, stood.Add(time.Hour), stream.DeadLetter{
		Reason: "utf8", Detail: "evil\x1b[2J\u202etitle", Tenant: "default", Type: "aws.lambda", Origin: "files", Partition: 0, Offset: 7,
		Value: []byte{0xff, 0xfe, 0x1b, 'x'},
	})
	l.bury(1, stood.Add(2*time.Hour), stream.DeadLetter{
		Reason: "syntax", Detail: "unexpected end", Tenant: "other", Type: "aws.apigateway", Origin: "push", Partition: -1, Offset: -1,
		SHA256: hash("line\n\x1b[31mred"), Value: []byte("line\n\x1b[31mred"),
	})
}

func TestDeadLetterList(t *testing.T) {
	l := newLetters(t)
	if code, out, errs := l.run("list"); code != 0 || out != "" || errs != "no dead letters\n" {
		t.Errorf("of none: status %d, %q, %q", code, out, errs)
	}
	l.fill()
	const (
		head  = "ID   STAMP                 REASON    TYPE            ORIGIN  SIZE  STOOD AT  DETAIL\n"
		last  = "1/0  2026-03-02T12:00:00Z  syntax    aws.apigateway  push    13    -         unexpected end\n"
		third = "0/2  2026-03-02T11:00:00Z  utf8      aws.lambda      files   4     0/7       evil\ufffd[2J\ufffdtitle\n"
		cut   = "0/1  2026-03-02T10:00:00Z  too_long  -               files   8+    -         cut at 8 bytes\n"
		first = "0/0  2026-03-02T10:00:00Z  syntax    aws.cloudtrail  trail   12    1/42      offset 9: a colon is missing\n"
	)
	for _, tt := range []struct {
		args []string
		want string // rows, in the order and the widths of the whole list
		more bool
	}{
		{nil, last + third + cut + first, false},
		{[]string{"--limit", "2"}, last + third, true},
		{[]string{"--limit", "4"}, last + third + cut + first, false},
		{[]string{"--reason", "syntax"}, last + first, false},
		{[]string{"--origin", "files"}, third + cut, false},
		{[]string{"--type", "aws.cloudtrail"}, first, false},
		{[]string{"--origin", "files", "--reason", "utf8"}, third, false},
		{[]string{"--since", "2026-03-02T11:00:00Z"}, last + third, false},
		{[]string{"--since", "876000h"}, last + third + cut + first, false},
		{[]string{"--until", "2026-03-02T11:00:00Z"}, cut + first, false},
		{[]string{"--until", "2026-03-02T11:00:00Z", "--limit", "1"}, cut, true},
		{[]string{"--since", "2026-03-02T10:00:00.001Z", "--until", "2026-03-02T12:00:00Z"}, third, false},
		{[]string{"--until", "1h", "--reason", "syntax"}, last + first, false},
	} {
		code, out, errs := l.run("list", tt.args...)
		if code != 0 || strings.Contains(errs, "there are more") != tt.more {
			t.Errorf("%v: status %d, %q", tt.args, code, errs)
		}
		if diff := cmp.Diff(words(head+tt.want), words(out)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.args, diff)
		}
		if len(tt.args) == 0 && out != head+tt.want {
			t.Errorf("got\n%s\nwant\n%s", out, head+tt.want)
		}
	}
	if code, out, errs := l.run("list", "--reason", "none"); code != 0 || out != "" || errs != "no dead letters\n" {
		t.Errorf("none matches: status %d, %q, %q", code, out, errs)
	}

	code, out, _ := l.run("list", "--format", "json", "--limit", "3")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 3 {
		t.Fatalf("status %d, %d lines, want 3:\n%s", code, len(lines), out)
	}
	want := `{"id":"0/1","stamp":"2026-03-02T10:00:00Z","reason":"too_long","detail":"cut at 8 bytes","tenant":"default","origin":"files",` +
		`"size":8,"truncated":true,"sha256":"` + hash("the whole of it") + `"}`
	if lines[2] != want {
		t.Errorf("got  %s\nwant %s", lines[2], want)
	}
	if !strings.Contains(lines[1], `"stood_at":"0/7"`) || strings.Contains(out, "\x1b") {
		t.Errorf("got %s", out)
	}
}

// words is a table without its widths.
func words(table string) []string {
	var rows []string
	for line := range strings.Lines(table) {
		rows = append(rows, strings.Join(strings.Fields(line), " "))
	}
	return rows
}

// TestDeadLetterListGoesBack: a filter is met however far back it has to look.
func TestDeadLetterListGoesBack(t *testing.T) {
	l := newLetters(t)
	l.bury(0, stood, stream.DeadLetter{Reason: "rare", Partition: -1, Offset: -1, Value: []byte("x")})
	p, err := l.client.NewProducer(stream.ProducerOptions{Topic: stream.TopicDeadLetter})
	if err != nil {
		t.Fatal(err)
	}
	many := make([]stream.Record, 3*chunk)
	for i := range many {
		many[i] = stream.EncodeDeadLetter(&stream.DeadLetter{Reason: "common", Partition: -1, Offset: -1, Value: []byte("y")})
	}
	if _, err := p.Produce(t.Context(), 0, many); err != nil {
		t.Fatal(err)
	}
	// What is too new does not end the search.
	if code, out, _ := l.run("list", "--until", "2026-03-02T10:00:01Z", "--since", "2026-03-02T10:00:00Z"); code != 0 || !strings.Contains(out, "0/0 ") || strings.Count(out, "\n") != 2 {
		t.Errorf("status %d:\n%s", code, out)
	}
	if code, out, _ := l.run("list", "--reason", "rare"); code != 0 || !strings.Contains(out, "0/0 ") || strings.Count(out, "\n") != 2 {
		t.Errorf("status %d:\n%s", code, out)
	}
	code, out, _ := l.run("list", "--limit", "700")
	rows := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(rows) != 701 || !strings.HasPrefix(rows[1], "0/1500 ") || !strings.HasPrefix(rows[700], "0/801 ") {
		t.Errorf("status %d, %d rows, from %.10q to %.10q", code, len(rows), rows[1], rows[len(rows)-1])
	}
}

func TestDeadLetterShow(t *testing.T) {
	l := newLetters(t)
	l.fill()
	code, out, errs := l.run("show", "1/0")
	want := `id        1/0
stamp     2026-03-02T12:00:00Z
reason    syntax
detail    unexpected end
tenant    other
type      aws.apigateway
origin    push
stood at  never got to vedette.logs
size      13 bytes
sha256    ` + hash("line\n\x1b[31mred") + `

line
` + "\ufffd[31mred\n"
	if code != 0 || out != want {
		t.Errorf("status %d, %q; -want +got:\n%s", code, errs, cmp.Diff(want, out))
	}
	if _, out, _ := l.run("show", "0/2"); !strings.Contains(out, "stood at  vedette.logs 0/7\n") ||
		!strings.Contains(out, "00000000  ff fe 1b 78") || strings.Contains(out, "\x1b") {
		t.Errorf("bytes that are no text:\n%s", out)
	}
	if _, out, _ := l.run("show", "0/1"); !strings.Contains(out, "size      8 bytes, the beginning of a longer record\n") {
		t.Errorf("truncated:\n%s", out)
	}
	if code, out, _ := l.run("show", "--raw", "0/2"); code != 0 || out != "\xff\xfe\x1bx" {
		t.Errorf("raw: status %d, %q", code, out)
	}
	var got struct {
		ID, Reason, Detail string
		Value              []byte
	}
	if _, out, _ := l.run("show", "--format", "json", "0/2"); json.Unmarshal([]byte(out), &got) != nil ||
		got.ID != "0/2" || string(got.Value) != "\xff\xfe\x1bx" || got.Detail != "evil\x1b[2J\u202etitle" {
		t.Errorf("json: %+v", got)
	}
	for _, id := range []string{"0/3", "1/99", "7/0"} {
		if code, _, errs := l.run("show", id); code != 1 || !strings.Contains(errs, "no such dead letter") {
			t.Errorf("%s: status %d, %q", id, code, errs)
		}
	}
}

func TestDeadLetterRetry(t *testing.T) {
	l := newLetters(t)
	l.fill()
	// Somebody else's message, and one that match could not tell for a record.
	p, err := l.client.NewProducer(stream.ProducerOptions{Topic: stream.TopicDeadLetter})
	if err == nil {
		_, err = p.Produce(t.Context(), 1, []stream.Record{{Value: []byte("hello")}})
	}
	if err != nil {
		t.Fatal(err)
	}
	l.bury(1, time.Now(), stream.DeadLetter{Reason: "message", Detail: `kind "future"`, Partition: 0, Offset: 8, Value: []byte("?")})

	if code, out, errs := l.run("retry", "--all", "--dry-run"); code != 1 || out != "3 would be appended again, 3 refused\n" ||
		!strings.Contains(errs, "0/1: refused: only the beginning") || !strings.Contains(errs, "1/1: refused: it was no log record") || !strings.Contains(errs, "1/2: refused") {
		t.Errorf("dry run: status %d, %q, %q", code, out, errs)
	}
	if got := l.logs(); len(got) > 0 {
		t.Fatalf("a dry run has written %d records", len(got))
	}

	if code, out, errs := l.run("retry", "1/0", "0/0"); code != 0 || out != "2 appended again, 0 refused\n" || errs != "" {
		t.Errorf("two: status %d, %q, %q", code, out, errs)
	}
	want := map[string]stream.LogMessage{
		`{"broken" 1}`:          {Tenant: "default", Type: "aws.cloudtrail", Origin: "trail"},
		"line\n\x1b[31mred":     {Tenant: "other", Type: "aws.apigateway", Origin: "push"},
		string("\xff\xfe\x1bx"): {Tenant: "default", Type: "aws.lambda", Origin: "files"},
	}
	check := func(n int) {
		t.Helper()
		got := l.logs()
		if len(got) != n {
			t.Fatalf("%d records on the log, want %d", len(got), n)
		}
		for _, m := range got {
			w, ok := want[string(m.Value)]
			if !ok || m.Kind != stream.KindRecord || m.Tenant != w.Tenant || m.Type != w.Type || m.Origin != w.Origin || time.Since(m.Stamp) > time.Minute {
				t.Errorf("on the log: %+v", m)
			}
		}
	}
	check(2)

	if code, out, errs := l.run("retry", "0/1", "0/2", "0/99"); code != 1 || out != "1 appended again, 2 refused\n" ||
		!strings.Contains(errs, "0/1: refused") || !strings.Contains(errs, "0/99: refused: there is none") {
		t.Errorf("some refused: status %d, %q, %q", code, out, errs)
	}
	check(3)
	if code, out, _ := l.run("retry", "--all", "--reason", "syntax", "--since", "2026-03-02T11:30:00Z"); code != 0 || out != "1 appended again, 0 refused\n" {
		t.Errorf("filtered: status %d, %q", code, out)
	}
	check(4)
	if code, out, _ := l.run("retry", "--all", "--until", "2026-03-02T12:00:00Z", "--since", "2026-03-02T11:00:00Z"); code != 0 || out != "1 appended again, 0 refused\n" {
		t.Errorf("between: status %d, %q", code, out)
	}
	check(5)
	if code, _, errs := l.run("retry", "--until", "1h", "0/0"); code != 2 || !strings.Contains(errs, "filters go with --all") {
		t.Errorf("until with an id: status %d, %q", code, errs)
	}
	check(5)
}

func TestDeadLetterRetryMany(t *testing.T) {
	l := newLetters(t)
	p, err := l.client.NewProducer(stream.ProducerOptions{Topic: stream.TopicDeadLetter})
	if err != nil {
		t.Fatal(err)
	}
	for part := range int32(2) {
		recs := make([]stream.Record, retryRecords)
		for i := range recs {
			recs[i] = stream.EncodeDeadLetter(&stream.DeadLetter{Reason: "syntax", Partition: -1, Offset: -1, Value: fmt.Appendf(nil, "%d-%d", part, i)})
		}
		recs = append(recs, recs[:10]...)
		if _, err := p.Produce(t.Context(), part, recs); err != nil {
			t.Fatal(err)
		}
	}
	if code, out, errs := l.run("retry", "--all"); code != 0 || out != "2020 appended again, 0 refused\n" {
		t.Fatalf("status %d, %q, %q", code, out, errs)
	}
	distinct := map[string]int{}
	for _, m := range l.logs() {
		distinct[string(m.Value)]++
	}
	if len(distinct) != 2*retryRecords || distinct["0-9"] != 2 || distinct["1-10"] != 1 {
		t.Errorf("%d distinct records on the log, want %d", len(distinct), 2*retryRecords)
	}
}

func TestDeadLetterAway(t *testing.T) {
	l := newLetters(t)
	config := filepath.Join(t.TempDir(), "away.yaml")
	if err := os.WriteFile(config, []byte("postgres: {dsn: 'postgres://localhost/x'}\nkafka: {brokers: ['127.0.0.1:1']}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.config = config
	for _, args := range [][]string{{"list"}, {"show", "0/0"}, {"retry", "--all"}} {
		if code, _, errs := l.run(args[0], args[1:]...); code != 1 || !strings.Contains(errs, "127.0.0.1:1") {
			t.Errorf("%v: status %d, %q", args, code, errs)
		}
	}
}
