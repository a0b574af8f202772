package correlate

import (
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// The profiles of a rule are packed into 1 << pageBits pages by KeyHash. Stored
// pages depend on it.
const pageBits = 10

const (
	formatProfile  = 2
	formatProfile1 = 1 // profiles without their lengths; still read
)

// profile is what was learned of a key.
type profile interface {
	append(b []byte) []byte
	bytes() int64 // in memory
}

// profiles are what a rule learned, in memory whole, and the pages that changed.
type profiles[P profile] struct {
	*base
	keys   keyTable
	list   []P
	pages  map[uint32][]uint32 // page → slots
	dirty  map[uint32]bool
	stored map[uint32]bool // pages that the ledger has
	swept  int64           // page looked through last, counted on from the epoch
	held   int64           // bytes of the profiles in list
	read   func(*reader) P
}

func (ps *profiles[P]) bytes() int64 {
	n := ps.keys.bytes() + int64(cap(ps.list))*sizeOf[P]() + ps.held
	return n + mapBytes[uint32, []uint32](len(ps.pages)) + 3*int64(len(ps.list))*sizeOf[uint32]()/2
}

func newProfiles[P profile](b *base, read func(*reader) P) profiles[P] {
	return profiles[P]{base: b, pages: map[uint32][]uint32{}, dirty: map[uint32]bool{}, stored: map[uint32]bool{}, swept: never, read: read}
}

func (ps *profiles[P]) page(full []byte) uint32 {
	_, key := ps.split(full)
	return uint32(detect.KeyHash(ps.r.Version, key) >> (64 - pageBits))
}

// slot finds a key; if there is none it makes one with a profile made by fresh,
// unless the bound is reached.
func (ps *profiles[P]) slot(full []byte, fresh func() P) (uint32, bool) {
	h := ps.hash(full)
	if s, ok := ps.keys.find(h, full); ok {
		return s, true
	}
	if fresh == nil || ps.keys.len() >= ps.e.opts.MaxKeys || ps.keys.full() {
		return 0, false
	}
	s := ps.keys.add(h, full)
	p := fresh()
	if int(s) == len(ps.list) {
		ps.list = append(ps.list, p)
	} else {
		ps.list[s] = p
	}
	ps.held += p.bytes()
	pg := ps.page(full)
	ps.pages[pg] = append(ps.pages[pg], s)
	return s, true
}

func (ps *profiles[P]) touch(slot uint32) { ps.dirty[ps.page(ps.keys.key(slot))] = true }

// A profile ends when its key has not been seen for the forgetting time, in event
// time: what comes then finds none, whether it is still held or not. To drop it, for
// which its page is looked at when the clock comes to it, is no more than to free
// memory and rows: it is done late enough that no event still to come, unless it is
// late by a whole forgetting time, could tell the difference. Such an event finds
// what any owner would find, since pages are looked at at the same places of the
// stream.

// sweepAt is the page, counted on from the epoch, to which the clock has come: all
// pages within an eighth of the forgetting time, at least an hour and at most a day.
func (ps *profiles[P]) sweepAt(forget time.Duration) int64 {
	if a := ps.a(); a != never && a != always {
		return floorDiv(a, int64(min(max(forget/8, time.Hour), 24*time.Hour))>>pageBits)
	}
	return never
}

// sweep looks at the pages to which the clock has come since it last did, and drops
// those that have ended wholly. ended may take out of a profile what has ended of it,
// and tells whether what is stored of it changes. A rebuild only notes how far it is:
// the profiles are those of its end.
func (ps *profiles[P]) sweep(forget time.Duration, ended func(slot uint32) (all, changed bool)) {
	at := ps.sweepAt(forget)
	from := ps.swept
	if ps.swept = at; from == never || at == never || ps.e.silent {
		return
	}
	for k := max(from+1, at-(1<<pageBits)+1); k <= at; k++ {
		n := uint32(k & (1<<pageBits - 1))
		ps.pages[n] = slices.DeleteFunc(ps.pages[n], func(slot uint32) bool {
			was := ps.list[slot].bytes()
			all, changed := ended(slot)
			if changed {
				ps.dirty[n] = true
				ps.held += ps.list[slot].bytes() - was
			}
			if all {
				ps.held -= ps.list[slot].bytes()
				ps.keys.remove(slot)
				var none P
				ps.list[slot] = none
			}
			return all
		})
		if len(ps.pages[n]) == 0 {
			delete(ps.pages, n)
		}
	}
	if ps.keys.len() == 0 {
		ps.list = nil
	}
}

// flushPages packs the pages that changed, with no bytes those that hold nothing any
// more. Keys stand in them sorted, so that the
// same profiles make the same page.
func (ps *profiles[P]) flushPages(out []Page, keep func(P) bool) []Page {
	numbers := make([]uint32, 0, len(ps.dirty))
	for n := range ps.dirty {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		var items []pageItem
		for _, s := range ps.pages[n] {
			if keep(ps.list[s]) {
				tenant, key := ps.split(ps.keys.key(s))
				items = append(items, pageItem{tenant, string(key), string(ps.list[s].append(nil))})
			}
		}
		page := Page{RuleVersion: ps.r.Version, Number: n}
		if len(items) > 0 {
			slices.SortFunc(items, comparePageItems)
			page.Data = appendPage(items)
			ps.stored[n] = true
		} else if ps.stored[n] {
			delete(ps.stored, n)
		} else {
			continue // it held nothing that was ever written
		}
		out = append(out, page)
	}
	clear(ps.dirty)
	return out
}

// touchAll has every page written again.
func (ps *profiles[P]) touchAll() {
	for n := range ps.pages {
		ps.dirty[n] = true
	}
}

func (ps *profiles[P]) restore(p Page) error {
	switch {
	case len(p.Data) == 0:
		return nil
	}
	ps.stored[p.Number] = true
	switch {
	case p.Data[0] == formatProfile1:
		return ps.restore1(p)
	}
	items, err := decodePage(p.Data)
	if err != nil {
		return err
	}
	for _, it := range items {
		r := reader{b: []byte(it.profile)}
		prof := ps.read(&r)
		if r.err != nil {
			return r.err
		}
		if len(r.b) > 0 {
			return errMalformed
		}
		ps.put(it.tenant, it.key, prof)
	}
	return nil
}

func (ps *profiles[P]) put(tenant, key string, prof P) {
	s, ok := ps.slot(ps.fullKey(tenant, []byte(key)), func() P { return prof })
	if ok { // otherwise past the bound on keys, which was lowered
		ps.held += prof.bytes() - ps.list[s].bytes()
		ps.list[s] = prof
	}
}

func (ps *profiles[P]) restore1(p Page) error {
	r := reader{b: p.Data[1:]}
	for range r.count(3) {
		tenant, key := r.string(), r.string()
		prof := ps.read(&r)
		if r.err != nil {
			break
		}
		ps.put(tenant, key, prof)
	}
	if r.err != nil {
		return r.err
	}
	if len(r.b) > 0 {
		return errMalformed
	}
	return nil
}
