package ingest_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/ingest"
)

// split reads all of r. A piece that is no record is written "!reason:data".
func split(t testing.TB, r io.Reader, o ingest.SplitOptions) []string {
	t.Helper()
	s := ingest.NewSplitter(r, o)
	var got []string
	for {
		rec, err := s.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatalf("after %d records: %v", len(got), err)
		}
		if rec.Line != int64(len(got)+1) {
			t.Fatalf("record %d is numbered %d", len(got)+1, rec.Line)
		}
		got = append(got, show(rec))
	}
}

func show(rec ingest.Record) string {
	if rec.Err == nil {
		return string(rec.Data)
	}
	var e *ingest.SplitError
	if !errors.As(rec.Err, &e) {
		return fmt.Sprintf("error of type %T", rec.Err)
	}
	return "!" + string(e.Reason) + ":" + string(rec.Data)
}

func zip(parts ...string) string {
	var b bytes.Buffer
	for _, p := range parts {
		w := gzip.NewWriter(&b)
		io.WriteString(w, p)
		w.Close()
	}
	return b.String()
}

func TestSplit(t *testing.T) {
	const head = `"messageType":"DATA_MESSAGE","owner":"1","logGroup":"/g","logStream":"s","subscriptionFilters":["f"]`
	event := func(id, msg string) string {
		return `{"owner":"1","logGroup":"/g","logStream":"s","id":"` + id + `","timestamp":5,"message":"` + msg + `"}`
	}
	tests := []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"blank", " \n\r\n\t\n", nil},
		{"lines", "{\"a\":1}\n{\"a\":2}\r\n\n{\"a\":3}", []string{`{"a":1}`, `{"a":2}`, `{"a":3}`}},
		{"byte order mark", "\xef\xbb\xbf{\"a\":1}\n", []string{`{"a":1}`}},
		{"back to back", `{"a":1}{"b":"}{"} {"c":[{}]}`, []string{`{"a":1}`, `{"b":"}{"}`, `{"c":[{}]}`}},
		{"pretty", "{\n  \"a\": {\n    \"b\": [1,\n2]\n  }\n}\n{\n}", []string{"{\n  \"a\": {\n    \"b\": [1,\n2]\n  }\n}", "{\n}"}},
		{"escapes", `{"a":"\"}\\"}` + "\n" + `{"b":1}`, []string{`{"a":"\"}\\"}`, `{"b":1}`}},
		{"records", `{"Records":[{"a":1},{"a":2}]}`, []string{`{"a":1}`, `{"a":2}`}},
		{"records pretty", "{\n\"Records\" : [\n {\"a\":1} ,\n {\"a\":2}\n ]\n}\n{\"b\":1}", []string{`{"a":1}`, `{"a":2}`, `{"b":1}`}},
		{"records late, and more fields", `{"v":{"Records":[1]},"Records":[{"a":1}],"x":[{}]}{"b":1}`, []string{`{"a":1}`, `{"b":1}`}},
		{"records twice", `{"Records":[{"a":1}],"Records":[{"a":2}]}`, []string{`{"a":1}`, `{"a":2}`}},
		{"records that are none", `{"Records":5}`, []string{`{"Records":5}`}},
		{"records in a value", `{"a":"Records","b":{"Records":[{}]}}`, []string{`{"a":"Records","b":{"Records":[{}]}}`}},
		{"empty records", `{"Records":[]}` + "\n" + `{"a":1}`, []string{`{"a":1}`}},
		{"array", "[{\"a\":1},\n{\"a\":2}]\n{\"b\":1}", []string{`{"a":1}`, `{"a":2}`, `{"b":1}`}},
		{"array with others", `[{"a":1},5,[2],"x",{"a":2}]`, []string{`{"a":1}`, `!unsplittable:5`, `!unsplittable:[2]`, `!unsplittable:"x"`, `{"a":2}`}},
		{"commas between lines", "{\"a\":1},\n{\"a\":2},\n]", []string{`{"a":1}`, `{"a":2}`}},
		{"text", "START RequestId: 1 Version: $LATEST\r\n[INFO]\tx {\n  at y\n{ a: 1,\n{x", []string{"START RequestId: 1 Version: $LATEST", "[INFO]\tx {", "  at y", "{ a: 1,", "{x"}},
		{"text and JSON", "INIT\n{\"a\":1}\nEND\n", []string{"INIT", `{"a":1}`, "END"}},
		{"JSON then text", `{"a":1} tail` + "\n" + `{"b":1}`, []string{`{"a":1}`, ` tail`, `{"b":1}`}},
		{"envelope", `{` + head + `,"logEvents":[{"id":"1","timestamp":5,"message":"x"},{"message":"y","id":77,"timestamp":5,"extra":[1]}]}`, []string{event("1", "x"), event("77", "y")}},
		{"envelope, events first", `{"logEvents":[{"id":"1","timestamp":5,"message":"x"}],` + head + "}\n{\"a\":1}", []string{event("1", "x"), `{"a":1}`}},
		{"envelopes back to back", `{` + head + `,"logEvents":[{"id":"1","timestamp":5,"message":"x"}]}{` + head + `,"logEvents":[{"id":"2","timestamp":5,"message":"y"}]}`, []string{event("1", "x"), event("2", "y")}},
		{"envelope, broken event", `{` + head + `,"logEvents":[{"id":"1","timestamp":5},{"id":"2","id":"3","timestamp":5,"message":"x"},{"id":"4","timestamp":5,"message":"y"}]}`, []string{`!unsplittable:{"id":"1","timestamp":5}`, `!unsplittable:{"id":"2","id":"3","timestamp":5,"message":"x"}`, event("4", "y")}},
		{"envelope with two owners", `{"owner":"2",` + head + `,"logEvents":[{"id":"1","timestamp":5,"message":"x"}]}`, []string{`!unsplittable:{"owner":"2",` + head + `,"logEvents":[{"id":"1","timestamp":5,"message":"x"}]}`}},
		{"control message", `{"messageType":"CONTROL_MESSAGE","owner":"1","logGroup":"","logStream":"","logEvents":[{"id":"","timestamp":1,"message":"CWL CONTROL MESSAGE: checking"}]}` + "\n{\"a\":1}", []string{`{"a":1}`}},
		{"then records after an envelope", `{` + head + `,"logEvents":[]}{"Records":[{"a":1}]}[{"id":1}]`, []string{`{"a":1}`, `{"id":1}`}},
		{"cut off line", "{\"a\":\"x\n{\"b\":1}\n", []string{"!unsplittable:{\"a\":\"x\n", `{"b":1}`}},
		{"cut off behind a colon", "{\"a\":\n{\"b\":1}\n{\"c\":1}\n", []string{"!unsplittable:{\"a\":\n", `{"b":1}`, `{"c":1}`}},
		{"cut off behind a comma", "{\"a\":1,\n{\"b\":1}\n", []string{"!unsplittable:{\"a\":1,\n", `{"b":1}`}},
		{"cut off in an array", "{\"a\":[1\n{\"b\":1}\n", []string{"!unsplittable:{\"a\":[1\n", `{"b":1}`}},
		{"cut off before text", "{\"a\":1\nSTART\nEND", []string{"!truncated:{\"a\":1\n", "START", "END"}},
		{"wrong bracket", "{\"a\":]}\n{\"b\":1}", []string{"!unsplittable:{\"a\":]}\n", `{"b":1}`}},
		{"end in an object", `{"a":1}` + "\n" + `{"b":`, []string{`{"a":1}`, `!truncated:{"b":`}},
		{"end in records", `{"Records":[{"a":1},{"b"`, []string{`{"a":1}`, `!truncated:{"b"`}},
		{"end between records", `{"Records":[{"a":1},`, []string{`{"a":1}`, `!truncated:`}},
		{"records cut off before lines", "{\"Records\":[{\"a\":1}\nSTART\n{\"b\":1}", []string{`{"a":1}`, "START", `{"b":1}`}},
		{"gzip", zip("{\"a\":1}\n", "{\"b\":1}\n"), []string{`{"a":1}`, `{"b":1}`}},
		{"gzip in gzip", zip(zip("{\"a\":1}\n")), []string{`{"a":1}`}},
		{"gzip cut off", zip("{\"a\":1}\n")[:20], []string{"!bad_gzip:"}},
		{"gzip header only", "\x1f\x8b\x08", []string{"!bad_gzip:"}},
		{"gzip with a tail", zip("{\"a\":1}\n") + "tail", []string{`{"a":1}`, "!bad_gzip:"}},
		{"binary", "\x00\x01\xff\n{\"a\":1}", []string{"\x00\x01\xff", `{"a":1}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := split(t, strings.NewReader(tt.in), ingest.SplitOptions{})
			if tt.name == "gzip cut off" { // how much gets through is the decompressor's affair
				got = got[len(got)-1:]
				got[0] = got[0][:len("!bad_gzip:")]
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("records (-want +got):\n%s", d)
			}
			slow := split(t, iotest.OneByteReader(strings.NewReader(tt.in)), ingest.SplitOptions{})
			if tt.name != "gzip cut off" && !cmp.Equal(tt.want, slow) {
				t.Errorf("byte by byte (-want +got):\n%s", cmp.Diff(tt.want, slow))
			}
		})
	}
}

func TestSplitTooLarge(t *testing.T) {
	long := strings.Repeat("x", 300_000)
	o := ingest.SplitOptions{MaxRecord: 100_000, Truncate: 10}
	pretty := "{\"a\":[\n" + strings.Repeat("\"yyyyyyyyyyyyyyyyyyyy\",\n", 20_000) + "1]}"
	tests := []struct {
		name, in string
		want     []string
		piece    string // the piece hashed
	}{
		{"line", `{"a":"` + long + `"}` + "\n" + `{"b":1}`, []string{`!too_large:{"a":"xxxx`, `{"b":1}`}, `{"a":"` + long + `"}`},
		{"back to back", `{"a":"` + long + `"}{"b":1}`, []string{`!too_large:{"a":"xxxx`, `{"b":1}`}, `{"a":"` + long + `"}`},
		{"text", long + "\n{\"b\":1}", []string{`!too_large:xxxxxxxxxx`, `{"b":1}`}, long + "\n"},
		{"element", `{"Records":[{"a":1},{"a":"` + long + `"},{"b":1}]}`, []string{`{"a":1}`, `!too_large:{"a":"xxxx`, `{"b":1}`}, `{"a":"` + long + `"}`},
		{"pretty", pretty + "\n{\"b\":1}", []string{"!too_large:{\"a\":[\n\"yy", `{"b":1}`}, pretty},
		{"cut off", `{"a":"` + long + "\n{\"b\":1}", []string{`!too_large:{"a":"xxxx`, `{"b":1}`}, `{"a":"` + long + "\n"},
		{"broken", `{"a":"` + long + "\"]} and so on\n{\"b\":1}", []string{`!too_large:{"a":"xxxx`, `{"b":1}`}, `{"a":"` + long + "\"]} and so on\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, split(t, strings.NewReader(tt.in), o)); d != "" {
				t.Fatalf("records (-want +got):\n%s", d)
			}
			s := ingest.NewSplitter(strings.NewReader(tt.in), o)
			for {
				rec, err := s.Next()
				if err != nil {
					t.Fatal(err)
				}
				if rec.Err == nil {
					continue
				}
				sum := sha256.Sum256([]byte(tt.piece))
				want := &ingest.SplitError{Reason: ingest.ReasonTooLarge, Size: int64(len(tt.piece)), SHA256: hex.EncodeToString(sum[:])}
				if d := cmp.Diff(error(want), rec.Err); d != "" {
					t.Errorf("error (-want +got):\n%s", d)
				}
				return
			}
		})
	}
}

func TestSplitExactlyAsLongAsAllowed(t *testing.T) {
	rec := `{"a":"` + strings.Repeat("x", 92) + `"}`
	for _, in := range []string{rec, rec + "\n", "[" + rec + "]", strings.Repeat("x", 100) + "\n", strings.Repeat("x", 100)} {
		got := split(t, strings.NewReader(in), ingest.SplitOptions{MaxRecord: 100})
		if len(got) != 1 || len(got[0]) != 100 {
			t.Errorf("%.20s…: got %q", in, got)
		}
		if got := split(t, strings.NewReader(in), ingest.SplitOptions{MaxRecord: 99}); !strings.HasPrefix(got[0], "!too_large") {
			t.Errorf("%.20s…: got %q", in, got)
		}
	}
}

func TestSplitTotal(t *testing.T) {
	in := zip(strings.Repeat("{\"a\":1}\n", 1000))
	s := ingest.NewSplitter(strings.NewReader(in), ingest.SplitOptions{MaxTotal: 804})
	n := 0
	for {
		_, err := s.Next()
		if err == nil {
			n++
			continue
		}
		if !errors.Is(err, ingest.ErrTotal) {
			t.Fatalf("error %v", err)
		}
		break
	}
	if n != 100 {
		t.Errorf("%d records before the bound, want 100", n)
	}
	if _, err := s.Next(); !errors.Is(err, ingest.ErrTotal) {
		t.Errorf("asked again: %v", err)
	}
	if got := split(t, strings.NewReader(in), ingest.SplitOptions{MaxTotal: 8000}); len(got) != 1000 {
		t.Errorf("%d records within the bound", len(got))
	}
}

// Who bounds memory is asked before the buffer grows, and can say no.
func TestBufferIsAskedFor(t *testing.T) {
	var asked []int
	no := errors.New("no")
	small, large := `{"a":1}`, `{"a":"`+strings.Repeat("x", 40<<10)+`"}`
	for name, o := range map[string]ingest.SplitOptions{
		"granted": {Buffer: func(size int) error {
			asked = append(asked, size)
			return nil
		}},
		"refused": {Buffer: func(size int) error {
			if size > 16<<10 {
				return no
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := ingest.NewSplitter(strings.NewReader(small+"\n"+large), o)
			if rec, err := s.Next(); err != nil || string(rec.Data) != small {
				t.Fatalf("first: %q, %v", rec.Data, err)
			}
			rec, err := s.Next()
			if name == "refused" {
				if !errors.Is(err, no) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || string(rec.Data) != large {
				t.Errorf("second: %d bytes, %v", len(rec.Data), err)
			}
			if !slices.Equal(asked, []int{16 << 10, 32 << 10, 64 << 10}) {
				t.Errorf("asked for %v", asked)
			}
		})
	}
	s := ingest.NewSplitter(strings.NewReader(""), ingest.SplitOptions{Buffer: func(int) error { return no }})
	if _, err := s.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("without input: %v", err)
	}
}

func TestSplitReaderFails(t *testing.T) {
	down := errors.New("connection reset")
	for _, in := range []string{"{\"a\":1}\n{\"b\":", "{\"a\":1}\ntext", zip("{\"a\":1}\n", "x")[:32]} {
		s := ingest.NewSplitter(io.MultiReader(strings.NewReader(in), iotest.ErrReader(down)), ingest.SplitOptions{})
		if rec, err := s.Next(); err != nil || string(rec.Data) != `{"a":1}` {
			t.Fatalf("first record %q, %v", rec.Data, err)
		}
		if rec, err := s.Next(); !errors.Is(err, down) {
			t.Errorf("%q: got %q, %v", in, show(rec), err)
		}
	}
}

// TestSplitHostile feeds what would be scanned over and over by a splitter that
// starts anew behind each failure.
func TestSplitHostile(t *testing.T) {
	in := strings.Repeat(strings.Repeat("{\"a\":[", 40)+"\n", 20_000)
	got := split(t, strings.NewReader(in), ingest.SplitOptions{})
	if len(got) != 20_000 {
		t.Errorf("%d pieces, want one a line", len(got))
	}
}

// TestSplitAnyShape writes the same records in every shape, in a mixture, and
// expects the same records back.
func TestSplitAnyShape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in strings.Builder
		var want []string
		for range rapid.IntRange(0, 6).Draw(t, "documents") {
			recs := rapid.SliceOfN(rapid.Custom(drawRecord), 0, 5).Draw(t, "records")
			nl := rapid.SampledFrom([]string{"", "\n", "\r\n", " ", "\n\n"}).Draw(t, "break")
			switch rapid.IntRange(0, 4).Draw(t, "shape") {
			case 0:
				for _, r := range recs {
					in.WriteString(r + nl)
				}
			case 1:
				in.WriteString(`{"Records":[` + strings.Join(recs, ","+nl) + "]}" + nl)
			case 2:
				in.WriteString(`{"x":[{"y":1}],` + nl + `"Records": [` + nl + strings.Join(recs, nl+",") + `],"z":{}}` + nl)
			case 3:
				if len(recs) > 0 {
					in.WriteString(`[` + strings.Join(recs, ",") + nl + "]" + nl)
				}
			case 4:
				for i, r := range recs {
					var b bytes.Buffer
					if err := json.Indent(&b, []byte(r), "", "  "); err != nil {
						t.Fatal(err)
					}
					recs[i] = b.String()
					in.WriteString(recs[i] + nl)
				}
				want = append(want, recs...)
				continue
			}
			if in.Len() > 0 {
				want = append(want, recs...)
			}
		}
		doc := in.String()
		if rapid.Bool().Draw(t, "gzip") {
			doc = zip(doc)
		}
		var r io.Reader = strings.NewReader(doc)
		if rapid.Bool().Draw(t, "slow") {
			r = iotest.OneByteReader(r)
		}
		s := ingest.NewSplitter(r, ingest.SplitOptions{})
		for i, w := range want {
			rec, err := s.Next()
			if err != nil || show(rec) != w {
				t.Fatalf("record %d of %q: got %q, %v, want %q", i+1, in.String(), show(rec), err, w)
			}
		}
		if rec, err := s.Next(); err != io.EOF {
			t.Fatalf("one more record of %q: %q, %v", in.String(), show(rec), err)
		}
	})
}

func drawRecord(t *rapid.T) string {
	m := rapid.MapOfN(rapid.StringMatching(`[a-z"\\{}\[\]:,]{1,5}`), rapid.OneOf(
		rapid.Just[any](nil), rapid.Custom(func(t *rapid.T) any { return rapid.String().Draw(t, "text") }),
		rapid.Custom(func(t *rapid.T) any {
			return []any{rapid.Int().Draw(t, "n"), map[string]any{"Records": []int{1}}, "}{"}
		}),
	), 0, 4).Draw(t, "record")
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{
		"", "{\"a\":1}\n{\"b\":\"x", `{"Records":[{"a":1},{"b":[2]}],"c":1}`, "[{\"a\":1}\n,2]", "text\n{ a\n}", zip("{\"a\":1}\n") + "x",
		`{"messageType":"DATA_MESSAGE","owner":"1","logGroup":"g","logStream":"s","logEvents":[{"id":1,"timestamp":2,"message":"x"}]}`,
		`{"logEvents":[{"id":1,"timestamp":2,"message":"x"}],"messageType":"DATA_MESSAGE"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		o := ingest.SplitOptions{MaxRecord: 64, Truncate: 16, MaxTotal: 1 << 20}
		read := func(r io.Reader) (all []string) {
			s := ingest.NewSplitter(r, o)
			for range 2<<20 + 2 {
				rec, err := s.Next()
				if err != nil {
					if err != io.EOF && !errors.Is(err, ingest.ErrTotal) {
						t.Fatalf("error %v", err)
					}
					return all
				}
				if len(rec.Data) > o.MaxRecord || rec.Err != nil && len(rec.Data) > o.Truncate {
					t.Fatalf("record of %d bytes", len(rec.Data))
				}
				all = append(all, show(rec))
			}
			t.Fatal("no end")
			return nil
		}
		fast := read(bytes.NewReader(in))
		slow := read(iotest.OneByteReader(bytes.NewReader(in)))
		if d := cmp.Diff(fast, slow); d != "" {
			t.Fatalf("the size of reads matters (-whole +byte by byte):\n%s", d)
		}
	})
}

func BenchmarkSplit(b *testing.B) {
	rec := `{"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","arn":"arn:aws:sts::111122223333:assumed-role/deployer/ci"},"eventTime":"2026-03-02T09:14:07Z","message":"` + strings.Repeat("x y ", 200) + `"}`
	for name, doc := range map[string]string{
		"lines":   strings.Repeat(rec+"\n", 1000),
		"records": `{"Records":[` + strings.Repeat(rec+",", 999) + rec + "]}",
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				s := ingest.NewSplitter(strings.NewReader(doc), ingest.SplitOptions{})
				n := 0
				for {
					if _, err := s.Next(); err != nil {
						break
					}
					n++
				}
				if n != 1000 {
					b.Fatalf("%d records", n)
				}
			}
		})
	}
}
