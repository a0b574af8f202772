// Package enrich adds to an event what its record does not say: country and
// network operator of an address, from databases in the MaxMind DB format, and
// what the operator's function inventory expects of a function and its callers.
//
// An [Enricher] is part of what makes match a function of record and generation:
// its [Enricher.Digest] covers every byte it answers from.
package enrich

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/vedette-sec/vedette/event"
)

// Lengths of the prefix that event.AttrSrcNetwork names, in bits.
const (
	subnetBits4 = 24
	subnetBits6 = 48
)

// DefaultCache is how many addresses are remembered unless told otherwise.
const DefaultCache = 1 << 16

// Options say what an Enricher answers from. The zero value knows no database
// and no inventory: addresses get their subnet, nothing else.
type Options struct {
	// Databases are files in the MaxMind DB format. Where several know an
	// attribute of an address, the first named wins.
	Databases []string
	Inventory Inventory
	Cache     int // addresses remembered; 0: DefaultCache
}

// Enricher sets attributes of events. It is safe for concurrent use, each call
// with an event of its own.
type Enricher struct {
	geo       []*database
	functions map[string]*function
	blind     []event.Attr
	digest    string

	mu         sync.Mutex
	cache      int
	young, old map[string]*place // by the address as the record writes it
}

// place is what is known about one address.
type place struct {
	country, asn, asName, subnet []byte
}

// New reads the databases and checks the inventory.
func New(o Options) (*Enricher, error) {
	functions, err := o.Inventory.compile()
	if err != nil {
		return nil, fmt.Errorf("function inventory: %w", err)
	}
	e := &Enricher{functions: functions, cache: o.Cache, young: map[string]*place{}}
	if e.cache <= 0 {
		e.cache = DefaultCache
	}
	h := sha256.New()
	h.Write([]byte("vedette enrichment 1\n"))
	for _, path := range o.Databases {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read address database: %w", err)
		}
		db, err := openDatabase(data)
		if err != nil {
			return nil, fmt.Errorf("address database %s: %w", path, err)
		}
		e.geo = append(e.geo, db)
		sum := sha256.Sum256(data)
		h.Write(sum[:])
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(e.geo))))
	h.Write(o.Inventory.canonical())
	e.digest = hex.EncodeToString(h.Sum(nil))
	e.blind = e.findBlind()
	return e, nil
}

// Digest names what the enricher answers from, database bytes and inventory:
// two with one digest set the same attributes.
func (e *Enricher) Digest() string { return e.digest }

// Blind lists the attributes that can never be set, for want of a database or
// an inventory: rules that ask for them are blind.
func (e *Enricher) Blind() []event.Attr { return e.blind }

// Warnings says in words, one a line for whoever starts the service, what cannot
// be known for want of a database or an inventory, and what follows.
func (e *Enricher) Warnings() []string {
	var ws []string
	for _, a := range e.blind {
		if a != event.AttrFunctionEntry && a != event.AttrFunctionCaller {
			ws = append(ws, "no address database knows "+a.String()+": rules that ask for it are blind")
		}
	}
	if len(e.functions) == 0 {
		ws = append(ws, "no function inventory: the gateway-bypass rules answer unknown")
	}
	return ws
}

func (e *Enricher) findBlind() []event.Attr {
	var blind []event.Attr
	for _, a := range []event.Attr{event.AttrSrcCountry, event.AttrSrcASN, event.AttrSrcASName} {
		known := false
		for _, db := range e.geo {
			known = known || db.has(a)
		}
		if !known {
			blind = append(blind, a)
		}
	}
	if len(e.functions) == 0 {
		blind = append(blind, event.AttrFunctionEntry, event.AttrFunctionCaller)
	}
	return blind
}

// Enrich sets what it knows about the event's source address and function.
func (e *Enricher) Enrich(ev *event.Event) {
	if ip := ev.Attr(event.AttrSrcIP); ip != nil {
		if p := e.place(ip); p != nil {
			set(ev, event.AttrSrcCountry, p.country)
			set(ev, event.AttrSrcASN, p.asn)
			set(ev, event.AttrSrcASName, p.asName)
			set(ev, event.AttrSrcNetwork, p.subnet)
		}
	}
	if ev.Layer == event.LayerFunction {
		e.enrichFunction(ev)
	}
}

// set leaves an attribute alone that is not known here: the record may say it.
func set(ev *event.Event, a event.Attr, v []byte) {
	if v != nil {
		ev.SetAttr(a, v)
	}
}

// place looks an address up, in the cache first. The cache is two maps: what is
// found in the older moves to the younger, and when that has half the allowed
// size it becomes the older and the older is dropped.
func (e *Enricher) place(ip []byte) *place {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.young[string(ip)]; ok {
		return p
	}
	p, ok := e.old[string(ip)]
	if !ok {
		addr, err := netip.ParseAddr(string(ip))
		if err != nil {
			return nil
		}
		p = e.lookup(addr.Unmap().WithZone(""))
	}
	if len(e.young) >= max(e.cache/2, 1) {
		e.old, e.young = e.young, make(map[string]*place, len(e.young))
	}
	e.young[string(ip)] = p
	return p
}

func (e *Enricher) lookup(addr netip.Addr) *place {
	p := new(place)
	bits := subnetBits6
	if addr.Is4() {
		bits = subnetBits4
	}
	if net, err := addr.Prefix(bits); err == nil {
		p.subnet = []byte(net.String())
	}
	for _, db := range e.geo {
		r := db.lookup(addr)
		for _, f := range []struct {
			to   *[]byte
			from string
		}{{&p.country, r.country}, {&p.asn, r.asn}, {&p.asName, r.asName}} {
			if *f.to == nil && f.from != "" {
				*f.to = []byte(f.from)
			}
		}
	}
	return p
}

// Cached is how many addresses are remembered at the moment.
func (e *Enricher) Cached() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.young) + len(e.old)
}
