package simulate

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// lines is a format for tests.
type lines struct{}

func (lines) begin(b []byte) []byte             { return append(b, "begin\n"...) }
func (lines) append(b []byte, r *record) []byte { return append(append(b, r.data...), '\n') }
func (lines) end(b []byte) []byte               { return append(b, "end\n"...) }

func unzip(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriter(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(lines{})
	sizes := []int{0, 1, jobRecords, 3*jobRecords + 7, 20_000}
	for i, n := range sizes {
		if err := w.create(filepath.Join(dir, fmt.Sprint(i%2), fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		for k := range n {
			if err := w.put(record{data: fmt.Sprint(i, " ", k)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	for i, n := range sizes {
		var want strings.Builder
		want.WriteString("begin\n")
		for k := range n {
			fmt.Fprintln(&want, i, k)
		}
		want.WriteString("end\n")
		if got := unzip(t, filepath.Join(dir, fmt.Sprint(i%2), fmt.Sprint(i))); got != want.String() {
			t.Errorf("file of %d records: %d bytes, want %d", n, len(got), want.Len())
		}
	}
}

// TestWriterFails wants a file that cannot be written to end the run, with one error.
func TestWriterFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWriter(lines{})
	if err := w.create(path); err != nil {
		t.Fatal(err)
	}
	var err error
	for n := 0; err == nil; n++ {
		if n > 100*jobRecords {
			t.Fatal("it goes on for ever")
		}
		err = w.put(record{data: "x"})
	}
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
	if err := w.close(); err != nil && !errors.Is(err, os.ErrExist) {
		t.Errorf("closed with %v", err)
	}
	w = newWriter(lines{})
	if err := w.create(path); err != nil {
		t.Fatal(err)
	}
	if err := w.close(); !errors.Is(err, os.ErrExist) {
		t.Errorf("closed with %v, want that the file is there", err)
	}
}

func TestQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := queue[record]{before: beforeRecord}
		var want []record
		for n := range rapid.IntRange(0, 200).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "push") > 0 {
				r := record{t: rapid.Int64Range(0, 20).Draw(t, "t"), seq: n}
				q.push(r)
				want = append(want, r)
			} else if len(want) > 0 {
				i := 0
				for k := range want {
					if beforeRecord(&want[k], &want[i]) {
						i = k
					}
				}
				top := *q.top()
				if got := q.pop(); got != want[i] || top != got {
					t.Fatalf("top %v, popped %v, want %v", top, got, want[i])
				}
				want = slices.Delete(want, i, i+1)
			}
			if q.len() != len(want) {
				t.Fatalf("length %d, want %d", q.len(), len(want))
			}
		}
	})
}
