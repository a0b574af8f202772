package event

// logType is all that this package knows of one log type. Whoever adds a type adds
// its name to the Types, its line to logTypes, its fields and its decoder, and what
// tells it apart to DetectType.
type logType struct {
	name     Type
	provider string // cloud.provider in OCSF's words
	product  string // that writes the log
	delay    Delay
	schema   *schema // of its documents
	decode   func(*Decoder, *Event) *DecodeError
	attr     func(*Event, Attr) []byte
	code     func(*Event) []byte // metadata.event_code
	// by are the fields whose values pick the kinds of records apart; none: nothing does.
	by [2]slot
}

// Delay says how long records of a log type take from when it happened until they
// are appended, in ns.
type Delay struct {
	Usual int64 // after it a record is there as a rule
	Most  int64 // a record may take as long and still counts with what was in time
}

const minute = 60_000_000_000

// The delays of logs that are written line by line, and of those that are collected
// into files first.
var (
	promptly = Delay{3 * minute, 15 * minute}
	byFile   = Delay{20 * minute, 90 * minute}
)

var logTypes = [...]logType{
	{
		name: TypeCloudTrail, provider: "AWS", product: "CloudTrail", delay: byFile, schema: cloudTrailSchema,
		decode: (*Decoder).cloudTrail, attr: (*Event).cloudTrailAttr, by: [2]slot{ctEventSource, ctEventName},
		code: func(e *Event) []byte { return e.text(ctEventType) },
	},
	{
		name: TypeAPIGateway, provider: "AWS", product: "API Gateway", delay: promptly, schema: apiGatewaySchema,
		decode: (*Decoder).apiGateway, attr: (*Event).apiGatewayAttr, code: (*Event).gatewayError,
	},
	{
		name: TypeLambda, provider: "AWS", product: "Lambda", delay: promptly, schema: lambdaSchema,
		decode: (*Decoder).lambda, attr: (*Event).lambdaAttr,
		code: func(e *Event) []byte { return e.text(lmType) },
	},
}

// logTypeOf is a log type's place in logTypes, by its name.
var logTypeOf = func() map[Type]int {
	m := make(map[Type]int, len(logTypes))
	for i := range logTypes {
		m[logTypes[i].name] = i
	}
	return m
}()

// Types are the log types that are decoded here.
func Types() []Type {
	ts := make([]Type, len(logTypes))
	for i := range logTypes {
		ts[i] = logTypes[i].name
	}
	return ts
}

// Known tells whether t is one of Types.
func (t Type) Known() bool {
	_, ok := logTypeOf[t]
	return ok
}

// Delay is how long records of the type take; of a type that is not known the
// longest of all.
func (t Type) Delay() Delay {
	if i, ok := logTypeOf[t]; ok {
		return logTypes[i].delay
	}
	return byFile
}
