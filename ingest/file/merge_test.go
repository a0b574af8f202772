package file_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest/file"
)

var epoch = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// trail is a CloudTrail record of a second.
func trail(id string, second int) string {
	return fmt.Sprintf(`{"eventVersion":"1.11","eventTime":%q,"eventSource":"sts.amazonaws.com","eventName":"GetCallerIdentity","eventID":%q}`,
		epoch.Add(time.Duration(second)*time.Second).Format(time.RFC3339), id)
}

func write(t testing.TB, path, content string) string {
	t.Helper()
	if strings.HasSuffix(path, ".gz") {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		io.WriteString(w, content)
		w.Close()
		content = b.String()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func input(path string) file.Input {
	return file.Input{Path: path, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
}

// merged reads all of m: file name, line, id.
func merged(t testing.TB, m *file.Merger, inputs []file.Input) []string {
	t.Helper()
	defer m.Close()
	var got []string
	for {
		it, err := m.Next()
		if err == io.EOF {
			return got
		}
		var ie *file.InputError
		if errors.As(err, &ie) {
			got = append(got, "error "+filepath.Base(ie.Path))
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		what := "?"
		switch {
		case it.Err != nil:
			what = "piece"
		case it.DecodeErr != nil:
			what = "undecodable"
		default:
			what = string(it.Event.Attr(event.AttrUID))
		}
		got = append(got, fmt.Sprintf("%s:%d %s", filepath.Base(inputs[it.Input].Path), it.Line, what))
	}
}

func TestMerge(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.json", trail("a1", 10)+"\n"+trail("a2", 20)+"\n"+trail("a3", 15)+"\n"+trail("a4", 40)+"\n")
	write(t, dir+"/b.json.gz", `{"Records":[`+trail("b1", 5)+","+trail("b2", 12)+","+trail("b3", 30)+"]}")
	write(t, dir+"/c.json", trail("c1", 12)+"\n{\"no\":1}\n{\"cut\":\n"+trail("c2", 13)+"\n")
	write(t, dir+"/empty.json", "")
	want := []string{
		"b.json.gz:1 b1", "a.json:1 a1", "b.json.gz:2 b2", "c.json:1 c1", "c.json:2 undecodable", "c.json:3 piece", "c.json:4 c2",
		"a.json:2 a2", "a.json:3 a3", "b.json.gz:3 b3", "a.json:4 a4",
	}
	paths, err := file.List([]string{dir, dir + "/a.json"})
	if err != nil {
		t.Fatal(err)
	}
	var inputs []file.Input
	for _, p := range paths {
		inputs = append(inputs, input(p))
	}
	for _, open := range []int{0, 1, 2} {
		if d := cmp.Diff(want, merged(t, file.NewMerger(file.MergeOptions{Inputs: inputs, MaxOpen: open}), inputs)); d != "" {
			t.Errorf("at most %d open (-want +got):\n%s", open, d)
		}
	}
	inputs[0].Skip, inputs[1].Base = 2, 100
	inputs[2].Open = func() (io.ReadCloser, error) { return nil, os.ErrPermission }
	want = []string{"error c.json", "b.json.gz:101 b1", "b.json.gz:102 b2", "a.json:3 a3", "b.json.gz:103 b3", "a.json:4 a4"}
	if d := cmp.Diff(want, merged(t, file.NewMerger(file.MergeOptions{Inputs: inputs}), inputs)); d != "" {
		t.Errorf("with places to begin at (-want +got):\n%s", d)
	}
}

// TestMergeManyFiles reads files that overlap, with few open at a time, and
// counts what is read and how far the merger says it has come.
func TestMergeManyFiles(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	var inputs []file.Input
	var want []int
	var size int64
	for f := range 100 {
		var b strings.Builder
		at := rng.IntN(2000)
		for i := range 20 {
			at += rng.IntN(30)
			want = append(want, at)
			b.WriteString(trail(fmt.Sprintf("%d-%d", f, i), at) + "\n")
		}
		size += int64(b.Len())
		inputs = append(inputs, input(write(t, fmt.Sprintf("%s/%03d.json", dir, f), b.String())))
	}
	slices.Sort(want)
	for _, open := range []int{10, 1000} {
		m := file.NewMerger(file.MergeOptions{Inputs: inputs, MaxOpen: open})
		var got []int
		for {
			it, err := m.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.Head() != it.Time {
				t.Fatalf("head %d, record of %d", m.Head(), it.Time)
			}
			got = append(got, int((it.Time-epoch.UnixNano())/1e9))
		}
		if !slices.Equal(got, want) {
			t.Errorf("at most %d open: records are not in order, or not all (%d of %d)", open, len(got), len(want))
		}
		if m.Read() != size || m.Head() != math.MaxInt64 {
			t.Errorf("read %d of %d bytes, head %d", m.Read(), size, m.Head())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"b/2.json", "b/1.json.gz", "a.log", ".hidden", ".git/x.json", "c.tmp", "d.part", "AWSLogs/1/CloudTrail-Digest/x.json.gz", "AWSLogs/1/CloudTrail/x.json.gz"} {
		write(t, filepath.Join(dir, f), "x")
	}
	if err := os.Symlink(filepath.Join(dir, "a.log"), filepath.Join(dir, "link.log")); err != nil {
		t.Fatal(err)
	}
	got, err := file.List([]string{filepath.Join(dir, "b"), dir, filepath.Join(dir, "c.tmp")})
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i], _ = filepath.Rel(dir, got[i])
	}
	want := []string{"AWSLogs/1/CloudTrail/x.json.gz", "a.log", "b/1.json.gz", "b/2.json", "c.tmp", "link.log"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
	if _, err := file.List([]string{filepath.Join(dir, "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
