package event

import "bytes"

// lambdaText reads a line of text: the platform's START, END, REPORT,
// INIT_START and XRAY lines, the lines it writes about an invocation that
// failed, and the application's own.
func (e *Event) lambdaText(text []byte) *DecodeError {
	text = bytes.TrimRight(text, "\r\n\t ")
	l := &e.line
	var stamp []byte
	if stamp, text = cutStamp(text); stamp != nil {
		text = cutStream(text)
	}
	if e.env.time != 0 {
		stamp = nil // the platform's clock goes before what the line says
	}
	if stamp == nil && e.env.time == 0 {
		return &DecodeError{Reason: ReasonTime, Err: errBareLine}
	}
	if err := e.setTime(stamp); err != nil {
		return err
	}
	word, rest, _ := bytes.Cut(text, []byte(" "))
	switch string(word) {
	case "START":
		if e.requestLine(rest, "start") {
			_, version, _ := bytes.Cut(rest, []byte(" Version: "))
			l.version = firstOf(version)
		}
	case "END":
		e.requestLine(rest, "done")
	case "REPORT":
		if e.requestLine(rest, "report") {
			e.report(rest)
		}
	case "INIT_START":
		l.phase = "init"
		_, arn, _ := bytes.Cut(rest, []byte("Runtime Version ARN: "))
		l.region = arnPart(arn, 3)
	case "XRAY":
		l.trace = valueAfter(rest, "TraceId: ")
	default:
		e.applicationLine(text)
	}
	return nil
}

// requestLine reads RequestId: UUID, which the platform's lines have; one without
// is the application's.
func (e *Event) requestLine(rest []byte, phase string) bool {
	id, ok := bytes.CutPrefix(rest, []byte("RequestId: "))
	if !ok || len(id) < 36 || !isUUID(id[:36]) || len(id) > 36 && id[36] > ' ' {
		return false
	}
	e.line.request = id[:36:36]
	e.invocation(phase)
	return true
}

// report reads a REPORT line: Key: value, parted by tabs.
func (e *Event) report(rest []byte) {
	var status []byte
	for len(rest) > 0 {
		var part []byte
		part, rest, _ = bytes.Cut(rest, []byte("\t"))
		key, value, _ := bytes.Cut(bytes.TrimSpace(part), []byte(": "))
		switch string(key) {
		case "Duration":
			if ms, ok := parseFloat(bytes.TrimSuffix(value, []byte(" ms"))); ok {
				e.Duration = ms
			}
		case "Init Duration", "Restore Duration":
			e.line.cold = true
		case "Status":
			status = value
		case "Error Type":
			e.line.errorType = firstOf(value)
		case "XRAY TraceId":
			e.line.trace = firstOf(value)
		}
	}
	e.Outcome = lambdaOutcome(status)
	if status == nil && e.line.errorType != nil {
		e.Outcome = OutcomeServerError
	}
}

// applicationLine looks for the request's id and for what the platform and the
// runtimes write about a failure. All else is the application's.
func (e *Event) applicationLine(text []byte) {
	l := &e.line
	if level, rest, ok := bytes.Cut(text, []byte("]\t")); ok && len(level) < 12 && bytes.HasPrefix(level, []byte("[")) {
		// Python's logger: [LEVEL], time, id, text.
		if stamp, rest := cutStamp(rest); stamp != nil {
			text = rest
		}
	}
	text, _ = bytes.CutPrefix(text, []byte("RequestId: "))
	if len(text) >= 36 && isUUID(text[:36]) && (len(text) == 36 || text[36] <= ' ') {
		l.request = text[:36:36]
		text = bytes.TrimLeft(text[36:], " \t")
	}
	if l.request == nil {
		// A runtime's own failure line, not a logger's: that has a tab after the level.
		if rest, ok := bytes.CutPrefix(text, []byte("[ERROR] ")); ok {
			name, _, ok := bytes.Cut(rest, []byte(": "))
			if ok && bytes.IndexByte(name, ' ') < 0 && bytes.Contains(rest, []byte("Traceback ")) {
				e.failure(OutcomeServerError, firstOf(name))
			}
		}
		return
	}
	if rest, ok := bytes.CutPrefix(text, []byte("Task timed out after ")); ok {
		seconds, _, _ := bytes.Cut(rest, []byte(" "))
		if s, ok := parseFloat(seconds); ok {
			e.Duration = s * 1e3
		}
		e.failure(OutcomeTimeout, nil)
		return
	}
	switch {
	case bytes.HasPrefix(text, []byte("Process exited before completing request")),
		bytes.HasPrefix(text, []byte("Error: Runtime exited ")):
		e.failure(OutcomeServerError, e.constant("Runtime.ExitError"))
	case bytes.HasPrefix(text, []byte("ERROR\tInvoke Error")), bytes.HasPrefix(text, []byte("ERROR\tUncaught Exception")):
		name := valueAfter(text, `"errorType":"`)
		if i := bytes.IndexByte(name, '"'); i >= 0 {
			name = name[:i]
		}
		e.failure(OutcomeServerError, firstOf(name))
	}
}

func (e *Event) failure(o Outcome, errorType []byte) {
	e.invocation("done")
	e.Outcome = o
	e.line.errorType = errorType
}

// valueAfter is what follows a key up to white space; nil without the key.
func valueAfter(text []byte, key string) []byte {
	i := bytes.Index(text, []byte(key))
	if i < 0 {
		return nil
	}
	text = text[i+len(key):]
	for j, c := range text {
		if c <= ' ' {
			text = text[:j]
			break
		}
	}
	return firstOf(text)
}

// cutStamp takes an RFC 3339 time off the front of a line.
func cutStamp(text []byte) (stamp, rest []byte) {
	i := bytes.IndexAny(text, " \t")
	if i < 19 || i > 40 {
		return nil, text
	}
	if _, ok := parseTime(text[:i]); !ok {
		return nil, text
	}
	return text[:i], bytes.TrimLeft(text[i:], " \t")
}

// cutStream takes a log stream's name off the front of a line, where a tool that
// prints streams has put it behind the time.
func cutStream(text []byte) []byte {
	word, rest, ok := bytes.Cut(text, []byte(" "))
	if _, version := streamFunction(word); !ok || version == nil {
		return text
	}
	return rest
}
