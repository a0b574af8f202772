package detect

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
)

// Verdicts of unmatched findings.
const (
	VerdictBypass  = "bypass"  // the right side is settled and holds no partner
	VerdictUnknown = "unknown" // the right side cannot be trusted to be whole
	VerdictGap     = "gap"     // records were lost
)

// CompareEvidence orders evidence by time, then event id, then pointer.
func CompareEvidence(a, b Evidence) int {
	return cmp.Or(
		cmp.Compare(a.Time, b.Time),
		cmp.Compare(a.IDHash, b.IDHash),
		ComparePointer(a.Pointer, b.Pointer),
	)
}

// ComparePointer orders pointers by source, offset and checksum.
func ComparePointer(a, b Pointer) int {
	return cmp.Or(
		cmp.Compare(a.Source.Incarnation, b.Source.Incarnation),
		cmp.Compare(a.Source.Partition, b.Source.Partition),
		cmp.Compare(a.Offset, b.Offset),
		cmp.Compare(a.CRC, b.CRC),
	)
}

// Add merges a delta of the same finding into f, as f.Merge says. It is commutative and
// associative for a given evidenceLimit, so the order of deltas does not matter.
// Evidence ends up sorted, one entry an event (the least pointer of those that
// deliver it), and cut to the first evidenceLimit; 0 keeps all. f takes over no
// memory of delta.
//
// The peak's detail goes with it; of equal peaks that of the smaller text, but see
// [AppendExamples].
func (f *Finding) Add(delta Finding, evidenceLimit int) {
	f.Evidence = normalEvidence(f.Evidence, evidenceLimit)
	if delta.Merge == MergeLeast {
		delta.Evidence = normalEvidence(slices.Clone(delta.Evidence), evidenceLimit)
		if compareLeast(&delta, f) < 0 {
			*f = delta
		}
		return
	}
	f.Count += delta.Count
	f.Late += delta.Late
	switch c := cmp.Compare(f.Peak, delta.Peak); {
	case c < 0:
		f.Peak, f.Detail = delta.Peak, delta.Detail
	case c == 0:
		f.Detail = mergeDetail(f.Detail, delta.Detail)
	}
	f.First = min(f.First, delta.First)
	f.Last = max(f.Last, delta.Last)
	if compareVerdict(f.Verdict, delta.Verdict) < 0 {
		f.Verdict = delta.Verdict
	}
	if len(delta.Evidence) > 0 {
		f.Evidence = normalEvidence(append(f.Evidence, delta.Evidence...), evidenceLimit)
	}
}

// normalEvidence sorts and cuts in place.
func normalEvidence(ev []Evidence, limit int) []Evidence {
	if !slices.IsSortedFunc(ev, CompareEvidence) {
		slices.SortFunc(ev, CompareEvidence)
	}
	ev = slices.CompactFunc(ev, func(a, b Evidence) bool { return a.Time == b.Time && a.IDHash == b.IDHash })
	if limit > 0 && len(ev) > limit {
		ev = ev[:limit:limit]
	}
	return ev
}

// mergeDetail takes the smaller of the details, the examples apart; those of equal
// details it puts together.
func mergeDetail(a, b string) string {
	if a == b {
		return a
	}
	wa, ea := splitExamples(a)
	wb, eb := splitExamples(b)
	switch c := compareDetail(wa, wb); {
	case c < 0:
		return a
	case c > 0:
		return b
	}
	return AppendExamples(wa, append(ea, eb...))
}

// maxExamples is how many examples a detail names.
const maxExamples = 5

const examplesKey = `,"examples":`

// AppendExamples adds examples to a finding's detail, a JSON object with other
// members: of all that are given for one finding, in however many deltas, the
// first few in the order of the alphabet. It changes names.
func AppendExamples(detail string, names []string) string {
	for i, n := range names {
		names[i] = strings.ToValidUTF8(n, "\uFFFD")
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 || !strings.HasSuffix(detail, "}") {
		return detail
	}
	b, err := json.Marshal(names[:min(len(names), maxExamples)])
	if err != nil {
		panic("detect: marshal names: " + err.Error()) // strings only
	}
	return detail[:len(detail)-1] + examplesKey + string(b) + "}"
}

// splitExamples undoes AppendExamples.
func splitExamples(detail string) (without string, names []string) {
	i := strings.LastIndex(detail, examplesKey)
	if i < 0 || !strings.HasSuffix(detail, "}") {
		return detail, nil
	}
	if json.Unmarshal([]byte(detail[i+len(examplesKey):len(detail)-1]), &names) != nil {
		return detail, nil
	}
	return detail[:i] + "}", names
}

// compareLeast orders by first time and evidence; what is left can only differ in
// what was known when the delta was made, and the greater peak knows more.
func compareLeast(a, b *Finding) int {
	return cmp.Or(
		cmp.Compare(a.First, b.First),
		slices.CompareFunc(a.Evidence, b.Evidence, CompareEvidence),
		-cmp.Compare(a.Peak, b.Peak),
		compareDetail(a.Detail, b.Detail),
		cmp.Compare(a.Last, b.Last),
		cmp.Compare(a.Count, b.Count),
		cmp.Compare(a.Late, b.Late),
		-compareVerdict(a.Verdict, b.Verdict),
	)
}

// compareDetail puts the smaller string first and none last.
func compareDetail(a, b string) int {
	if (a == "") != (b == "") {
		return cmp.Compare(b, a)
	}
	return cmp.Compare(a, b)
}

func compareVerdict(a, b string) int {
	rank := func(v string) int {
		return slices.Index([]string{VerdictUnknown, VerdictGap, VerdictBypass}, v)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}
