package event

import "strings"

// Value is one value of a record.
type Value struct {
	Kind Kind
	Raw  []byte // as it stands in the document, a string without its quotes
	esc  bool
}

// Plain says that Raw is the text as it is: a string without escapes, a number
// or a boolean.
func (v Value) Plain() bool {
	return !v.esc && v.Kind >= KindBool && v.Kind <= KindString
}

// AppendText appends the value's text: a string with its escapes undone, a
// number or a boolean as it stands, nothing for null. An object or an array is
// compact JSON with the escapes within its strings undone, to search in.
func (v Value) AppendText(dst []byte) []byte {
	switch v.Kind {
	case KindString:
		if v.esc {
			return appendUnescaped(dst, v.Raw)
		}
		return append(dst, v.Raw...)
	case KindBool, KindNumber:
		return append(dst, v.Raw...)
	case KindObject, KindArray:
		return appendCompact(dst, v.Raw)
	}
	return dst
}

// Path is a dotted path into a record, compiled: what the scanner has noted down
// is taken from there, the rest is walked. It is immutable.
//
// A dot means nesting: "userIdentity.type" is the member type of the object
// userIdentity, and never a member whose own name is "userIdentity.type", which
// could otherwise stand in for a field that matters. Only where the path's next
// word is none of those fields is a key with dots in it taken at its word as
// well: "requestParameters.x.y" is also the member "x.y" of requestParameters.
type Path struct {
	dotted string
	known  []steps // by place in logTypes
}

// steps are the slots along a path, from the outside in, and for each what of
// the path is left below it.
type steps struct {
	n    int
	slot [5]slot
	rest [5]string
	// next are the hashes of the keys with which the path may go on below the
	// innermost slot, in the key set of the node there: one for each dot, as a key
	// may have dots itself. It is nil if there is no such node.
	next []uint8
}

// CompilePath compiles a dotted path, "userIdentity.sessionContext.sessionIssuer.arn".
func CompilePath(dotted string) *Path {
	p := &Path{dotted: dotted, known: make([]steps, len(logTypes))}
	for i := range logTypes {
		p.known[i] = logTypes[i].schema.resolve(dotted)
	}
	return p
}

// String is the path as it was given to CompilePath.
func (p *Path) String() string { return p.dotted }

func (s *schema) resolve(dotted string) steps {
	var st steps
	n, rest := s.root, dotted
	for n != nil && rest != "" {
		key, below, more := strings.Cut(rest, ".")
		if more && below == "" {
			break
		}
		e := n.find([]byte(key), keyHash([]byte(key), n.mul))
		if e == nil {
			break
		}
		st.slot[st.n], st.rest[st.n] = e.slot, below
		st.n++
		n, rest = e.child, below
	}
	if n != nil && rest != "" {
		for i := range len(rest) + 1 {
			if i == len(rest) || rest[i] == '.' {
				st.next = append(st.next, keyHash([]byte(rest[:i]), n.mul))
			}
		}
	}
	return st
}

// mayGoOn says whether a key of which the scanner took no note may be the next.
func (e *Event) mayGoOn(next []uint8) bool {
	for _, h := range next {
		if e.other.has(h) {
			return true
		}
	}
	return next == nil
}

// Values appends the values at a path. An array on the way, or at its end, gives
// the values of all its elements; an empty one at the end gives itself. Where a
// key occurs twice in one object below the fields that matter (there it is
// refused), both give their values, so that neither hides. Keys are compared
// with their escapes undone; see [Path] for keys with dots in them.
//
// The values alias the event's document.
func (e *Event) Values(dst []Value, p *Path) []Value {
	if !e.scanned {
		return dst
	}
	st := &p.known[e.place]
	for i := st.n - 1; i >= 0; i-- {
		if !e.has(st.slot[i]) {
			continue
		}
		sp := e.spans[st.slot[i]]
		switch {
		case st.rest[i] == "":
			return appendValues(dst, e.Doc, sp)
		case sp.kind == KindArray || sp.kind == KindObject && i == st.n-1 && e.mayGoOn(st.next):
			return walk(dst, e.Doc, sp, st.rest[i])
		}
		// The scanner has seen all of this object's fields, and the next on the
		// path is not among them.
		return dst
	}
	if st.n > 0 || !e.mayGoOn(st.next) {
		return dst
	}
	return walk(dst, e.Doc, span{start: uint32(space(e.Doc, 0)), end: uint32(len(e.Doc)), kind: KindObject}, p.dotted)
}

// appendValues appends a value, of an array its elements.
func appendValues(dst []Value, doc []byte, sp span) []Value {
	if sp.kind != KindArray {
		return append(dst, Value{Kind: sp.kind, Raw: doc[sp.start:sp.end:sp.end], esc: sp.esc})
	}
	i := space(doc, int(sp.start)+1)
	if doc[i] == ']' {
		return append(dst, Value{Kind: KindArray, Raw: doc[sp.start:sp.end:sp.end]})
	}
	for {
		el, next := valueAt(doc, i)
		dst = appendValues(dst, doc, el)
		if i = space(doc, next); doc[i] == ']' {
			return dst
		}
		i = space(doc, i+1)
	}
}

// walk appends the values at a path below a container. The document has been
// checked, so it cannot run over its end.
func walk(dst []Value, doc []byte, sp span, path string) []Value {
	i := space(doc, int(sp.start)+1)
	switch sp.kind {
	case KindArray:
		for doc[i] != ']' {
			el, next := valueAt(doc, i)
			dst = walk(dst, doc, el, path)
			if i = space(doc, next); doc[i] == ',' {
				i = space(doc, i+1)
			}
		}
	case KindObject:
		for doc[i] != '}' {
			start := i + 1
			end, esc, _, _ := strEnd(doc, start)
			rest, ok := below(path, doc[start:end], esc)
			el, next := valueAt(doc, space(doc, space(doc, end+1)+1))
			switch {
			case !ok:
			case rest == "":
				dst = appendValues(dst, doc, el)
			default:
				dst = walk(dst, doc, el, rest)
			}
			if i = space(doc, next); doc[i] == ',' {
				i = space(doc, i+1)
			}
		}
	}
	return dst
}

// below takes a key off the front of a path.
func below(path string, key []byte, esc bool) (rest string, ok bool) {
	var buf [64]byte
	if esc {
		key = appendUnescaped(buf[:0], key)
	}
	if len(key) > len(path) || path[:len(key)] != string(key) {
		return "", false
	}
	if len(key) == len(path) {
		return "", true
	}
	rest = path[len(key)+1:]
	return rest, path[len(key)] == '.' && rest != ""
}

// valueAt finds the value at doc[i] of a checked document, and the index after it.
func valueAt(doc []byte, i int) (span, int) {
	switch c := doc[i]; c {
	case '"':
		end, esc, _, _ := strEnd(doc, i+1)
		return span{uint32(i + 1), uint32(end), KindString, esc}, end + 1
	case '{', '[':
		k := KindObject
		if c == '[' {
			k = KindArray
		}
		end := closing(doc, i)
		return span{uint32(i), uint32(end), k, false}, end
	default:
		end, k, _ := scalar(doc, i)
		return span{uint32(i), uint32(end), k, false}, end
	}
}

// closing is the index after the container that opens at doc[i], of a checked
// document.
func closing(doc []byte, i int) int {
	depth := 0
	for {
		switch doc[i] {
		case '"':
			i, _, _, _ = strEnd(doc, i+1)
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
}
