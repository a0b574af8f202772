package enrich

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/vedette-sec/vedette/event"
)

// probed is how many networks of a database are looked at to find out which
// attributes it has.
const probed = 1000

// maxName is the longest operator name kept, in bytes.
const maxName = 256

// database is one file in the MaxMind DB format, held in memory.
type database struct {
	reader *maxminddb.Reader
	fields map[event.Attr]bool
}

// row is what a database says about an address; empty where it says nothing.
type row struct{ country, asn, asName string }

func openDatabase(data []byte) (*database, error) {
	r, err := maxminddb.OpenBytes(data)
	if err != nil {
		return nil, err
	}
	db := &database{reader: r, fields: map[event.Attr]bool{}}
	n := 0
	for res := range r.Networks() {
		if err := res.Err(); err != nil {
			return nil, fmt.Errorf("read networks: %w", err)
		}
		v := read(res)
		db.fields[event.AttrSrcCountry] = db.fields[event.AttrSrcCountry] || v.country != ""
		db.fields[event.AttrSrcASN] = db.fields[event.AttrSrcASN] || v.asn != ""
		db.fields[event.AttrSrcASName] = db.fields[event.AttrSrcASName] || v.asName != ""
		if n++; n == probed {
			break
		}
	}
	if !db.has(event.AttrSrcCountry) && !db.has(event.AttrSrcASN) && !db.has(event.AttrSrcASName) {
		return nil, fmt.Errorf("type %q holds neither countries (country.iso_code, country_code) nor network operators (autonomous_system_number, asn)",
			r.Metadata.DatabaseType)
	}
	return db, nil
}

func (db *database) has(a event.Attr) bool { return db.fields[a] }

func (db *database) lookup(addr netip.Addr) row {
	if addr.Is6() && db.reader.Metadata.IPVersion == 4 {
		return row{}
	}
	return read(db.reader.Lookup(addr))
}

// read takes the attributes under the names that the makers of databases use.
func read(r maxminddb.Result) row {
	var v row
	if !r.Found() {
		return v
	}
	v.country = strings.ToUpper(text(r, []any{"country", "iso_code"}, []any{"country_code"}))
	if len(v.country) != 2 {
		v.country = ""
	}
	v.asn = number(r, []any{"autonomous_system_number"}, []any{"asn"}, []any{"traits", "autonomous_system_number"})
	v.asName = text(r, []any{"autonomous_system_organization"}, []any{"as_name"}, []any{"as_organization"}, []any{"traits", "autonomous_system_organization"})
	if len(v.asName) > maxName {
		v.asName = strings.ToValidUTF8(v.asName[:maxName], "")
	}
	return v
}

// text is the first of the paths that holds text.
func text(r maxminddb.Result, paths ...[]any) string {
	for _, p := range paths {
		var s string
		if err := r.DecodePath(&s, p...); err == nil && s != "" {
			return s
		}
	}
	return ""
}

// number is the first of the paths that holds a number, as decimal digits;
// some databases write it as text, "AS64500".
func number(r maxminddb.Result, paths ...[]any) string {
	for _, p := range paths {
		var n uint64
		if err := r.DecodePath(&n, p...); err == nil && n != 0 {
			return strconv.FormatUint(n, 10)
		}
		s := text(r, p)
		if len(s) > 2 && strings.EqualFold(s[:2], "AS") {
			s = s[2:]
		}
		if n, err := strconv.ParseUint(s, 10, 32); err == nil && n != 0 {
			return strconv.FormatUint(n, 10)
		}
	}
	return ""
}
