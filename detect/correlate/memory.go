package correlate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/vedette-sec/vedette/detect"
)

// MemoryLedger is a Ledger that forgets when the process ends: for replay and for
// tests. It keeps the promises of the one in Postgres, fencing among them.
type MemoryLedger struct {
	evidenceLimit int

	mu         sync.Mutex
	partitions map[int32]*memoryPartition
	findings   map[memoryKey]detect.Finding
}

type memoryKey struct {
	tenant string
	id     detect.FindingID
}

type memoryPartition struct {
	epoch, number int64
	mark          Mark
	marks         map[int64]Mark
	pages         map[memoryPage]Page
}

type memoryPage struct {
	rule   string
	number uint32
}

var _ Ledger = (*MemoryLedger)(nil)

// NewMemoryLedger returns an empty ledger whose findings keep evidenceLimit pieces
// of evidence; 0 keeps all.
func NewMemoryLedger(evidenceLimit int) *MemoryLedger {
	return &MemoryLedger{
		evidenceLimit: evidenceLimit,
		partitions:    make(map[int32]*memoryPartition),
		findings:      make(map[memoryKey]detect.Finding),
	}
}

// Acquire implements [Ledger].
func (l *MemoryLedger) Acquire(_ context.Context, partition int32) (Checkpoint, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.partitions[partition]
	if p == nil {
		p = &memoryPartition{marks: make(map[int64]Mark), pages: make(map[memoryPage]Page)}
		l.partitions[partition] = p
	}
	p.epoch++
	cp := Checkpoint{Epoch: p.epoch, Number: p.number, Mark: p.mark.clone()}
	for _, at := range slices.Sorted(maps.Keys(p.marks)) {
		cp.Marks = append(cp.Marks, p.marks[at].clone())
	}
	for _, page := range p.pages {
		page.Data = bytes.Clone(page.Data)
		cp.Pages = append(cp.Pages, page)
	}
	slices.SortFunc(cp.Pages, func(a, b Page) int {
		return cmp.Or(cmp.Compare(a.RuleVersion, b.RuleVersion), cmp.Compare(a.Number, b.Number))
	})
	return cp, nil
}

// Commit implements [Ledger].
func (l *MemoryLedger) Commit(_ context.Context, c Commit) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.partitions[c.Partition]
	if p == nil {
		return errors.New("commit: the partition was never acquired")
	}
	if p.epoch != c.Epoch {
		return ErrFenced
	}
	for _, d := range c.Findings {
		l.merge(d)
	}
	for _, page := range c.Pages {
		if len(page.Data) == 0 {
			delete(p.pages, memoryPage{page.RuleVersion, page.Number})
			continue
		}
		page.Data = bytes.Clone(page.Data)
		p.pages[memoryPage{page.RuleVersion, page.Number}] = page
	}
	if c.SaveMark {
		p.marks[c.Mark.Position] = c.Mark.clone()
	}
	maps.DeleteFunc(p.marks, func(at int64, _ Mark) bool { return at < c.DropMarks })
	p.mark = c.Mark.clone()
	p.number++
	return nil
}

func (l *MemoryLedger) merge(d detect.Finding) {
	k := memoryKey{d.Tenant, d.ID}
	d.Key, d.Evidence = bytes.Clone(d.Key), slices.Clone(d.Evidence) // Add sorts in place
	f, known := l.findings[k]
	if !known {
		// Adding what changes nothing else brings the evidence into its form.
		f = d
		d.Evidence = slices.Clone(d.Evidence)
		if d.Merge == detect.MergeAdd {
			d.Count, d.Late = 0, 0
		}
	}
	f.Add(d, l.evidenceLimit)
	l.findings[k] = f
}

// Findings returns what was committed, in the order of tenant and id.
func (l *MemoryLedger) Findings() []detect.Finding {
	l.mu.Lock()
	defer l.mu.Unlock()
	fs := make([]detect.Finding, 0, len(l.findings))
	for _, f := range l.findings {
		f.Key, f.Evidence = bytes.Clone(f.Key), slices.Clone(f.Evidence)
		fs = append(fs, f)
	}
	slices.SortFunc(fs, func(a, b detect.Finding) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return fs
}

func (m Mark) clone() Mark {
	m.State = bytes.Clone(m.State)
	return m
}
