package incident

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/vedette-sec/vedette/detect"
)

// hashLink makes a link's hash from its kind and parts.
func hashLink(kind LinkKind, parts ...[]byte) [16]byte {
	h := sha256.New()
	h.Write([]byte{byte(kind)})
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return [16]byte(h.Sum(nil)[:16])
}

// linksOf makes a finding's links from its rule, key and the entities that join.
func linksOf(r Rule, f detect.Finding, es []Entity) []Link {
	ls := []Link{{
		Finding: f.ID, Kind: LinkRepeat, Hash: hashLink(LinkRepeat, []byte(r.ID), f.Key),
		First: f.First, Last: f.Last,
	}}
	for _, e := range es {
		if e.Joins {
			ls = append(ls, Link{
				Finding: f.ID, Kind: LinkEntity, Hash: hashLink(LinkEntity, []byte(e.Type), []byte(e.Value)),
				First: f.First, Last: f.Last,
			})
		}
	}
	return ls
}

// window is how far apart the ranges of linked findings may lie, ns.
func (o *Options) window(k LinkKind) int64 {
	if k != LinkEntity {
		return int64(o.Repeat)
	}
	return int64(o.Join)
}

// appendProbes appends the probes that find one finding of every incident that
// a link reaches. All links with one hash whose First, or Last, lie in a stretch
// no longer than the window are linked to one another, so that one of each
// stretch is enough: the work does not grow with the number of findings.
func appendProbes(ps []Probe, ord int32, l Link, window int64) []Probe {
	from, to := l.First-window, l.Last+window
	ps = appendStretches(ps, Probe{Ord: ord, Hash: l.Hash}, from, to, window)
	ps = appendStretches(ps, Probe{Ord: ord, Hash: l.Hash, ByLast: true}, from, to, window)
	return append(ps, Probe{Ord: ord, Hash: l.Hash, Spanning: true, From: from, To: to})
}

// appendGrowth appends the probes for what a link reaches that it did not reach
// before its range grew: those that begin after its old reach, and those that
// end before it.
func appendGrowth(ps []Probe, ord int32, old, l Link, window int64) []Probe {
	if l.Last > old.Last {
		ps = appendStretches(ps, Probe{Ord: ord, Hash: l.Hash}, old.Last+window+1, l.Last+window, window)
	}
	if l.First < old.First {
		ps = appendStretches(ps, Probe{Ord: ord, Hash: l.Hash, ByLast: true}, l.First-window, old.First-window-1, window)
	}
	return ps
}

func appendStretches(ps []Probe, p Probe, from, to, window int64) []Probe {
	for from <= to {
		p.From, p.To = from, min(from+window, to)
		ps = append(ps, p)
		from = p.To + 1
	}
	return ps
}

// forest is a union-find over n nodes.
type forest []int32

func newForest(n int) forest {
	f := make(forest, n)
	for i := range f {
		f[i] = int32(i)
	}
	return f
}

func (f forest) root(i int32) int32 {
	for f[i] != i {
		f[i] = f[f[i]]
		i = f[i]
	}
	return i
}

func (f forest) join(a, b int32) {
	if ra, rb := f.root(a), f.root(b); ra != rb {
		f[max(ra, rb)] = min(ra, rb)
	}
}

// nodeLink is a link of a node of a forest.
type nodeLink struct {
	Link
	node int32
}

// joinLinks joins the nodes whose links reach each other. Sorted by First, a
// link reaches an earlier one if and only if it reaches the one that lasts
// longest so far or that one's component already has it.
func joinLinks(f forest, links []nodeLink, window func(LinkKind) int64) {
	slices.SortFunc(links, func(a, b nodeLink) int {
		return cmp.Or(bytes.Compare(a.Hash[:], b.Hash[:]), cmp.Compare(a.First, b.First), cmp.Compare(a.node, b.node))
	})
	for i := 1; i < len(links); i++ {
		prev := &links[i-1]
		if links[i].Hash != prev.Hash {
			continue
		}
		if links[i].First-prev.Last <= window(links[i].Kind) {
			f.join(links[i].node, prev.node)
		}
		if prev.Last > links[i].Last {
			// Carry the longest-lasting on: from here on prev stands for the run.
			// Only this function's own order and reach are needed of it.
			links[i].Last = prev.Last
		}
	}
}

// earlier orders findings by (first time, id): the order that makes openers.
func earlier(aFirst int64, a detect.FindingID, bFirst int64, b detect.FindingID) bool {
	if aFirst != bFirst {
		return aFirst < bFirst
	}
	return bytes.Compare(a[:], b[:]) < 0
}

// newID makes the id of the incident that a finding opens for the nth time.
func newID(tenant string, opener detect.FindingID, n uint32) ID {
	h := sha256.New()
	h.Write([]byte("vedette incident\x00"))
	h.Write(opener[:])
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	h.Write(b[:])
	h.Write([]byte(tenant))
	var id ID
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80 // UUID version 8: custom
	id[8] = id[8]&0x3f | 0x80 // RFC 9562 variant
	return id
}
