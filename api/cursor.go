package api

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// A cursor on the wire is a version byte, opened_at in microseconds and the id,
// in base64url. It names a place in the order of the list, not a page number:
// what is inserted meanwhile neither shifts nor repeats anything.
const cursorVersion = 1

func (c Cursor) encode() string {
	b := make([]byte, 0, 25)
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.OpenedAt.UnixMicro()))
	id, _ := hex.DecodeString(strings.ReplaceAll(c.ID, "-", ""))
	return base64.RawURLEncoding.EncodeToString(append(b, id...))
}

func decodeCursor(s string) (Cursor, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 25 || b[0] != cursorVersion {
		return Cursor{}, errors.New("cursor: not one of ours")
	}
	us := int64(binary.BigEndian.Uint64(b[1:9]))
	if us < 0 || us > maxTime.UnixMicro() {
		return Cursor{}, errors.New("cursor: not one of ours")
	}
	h := hex.EncodeToString(b[9:])
	return Cursor{
		OpenedAt: time.UnixMicro(us).UTC(),
		ID:       h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:],
	}, nil
}

// maxTime is the greatest time that fits in nanoseconds since the epoch.
var maxTime = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
