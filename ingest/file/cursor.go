package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// place is how far one file has been read; what is behind it is acknowledged.
// It is what a cursor holds of a file.
type place struct {
	ID      string `json:"id"`      // of the file, whatever its name
	Path    string `json:"path"`    // as last seen
	Head    int64  `json:"head"`    // bytes that Sum is of: an id may be given to another file
	Sum     string `json:"sum"`     // of the first Head bytes
	Offset  int64  `json:"offset"`  // where reading can begin, bytes
	Base    int64  `json:"base"`    // records before Offset
	Records int64  `json:"records"` // records acknowledged, from the file's beginning
	Size    int64  `json:"size"`    // bytes that have been read to their end
	Seen    int64  `json:"seen"`    // when it was last there, s since the Unix epoch
}

// cursor is all places of a collector.
type cursor struct {
	Version int      `json:"version"`
	Files   []*place `json:"files"`
}

const cursorVersion = 1

// maxHead is how much of a file's beginning is compared.
const maxHead = 256

// forgetAfter is how long a file may be away without being taken for a new one
// when it is back.
const forgetAfter = 7 * 24 * time.Hour

func decodeCursor(b []byte) (map[string]*place, error) {
	places := map[string]*place{}
	if len(b) == 0 {
		return places, nil
	}
	var c cursor
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("decode file cursor: %w", err)
	}
	if c.Version != cursorVersion {
		return nil, fmt.Errorf("decode file cursor: version %d, this program reads %d", c.Version, cursorVersion)
	}
	for _, p := range c.Files {
		places[p.ID] = p
	}
	return places, nil
}

func encodeCursor(places map[string]*place) ([]byte, error) {
	c := cursor{Version: cursorVersion, Files: make([]*place, 0, len(places))}
	for _, p := range places {
		c.Files = append(c.Files, p)
	}
	slices.SortFunc(c.Files, func(a, b *place) int { return strings.Compare(a.ID, b.ID) })
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode file cursor: %w", err)
	}
	return b, nil
}

// headSum is the hash of a file's first n bytes; io.EOF if it has fewer.
func headSum(f io.ReaderAt, n int64) (string, error) {
	b := make([]byte, n)
	if m, err := f.ReadAt(b, 0); int64(m) < n {
		if err == nil || errors.Is(err, io.EOF) {
			return "", io.EOF
		}
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}

// same reports whether a file of a size still begins as the place says.
func (p *place) same(f io.ReaderAt, size int64) (bool, error) {
	if size < p.Size || size < p.Offset {
		return false, nil
	}
	sum, err := headSum(f, p.Head)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return sum == p.Sum, err
}

// readable is how much of a file of a size can be read now: all of it if it is
// at rest, or else as much as ends with a line. Of a compressed file that is
// still being written nothing can: it is moving.
func readable(f *os.File, from, size int64, rest bool) (n int64, moving bool, err error) {
	if rest || size == 0 {
		return size, false, nil
	}
	var magic [2]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, false, err
	}
	if magic == [2]byte{0x1f, 0x8b} {
		return 0, size > from, nil
	}
	b := make([]byte, 64<<10)
	for end := size; end > from; {
		at := max(from, end-int64(len(b)))
		n, err := f.ReadAt(b[:end-at], at)
		if int64(n) < end-at && err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		if i := bytes.LastIndexByte(b[:n], '\n'); i >= 0 {
			return at + int64(i) + 1, false, nil
		}
		end = at
	}
	return from, false, nil
}
