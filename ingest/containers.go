package ingest

// whole hands out the whole object of n bytes at s.r.
func (s *Splitter) whole(n int) (Record, bool, error) {
	b := s.buf[s.r : s.r+n]
	s.after = true
	if m := s.sc.spans[fieldMessageType]; m.from != 0 {
		switch string(trimSpace(b[m.from:m.to])) {
		case `"CONTROL_MESSAGE"`:
			if s.sc.spans[fieldLogEvents].from != 0 {
				s.r += n
				return Record{}, false, nil
			}
		case `"DATA_MESSAGE"`:
			// Its events came before its head: go back to them, now that it is known.
			if e := s.sc.spans[fieldLogEvents]; e.from != 0 {
				if ev := trimSpace(b[e.from:e.to]); len(ev) > 0 && ev[0] == '[' {
					if !s.setHead(b) {
						return s.fail(ReasonInvalid, n)
					}
					s.enter(e.from)
					return Record{}, false, nil
				}
			}
		}
	}
	s.r += n
	return Record{Data: b}, true, nil
}

// head reports whether the object so far is a CloudWatch Logs envelope whose
// head is complete, and keeps it.
func (s *Splitter) head() bool {
	b := s.buf[s.r : s.r+s.sc.off]
	m := s.sc.spans[fieldMessageType]
	if m.to == 0 || string(trimSpace(b[m.from:m.to])) != `"DATA_MESSAGE"` {
		return false
	}
	for _, f := range [...]field{fieldOwner, fieldLogGroup, fieldLogStream} {
		if s.sc.spans[f].to == 0 {
			return false
		}
	}
	return s.setHead(b)
}

// setHead keeps owner, logGroup and logStream of the envelope b. An envelope
// that says one of them twice is refused: readers would disagree on it.
func (s *Splitter) setHead(b []byte) bool {
	if s.sc.dup {
		return false
	}
	s.envelope = append(s.envelope[:0], '{')
	for _, f := range [...]struct {
		field field
		key   string
	}{{fieldOwner, `"owner":`}, {fieldLogGroup, `"logGroup":`}, {fieldLogStream, `"logStream":`}} {
		if sp := s.sc.spans[f.field]; sp.to != 0 {
			s.envelope = append(s.envelope, f.key...)
			s.envelope = append(s.envelope, trimSpace(b[sp.from:sp.to])...)
			s.envelope = append(s.envelope, ',')
		}
	}
	return len(s.envelope) <= s.opts.MaxRecord
}

// enter goes into the array whose '[' is the first significant byte at offset off.
func (s *Splitter) enter(off int) {
	for isSpace(s.buf[s.r+off]) {
		off++
	}
	s.r += off + 1
	s.mode, s.inObject = modeArray, true
	s.after = false
}

// stepArray hands out the next element of the array.
func (s *Splitter) stepArray() (Record, bool, error) {
	var c byte
	for {
		var at int
		var ok bool
		if c, at, ok = s.skipSpace(false); !ok {
			return s.end(true)
		}
		s.r += at
		if c != ',' {
			break
		}
		s.r++
	}
	switch {
	case c == ']':
		s.r++
		s.mode, s.after = modeTop, true
		if s.inObject {
			s.mode = modeTail
			s.sc.resume()
		}
		return Record{}, false, nil
	case c == '{', c == '[':
		return s.arrayValue(c == '{')
	case c == '"', c == '-', '0' <= c && c <= '9', c == 't', c == 'f', c == 'n':
		return s.scalar()
	}
	// Not JSON: the array was cut off, and lines follow.
	s.mode, s.after = modeTop, true
	return Record{}, false, nil
}

// arrayValue hands out the element at s.r, a record if it is an object.
func (s *Splitter) arrayValue(object bool) (Record, bool, error) {
	s.sc.reset(s.mustBeOneLine())
	for {
		switch s.advance() {
		case value:
		case closed:
			n := s.sc.off
			if object {
				if rec, ok := s.element(n); ok {
					s.r += n
					return rec, true, nil
				}
			}
			return s.piece(ReasonInvalid, n), true, nil
		case tooLarge:
			return s.skipLarge()
		case broken:
			s.mode = modeTop
			return s.fail(ReasonInvalid, s.sc.off)
		default:
			s.mode = modeTop
			return s.cutOff()
		}
	}
}

// scalar hands out an element that is neither object nor array as a piece.
func (s *Splitter) scalar() (Record, bool, error) {
	n := 0
	for n < s.opts.MaxRecord && (s.r+n < s.w || s.fill()) {
		if c := s.buf[s.r+n]; c == ',' || c == ']' || c == '\n' {
			break
		}
		n++
	}
	return s.piece(ReasonInvalid, n), true, nil
}

// element makes a record of the object of n bytes at s.r, an element of the array.
func (s *Splitter) element(n int) (Record, bool) {
	b := s.buf[s.r : s.r+n]
	if len(s.envelope) == 0 {
		return Record{Data: b}, true
	}
	id, ts, msg := s.sc.spans[fieldID], s.sc.spans[fieldTimestamp], s.sc.spans[fieldMessage]
	if s.sc.dup || id.to == 0 || ts.to == 0 || msg.to == 0 {
		return Record{}, false
	}
	s.out = append(s.out[:0], s.envelope...)
	s.out = append(s.out, `"id":`...)
	v := trimSpace(b[id.from:id.to])
	quote := len(v) > 0 && v[0] != '"' // some senders write a number
	if quote {
		s.out = append(s.out, '"')
	}
	s.out = append(s.out, v...)
	if quote {
		s.out = append(s.out, '"')
	}
	s.out = append(s.out, `,"timestamp":`...)
	s.out = append(s.out, trimSpace(b[ts.from:ts.to])...)
	s.out = append(s.out, `,"message":`...)
	s.out = append(s.out, trimSpace(b[msg.from:msg.to])...)
	s.out = append(s.out, '}')
	return Record{Data: s.out}, len(s.out) <= s.opts.MaxRecord
}

// stepTail passes the rest of the object around an array.
func (s *Splitter) stepTail() (Record, bool, error) {
	for {
		if s.r == s.w && !s.fill() {
			return s.end(true)
		}
		n, v := s.sc.run(s.buf[s.r:s.w])
		s.r += n
		switch v {
		case closed:
			s.mode, s.after = modeTop, true
			return Record{}, false, nil
		case broken:
			s.mode, s.after = modeTop, true
			if s.buf[s.r-1] != '\n' {
				s.r-- // what cannot stand here may begin something
			}
			return Record{}, false, nil
		}
		if v == value && s.sc.current == fieldRecords && !s.sc.dup {
			if c, ok := s.peekBehind(-1); ok && c == '[' {
				s.envelope = s.envelope[:0]
				s.enter(0)
				return Record{}, false, nil
			}
		}
	}
}

// tooLarge is advance's verdict on a value that MaxRecord bytes do not hold.
const tooLarge verdict = 255
