package simulate

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
)

// format is how the records of a file are written. It is used by one writer.
type format interface {
	begin(b []byte) []byte
	append(b []byte, r *record) []byte
	end(b []byte) []byte
}

// writer writes one file after the other, compressed, on a goroutine of its own:
// most of the work of a simulation is to format and compress what happened. What
// it writes is a function of the calls.
type writer struct {
	jobs   chan job
	free   chan []record
	next   job // not handed over yet
	done   chan struct{}
	failed atomic.Bool
	err    error // read after done
	told   bool  // err has been returned
}

// job is records of one file.
type job struct {
	path    string // where a new file begins; empty: the one before goes on
	records []record
}

const (
	jobRecords = 512
	jobsAhead  = 4
	writeBytes = 64 << 10
)

func newWriter(f format) *writer {
	w := &writer{jobs: make(chan job, jobsAhead), free: make(chan []record, jobsAhead), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.err = w.run(f)
	}()
	return w
}

// create has the records from here on go into a new file.
func (w *writer) create(path string) error {
	if err := w.send(); err != nil {
		return err
	}
	w.next.path = path
	return nil
}

func (w *writer) put(r record) error {
	if w.next.records == nil {
		select {
		case w.next.records = <-w.free:
		default:
			w.next.records = make([]record, 0, jobRecords)
		}
	}
	w.next.records = append(w.next.records, r)
	if len(w.next.records) < jobRecords {
		return nil
	}
	return w.send()
}

// send hands over what there is; the error is that of something before.
func (w *writer) send() error {
	if w.failed.Load() {
		<-w.done
		return w.tell()
	}
	if w.next.path == "" && len(w.next.records) == 0 {
		return nil
	}
	select {
	case w.jobs <- w.next:
	case <-w.done: // it failed meanwhile
		return w.tell()
	}
	w.next = job{}
	return nil
}

// tell returns the error once.
func (w *writer) tell() error {
	w.told = true
	return w.err
}

// close writes what there is, closes the file and waits for the goroutine.
func (w *writer) close() error {
	err := w.send()
	close(w.jobs)
	<-w.done
	if err != nil || w.told {
		return err
	}
	return w.err
}

func (w *writer) run(f format) (err error) {
	defer func() { w.failed.Store(err != nil) }()
	file := &zipFile{}
	b := make([]byte, 0, 2*writeBytes)
	finish := func() error {
		if file.f == nil {
			return nil
		}
		return file.close(f.end(b))
	}
	for j := range w.jobs {
		if j.path != "" {
			if err := finish(); err != nil {
				return err
			}
			if err := file.create(j.path); err != nil {
				return err
			}
			b = f.begin(b[:0])
		}
		for i := range j.records {
			if b = f.append(b, &j.records[i]); len(b) >= writeBytes {
				if _, err := file.z.Write(b); err != nil {
					return errors.Join(err, file.f.Close())
				}
				b = b[:0]
			}
		}
		clear(j.records)
		if cap(j.records) > 0 {
			select {
			case w.free <- j.records[:0]:
			default:
			}
		}
	}
	return finish()
}

// zipFile is a file written compressed. Its buffers serve for one file after the
// other.
type zipFile struct {
	f   *os.File // nil: none is open
	dir string   // that is known to be there
	w   *bufio.Writer
	z   *gzip.Writer
}

func (z *zipFile) create(path string) error {
	if dir := filepath.Dir(path); dir != z.dir {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		z.dir = dir
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if z.z == nil {
		if z.z, err = gzip.NewWriterLevel(io.Discard, gzip.BestSpeed); err != nil {
			return errors.Join(err, f.Close())
		}
		z.w = bufio.NewWriterSize(f, writeBytes)
	}
	z.f = f
	z.w.Reset(f)
	z.z.Reset(z.w)
	return nil
}

// close writes the file's last bytes.
func (z *zipFile) close(last []byte) error {
	f := z.f
	z.f = nil
	_, err := z.z.Write(last)
	return errors.Join(err, z.z.Close(), z.w.Flush(), f.Close())
}
