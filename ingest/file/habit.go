package file

import (
	"bytes"

	"github.com/vedette-sec/vedette/event"
)

// habit is what the records of a file had in common so far: a file is mostly of
// one log type, and to try that first is cheaper than to tell it from each
// record. It takes only what needs no more than a glance to be sure.
type habit struct {
	typ event.Type
	// group is how the last CloudWatch Logs event began, up to its log stream's name:
	// what begins alike is of the same group.
	group []byte
	// message is how its message began, up to the end of a first key: access logs
	// have one format. Of a function's group any message will do.
	message []byte
}

var (
	trailBegins    = []byte(`{"eventVersion":`)
	functionsGroup = []byte(`"logGroup":"/aws/lambda/`)
	streamKey      = []byte(`,"logStream":"`)
	messageKey     = []byte(`,"message":"`)
	objectBegins   = []byte(`{\"`)
	keyEnds        = []byte(`\":`)
)

// guess is the type that a record is likely of, or unknown.
func (h *habit) guess(data []byte) event.Type {
	switch h.typ {
	case event.TypeCloudTrail:
		if bytes.HasPrefix(data, trailBegins) {
			return h.typ
		}
	case event.TypeLambda, event.TypeAPIGateway:
		if rest, ok := bytes.CutPrefix(data, h.group); ok {
			if at := bytes.Index(rest, messageKey); at >= 0 && bytes.HasPrefix(rest[at+len(messageKey):], h.message) {
				return h.typ
			}
		}
	}
	return event.TypeUnknown
}

// learn takes note of a record whose type was told from its content.
func (h *habit) learn(typ event.Type, data []byte) {
	h.typ = event.TypeUnknown
	if typ == event.TypeCloudTrail {
		h.typ = typ
		return
	}
	end := bytes.Index(data, streamKey)
	if end < 0 {
		return
	}
	head, rest := data[:end+len(streamKey)], data[end+len(streamKey):]
	at := bytes.Index(rest, messageKey)
	if at < 0 || bytes.IndexByte(head, '\\') >= 0 {
		return
	}
	message := rest[at+len(messageKey):]
	switch ofFunction := bytes.Contains(head, functionsGroup); {
	case ofFunction && typ == event.TypeLambda:
		message = nil
	case !ofFunction && typ == event.TypeAPIGateway && bytes.HasPrefix(message, objectBegins):
		n := bytes.Index(message[len(objectBegins):], keyEnds)
		if n < 0 {
			return
		}
		message = message[:len(objectBegins)+n+len(keyEnds)]
	default:
		return
	}
	h.typ = typ
	h.group = append(h.group[:0], head...)
	h.message = append(h.message[:0], message...)
}
