package correlate

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// unlisted gathers the left events without a partner of which nobody has said
// that they must have one: the functions that no inventory lists. There may be
// very many, and they say one thing only, so that there is one finding a tenant
// and day, with an empty key, that counts them and names a few.
type unlisted struct {
	*base
	list []*unlistedDay // in the order of tenant and day
}

// unlistedDay is the finding of one tenant and day in the making.
type unlistedDay struct {
	delta
	labels []string // distinct roll-up keys, sorted; the first of them
}

const (
	// reasonUnlisted is why the verdict on such events is unknown.
	reasonUnlisted = "no inventory"
	unlistedTile   = int64(24 * time.Hour)
	// unlistedLabels is how many roll-up keys a flush looks at, at least as many as
	// a detail names.
	unlistedLabels = 8
)

func newUnlisted(b *base) unlisted { return unlisted{base: b} }

func (u *unlisted) add(tenant, rollup string, ev detect.Evidence, late bool) {
	d := u.day(tenant, floorDiv(ev.Time, unlistedTile)*unlistedTile)
	d.see(ev, u.deltas.limit)
	d.Late += oneIf(late)
	name := labelName(rollup)
	if i, known := slices.BinarySearch(d.labels, name); !known && name != "" && i < unlistedLabels {
		d.labels = slices.Insert(d.labels, i, name)
		d.labels = d.labels[:min(len(d.labels), unlistedLabels)]
	}
}

// labelName is a roll-up key as people read it.
func labelName(rollup string) string {
	values, err := detect.SplitKey([]byte(rollup))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(strings.Join(values, " "), "\uFFFD")
}

func (u *unlisted) day(tenant string, day int64) *unlistedDay {
	i, ok := slices.BinarySearchFunc(u.list, day, func(d *unlistedDay, day int64) int {
		return cmp.Or(cmp.Compare(d.Tenant, tenant), cmp.Compare(d.Tile, day))
	})
	if ok {
		return u.list[i]
	}
	d := &unlistedDay{delta: delta{Finding: detect.Finding{
		// The reason keeps it apart from the findings on stale logs, whose key is
		// empty too.
		ID:     detect.NewFindingID(tenant, u.r.Version, detect.AppendKey(nil, []byte(reasonUnlisted)), day),
		Tenant: tenant, RuleVersion: u.r.Version, Key: []byte{}, Tile: day, Peak: 1,
		First: always, Last: never, Verdict: detect.VerdictUnknown,
	}}}
	u.list = slices.Insert(u.list, i, d)
	return d
}

// flush appends the findings and forgets them.
func (u *unlisted) flush(fs []detect.Finding) []detect.Finding {
	for _, d := range u.list {
		d.tidy(u.deltas.limit)
		d.Detail = detect.AppendExamples(u.detailOf(detect.VerdictUnknown, reasonUnlisted), d.labels)
		fs = append(fs, d.Finding)
	}
	u.list = nil
	return fs
}
