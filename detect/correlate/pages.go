package correlate

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vedette-sec/vedette/detect"
)

// pageItem is one profile in a page, in the encoding of its rule's type.
type pageItem struct {
	tenant, key, profile string
}

func comparePageItems(a, b pageItem) int {
	return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.key, b.key))
}

func appendPage(items []pageItem) []byte {
	b := []byte{formatProfile}
	b = binary.AppendUvarint(b, uint64(len(items)))
	for _, it := range items {
		b = detect.AppendKey(b, []byte(it.tenant))
		b = detect.AppendKey(b, []byte(it.key))
		b = detect.AppendKey(b, []byte(it.profile))
	}
	return b
}

func decodePage(b []byte) ([]pageItem, error) {
	r := reader{b: b}
	if f := r.byte(); f != formatProfile {
		return nil, fmt.Errorf("unknown format %d", f)
	}
	items := make([]pageItem, r.count(3))
	for i := range items {
		items[i] = pageItem{r.string(), r.string(), r.string()}
	}
	if r.err != nil {
		return nil, r.err
	}
	if len(r.b) > 0 {
		return nil, errMalformed
	}
	return items, nil
}

// Repartition divides profile pages among n partitions by the keys in them. Pages
// of different partitions that share a number and a rule come together. Keys are
// not looked at otherwise, so it works for rules that are no longer loaded too.
func Repartition(pages []Page, n int) ([][]Page, error) {
	type id struct {
		partition int
		version   string
		number    uint32
	}
	byID := map[id][]pageItem{}
	for _, p := range pages {
		if len(p.Data) == 0 {
			continue
		}
		items, err := decodePage(p.Data)
		if err != nil {
			return nil, fmt.Errorf("page %d of rule version %s: %w", p.Number, p.RuleVersion, err)
		}
		for _, it := range items {
			k := id{detect.KeyPartition(p.RuleVersion, []byte(it.key), n), p.RuleVersion, p.Number}
			byID[k] = append(byID[k], it)
		}
	}
	out := make([][]Page, n)
	for k, items := range byID {
		slices.SortFunc(items, comparePageItems)
		out[k.partition] = append(out[k.partition], Page{RuleVersion: k.version, Number: k.number, Data: appendPage(items)})
	}
	for _, ps := range out {
		slices.SortFunc(ps, func(a, b Page) int {
			return cmp.Or(cmp.Compare(a.RuleVersion, b.RuleVersion), cmp.Compare(a.Number, b.Number))
		})
	}
	return out, nil
}

// UpgradePages brings pages of the format before the present one into it, for
// which their rules have to be in force in the state. Pages without any profile
// are left out.
func UpgradePages(ctx context.Context, o Options, g Generations, state []byte, pages []Page) ([]Page, error) {
	f, err := NewFold(ctx, o, g, state)
	if err != nil {
		return nil, err
	}
	var out, old []Page
	for _, p := range pages {
		switch {
		case len(p.Data) == 0:
		case p.Data[0] == formatProfile1:
			old = append(old, p)
		default:
			out = append(out, p)
		}
	}
	if err := f.s.engine.Restore(old); err != nil {
		return nil, err
	}
	for version := range f.s.engine.pages {
		return nil, fmt.Errorf("profiles of rule version %s are in an old format, and no rule in force says how to read them", version)
	}
	for _, er := range f.s.engine.list {
		if d, ok := er.detector.(interface{ touchAll() }); ok {
			d.touchAll()
		}
	}
	_, upgraded := f.s.engine.Flush()
	return append(out, upgraded...), nil
}

func (n *baseline) touchAll() { n.profiles.touchAll() }
func (n *newValue) touchAll() { n.profiles.touchAll() }
