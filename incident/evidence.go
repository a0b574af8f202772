package incident

import (
	"context"
	"fmt"
	"hash/crc32"

	"github.com/vedette-sec/vedette/detect"
)

// EvidenceState says what became of copying a record.
type EvidenceState string

// The states. A record that is not copied is shown as what it is, and never
// replaced by another.
const (
	EvidenceCopied   EvidenceState = "copied"
	EvidenceMismatch EvidenceState = "mismatch" // another record stands there now
	EvidenceExpired  EvidenceState = "expired"  // the log no longer holds it
)

// LogRecord is a record as it was read again from vedette.logs.
type LogRecord struct {
	Found bool // false if the log no longer holds the offset
	Type  string
	UID   string // the provider's id of the event, if it could be told
	Raw   []byte
}

// Records reads records of vedette.logs again by their pointers.
type Records interface {
	// Read answers each pointer in order. An error is that of the whole: it is
	// tried again later.
	Read(ctx context.Context, ps []detect.Pointer) ([]LogRecord, error)
}

// EvidenceRecord is a record copied for a finding.
type EvidenceRecord struct {
	Tenant  string
	Finding detect.FindingID
	detect.Pointer
	Time  int64 // event time, ns
	State EvidenceState
	Type  string // log type
	UID   string // the provider's id of the event
	Raw   []byte // empty unless copied
}

// EvidenceBatch is what is to be copied next, and where that leaves the cursors.
type EvidenceBatch struct {
	Missing []EvidenceRecord // without State, Type, UID and Raw
	Moved   bool             // the cursors have to be moved, even if nothing is missing
	Cursors []Cursor
}

// Cursor is how far the checkpoints of a partition have been read.
type Cursor struct {
	Layout    int32
	Partition int32
	Number    int64
}

// EvidenceLedger is where evidence is kept. It is a Ledger's other half.
type EvidenceLedger interface {
	// MissingEvidence returns the evidence of changed findings beyond the evidence
	// cursors that was not copied yet, of about limit findings.
	MissingEvidence(ctx context.Context, shard int32, limit int) (EvidenceBatch, error)
	// SaveEvidence writes records and moves the cursors in one transaction, the
	// shard's epoch tested first. What is no longer among a finding's evidence is
	// dropped.
	SaveEvidence(ctx context.Context, shard int32, epoch int64, recs []EvidenceRecord, cursors []Cursor) error
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// evidenceFindings is how many findings' evidence is copied at once: with ten
// records of at most 4 MiB each this bounds memory in the worst case, and the
// usual record has 2 KiB.
const evidenceFindings = 32

// CopyEvidence copies evidence of changed findings once, and reports whether
// there was anything to do.
func (a *Assembler) CopyEvidence(ctx context.Context) (bool, error) {
	if a.opts.Records == nil {
		return false, nil
	}
	store, ok := a.opts.Ledger.(EvidenceLedger)
	if !ok {
		return false, fmt.Errorf("incident: %T keeps no evidence", a.opts.Ledger)
	}
	ctx, cancel := context.WithTimeout(ctx, a.opts.Deadline)
	defer cancel()
	batch, err := store.MissingEvidence(ctx, a.shard, evidenceFindings)
	if err != nil {
		return false, fmt.Errorf("find missing evidence: %w", err)
	}
	if !batch.Moved {
		return false, nil
	}
	recs := batch.Missing
	if len(recs) > 0 {
		ps := make([]detect.Pointer, len(recs))
		for i := range recs {
			ps[i] = recs[i].Pointer
		}
		read, err := a.opts.Records.Read(ctx, ps)
		if err != nil {
			return false, fmt.Errorf("read evidence: %w", err)
		}
		if len(read) != len(ps) {
			return false, fmt.Errorf("read evidence: %d answers to %d pointers", len(read), len(ps))
		}
		for i := range recs {
			recs[i] = settleEvidence(recs[i], read[i])
		}
	}
	if err := store.SaveEvidence(ctx, a.shard, a.epoch.Load(), recs, batch.Cursors); err != nil {
		return false, fmt.Errorf("save evidence: %w", err)
	}
	for i := range recs {
		a.m.evidence.WithLabelValues(string(recs[i].State)).Inc()
	}
	return true, nil
}

// settleEvidence decides what became of copying r, now that its place was read.
func settleEvidence(r EvidenceRecord, got LogRecord) EvidenceRecord {
	switch {
	case !got.Found:
		r.State = EvidenceExpired
	case crc32.Checksum(got.Raw, castagnoli) != r.CRC:
		r.State = EvidenceMismatch
	default:
		r.State, r.Type, r.UID, r.Raw = EvidenceCopied, got.Type, got.UID, got.Raw
		r.UID, _ = cleanValue(r.UID)
	}
	return r
}
