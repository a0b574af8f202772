package correlate

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// snapshotsKept is how many snapshots of a partition stay: the one written last,
	// and the one before it, should the last be damaged.
	snapshotsKept = 2
	// snapshotAge is when a snapshot is of no use any more, whoever wrote it.
	snapshotAge    = 24 * time.Hour
	snapshotSuffix = ".snapshot"
	// DefaultSnapshotBytes bounds a snapshot unless something else is asked for.
	DefaultSnapshotBytes = 1 << 30
)

var errTooLarge = errors.New("it would be larger than allowed")

// Snapshots is a directory of snapshots. Processes may share it; a file appears
// whole or not at all.
type Snapshots struct {
	dir, topic string
	maxBytes   int64
}

// OpenSnapshots makes the directory, which only we may read: of what rules count,
// snapshots have the keys. They are those of a topic of observations. A snapshot has
// at most maxBytes, DefaultSnapshotBytes if zero.
func OpenSnapshots(dir, topic string, maxBytes int64) (*Snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of snapshots: %w", err)
	}
	return &Snapshots{dir: dir, topic: topic, maxBytes: cmp.Or(max(maxBytes, 0), DefaultSnapshotBytes)}, nil
}

// snapshotFile is a snapshot in the directory.
type snapshotFile struct {
	path      string
	partition int32
	position  int64
	written   time.Time
}

// list gives the snapshots, the one written last first.
func (s *Snapshots) list() ([]snapshotFile, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var out []snapshotFile
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), snapshotSuffix)
		p, at, both := strings.Cut(name, "-")
		partition, err1 := strconv.ParseInt(p, 10, 32)
		position, err2 := strconv.ParseInt(at, 10, 64)
		if !ok || !both || err1 != nil || err2 != nil {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // its owner has a newer one
		}
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		out = append(out, snapshotFile{filepath.Join(s.dir, e.Name()), int32(partition), position, fi.ModTime()})
	}
	slices.SortFunc(out, func(a, b snapshotFile) int {
		return cmp.Or(b.written.Compare(a.written), cmp.Compare(b.position, a.position))
	})
	return out, nil
}

// write puts a snapshot into the directory and removes what it makes useless.
func (s *Snapshots) write(partition int32, position int64, data *pieces) (err error) {
	f, err := os.CreateTemp(s.dir, "writing-*")
	if err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write a snapshot: %w", err)
		}
	}()
	for _, b := range data.b {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	name := filepath.Join(s.dir, fmt.Sprintf("%d-%d%s", partition, position, snapshotSuffix))
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return s.clean(partition)
}

// clean removes snapshots that nobody will use.
func (s *Snapshots) clean(partition int32) error {
	all, err := s.list()
	if err != nil {
		return err
	}
	var errs []error
	remove := func(path string) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	kept := 0
	for _, f := range all {
		if f.partition == partition {
			kept++
		}
		if f.partition == partition && kept > snapshotsKept || time.Since(f.written) > snapshotAge {
			remove(f.path)
		}
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "writing-*"))
	if err != nil {
		errs = append(errs, err)
	}
	for _, path := range left { // by whoever was killed
		if fi, err := os.Stat(path); err == nil && time.Since(fi.ModTime()) > time.Hour {
			remove(path)
		}
	}
	return errors.Join(errs...)
}

// pieces gathers a snapshot, up to a limit.
type pieces struct {
	b        [][]byte
	n, limit int64
}

func (p *pieces) Write(b []byte) (int, error) {
	if p.n += int64(len(b)); p.n > p.limit {
		return 0, errTooLarge
	}
	p.b = append(p.b, slices.Clone(b))
	return len(b), nil
}

// formatSnapshotFile is that of a file: an owner's frame with what place of which
// partition it is of, and then the engine's frames.
const formatSnapshotFile = 1

// encode gathers the file of an engine that stands at m.
func (s *Snapshots) encode(partition int32, m Mark, e *Engine) (*pieces, error) {
	p := &pieces{limit: s.maxBytes}
	w := &snapshotWriter{to: p}
	w.byte(formatSnapshotFile)
	w.string(s.topic)
	w.varint(int64(partition))
	w.varint(m.Position)
	w.bytes(m.State)
	w.flush(true)
	if w.err != nil {
		return nil, w.err
	}
	return p, e.Snapshot(p)
}

// openedSnapshot is a file of which the owner's frame has been read.
type openedSnapshot struct {
	f         *os.File
	r         io.Reader // at the engine's frames
	topic     string
	partition int32
	position  int64
	state     []byte
}

func openSnapshot(path string) (*openedSnapshot, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(f, 1<<20)
	r := &snapshotReader{from: in}
	format := r.byte()
	o := &openedSnapshot{f: f, r: in, topic: r.string(), partition: int32(r.varint()), position: r.varint()}
	o.state = slices.Clone(r.bytes())
	switch {
	case r.err != nil:
		err = r.err
	case format != formatSnapshotFile:
		err = fmt.Errorf("%w: file format %d, want %d", ErrSnapshot, format, formatSnapshotFile)
	case !r.atEnd():
		err = fmt.Errorf("%w: malformed", ErrSnapshot)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}
