package event

import (
	"bytes"
	"errors"
)

// The slots of a Lambda function's JSON log line: the platform's records, and
// the fields of an application's line in JSON format.
const (
	lmTime slot = firstSlot + iota
	lmType
	lmLevel
	lmRequestID
	lmRequestID2
	lmErrorType
	lmErrorMessage
	lmXRay
	lmContext
	lmSourceIP
	lmDomain
	lmUserAgent
	lmAPI
	lmStage
	lmRecord
	lmRecRequest
	lmRecVersion
	lmRecFunctionARN
	lmRecFunctionName
	lmRecFunctionVersion
	lmRecRuntimeARN
	lmRecStatus
	lmRecErrorType
	lmRecMetrics
	lmDuration
	lmInit
	lmRestore
	lmProduced
	lmRecTracing
	lmTraceValue
)

var lambdaSchema = newSchema([]field{
	{"time", lmTime},
	{"type", lmType},
	{"level", lmLevel},
	{"requestId", lmRequestID},
	{"AWSRequestId", lmRequestID2},
	{"errorType", lmErrorType},
	{"errorMessage", lmErrorMessage},
	{"xray_trace_id", lmXRay},
	{"sls_ctx", lmContext},
	{"sourceIp", lmSourceIP},
	{"domainName", lmDomain},
	{"userAgent", lmUserAgent},
	{"apiId", lmAPI},
	{"stage", lmStage},
	{"record", lmRecord},
	{"record.requestId", lmRecRequest},
	{"record.version", lmRecVersion},
	{"record.functionArn", lmRecFunctionARN},
	{"record.functionName", lmRecFunctionName},
	{"record.functionVersion", lmRecFunctionVersion},
	{"record.runtimeVersionArn", lmRecRuntimeARN},
	{"record.status", lmRecStatus},
	{"record.errorType", lmRecErrorType},
	{"record.metrics", lmRecMetrics},
	{"record.metrics.durationMs", lmDuration},
	{"record.metrics.initDurationMs", lmInit},
	{"record.metrics.restoreDurationMs", lmRestore},
	{"record.metrics.producedBytes", lmProduced},
	{"record.tracing", lmRecTracing},
	{"record.tracing.value", lmTraceValue},
})

var errBareLine = errors.New("no event time: the line has none and came without its CloudWatch Logs event")

// line is what a Lambda log line says, of either format.
type line struct {
	phase     string
	request   []byte
	version   []byte
	errorType []byte
	trace     []byte
	region    []byte
	cold      bool
}

func (d *Decoder) lambda(ev *Event) *DecodeError {
	text := ev.Raw
	if isObject(ev.Raw) {
		if !d.document(ev, ev.Raw, true) {
			return d.refused()
		}
		message, ok := ev.unwrap()
		if ok && isObject(message) && !d.document(ev, message, false) {
			// An application may write what begins like JSON and is not: a line of text.
			if isPlatform(message) {
				return d.refused()
			}
		}
		text = message
	}
	ev.Layer = LayerFunction
	if ev.scanned {
		return ev.lambdaJSON()
	}
	return ev.lambdaText(text)
}

func isObject(b []byte) bool {
	i := space(b, 0)
	return i < len(b) && b[i] == '{'
}

func isPlatform(text []byte) bool {
	return bytes.Contains(text, []byte(`"platform.`))
}

func (e *Event) lambdaJSON() *DecodeError {
	// An application may have a field of that name that is no time.
	if ns, ok := parseTime(e.first(lmTime, envTime)); ok {
		e.Time = ns
	} else if err := e.setTime(nil); err != nil {
		return err
	}
	l := &e.line
	kind, platform := bytes.CutPrefix(e.text(lmType), []byte("platform."))
	if !platform || !e.has(lmRecord) {
		l.request = e.first(lmRequestID, lmRequestID2)
		l.errorType = e.text(lmErrorType)
		l.trace = traceRoot(e.text(lmXRay))
		return nil
	}
	l.request = e.text(lmRecRequest)
	l.version = e.first(lmRecVersion, lmRecFunctionVersion)
	l.errorType = e.text(lmRecErrorType)
	l.trace = traceRoot(e.text(lmTraceValue))
	l.region = arnPart(e.first(lmRecFunctionARN, lmRecRuntimeARN), 3)
	if ms, ok := parseFloat(e.text(lmDuration)); ok {
		e.Duration = ms
	}
	switch string(kind) {
	case "start":
		e.invocation("start")
	case "runtimeDone":
		e.invocation("done")
		e.Outcome = lambdaOutcome(e.text(lmRecStatus))
	case "report":
		e.invocation("report")
		e.Outcome = lambdaOutcome(e.text(lmRecStatus))
		l.cold = e.has(lmInit) || e.has(lmRestore)
	case "initStart", "initRuntimeDone", "initReport", "restoreStart", "restoreRuntimeDone", "restoreReport":
		l.phase = "init"
		if status := e.text(lmRecStatus); status != nil {
			e.Outcome = lambdaOutcome(status)
		}
	}
	return nil
}

// invocation marks the event as one of a function's invocation.
func (e *Event) invocation(phase string) {
	e.line.phase = phase
	e.Class, e.Activity = ClassAPIActivity, activityOther
}

// lambdaOutcome reads the platform's status. A report without one is of a
// runtime that only mentions trouble.
func lambdaOutcome(status []byte) Outcome {
	switch string(status) {
	case "", "success":
		return OutcomeSuccess
	case "timeout":
		return OutcomeTimeout
	case "error", "failure":
		return OutcomeServerError
	}
	return OutcomeUnknown
}

func (e *Event) lambdaAttr(a Attr) []byte {
	l := &e.line
	switch a {
	case AttrUID:
		if e.env.id != nil {
			return e.join(e.env.group, []byte(":"), e.env.id)
		}
	case AttrCloudAccount:
		if e.env.owner != nil {
			return e.env.owner
		}
		return arnPart(e.text(lmRecFunctionARN), 4)
	case AttrCloudRegion:
		return l.region
	case AttrAPIOperation:
		if e.Class == ClassAPIActivity {
			return e.constant("Invoke")
		}
	case AttrAPIService:
		return e.constant("lambda.amazonaws.com")
	case AttrAPIRequestUID, AttrFunctionRequest:
		return l.request
	case AttrAPIError:
		return l.errorType
	case AttrAPIErrorMessage:
		return e.text(lmErrorMessage)
	case AttrResourceUID, AttrFunctionUID:
		return parseFunction(e.text(lmRecFunctionARN)).arn
	case AttrResourceType:
		return e.constant("AWS::Lambda::Function")
	case AttrFunctionName:
		return e.lambdaName()
	case AttrFunctionVersion:
		if l.version != nil {
			return l.version
		}
		_, version := streamFunction(e.env.stream)
		return version
	case AttrFunctionPhase:
		return e.constant(l.phase)
	case AttrFunctionColdStart:
		switch {
		case l.phase != "report":
		case l.cold:
			return e.constant("true")
		default:
			return e.constant("false")
		}
	case AttrSrcIP:
		if ip := e.contextText(lmSourceIP); isIP(ip) {
			return ip
		}
	case AttrHTTPHost:
		return e.contextText(lmDomain)
	case AttrHTTPUserAgent:
		return e.contextText(lmUserAgent)
	case AttrGatewayAPI:
		return e.contextText(lmAPI)
	case AttrGatewayStage:
		return e.contextText(lmStage)
	case AttrBytesOut:
		return e.text(lmProduced)
	case AttrTraceUID:
		return l.trace
	}
	return nil
}

// contextText is a field of the line in which a function's middleware tells the
// request context; an application's other lines may use such names for anything.
func (e *Event) contextText(s slot) []byte {
	if !e.has(lmContext) {
		return nil
	}
	return e.text(s)
}

// lambdaName is the function's name: from the record, the log group
// /aws/lambda/NAME, or, of a log group that functions share, the log stream.
func (e *Event) lambdaName() []byte {
	if f := parseFunction(e.text(lmRecFunctionARN)); f.name != nil {
		return f.name
	}
	if name := e.text(lmRecFunctionName); name != nil {
		return name
	}
	if name, ok := bytes.CutPrefix(e.env.group, []byte("/aws/lambda/")); ok && len(name) > 0 {
		// Lambda@Edge puts the region of the original in front.
		if i := bytes.LastIndexByte(name, '.'); i >= 0 && i+1 < len(name) {
			name = name[i+1:]
		}
		return name
	}
	name, _ := streamFunction(e.env.stream)
	return name
}

// streamFunction reads a log stream's name: YYYY/MM/DD/[VERSION]ID, with the
// function's name before the bracket in a shared log group.
func streamFunction(stream []byte) (name, version []byte) {
	for range 3 {
		_, rest, ok := bytes.Cut(stream, []byte("/"))
		if !ok {
			return nil, nil
		}
		stream = rest
	}
	name, rest, ok := bytes.Cut(stream, []byte("["))
	if !ok {
		return nil, nil
	}
	version, _, ok = bytes.Cut(rest, []byte("]"))
	if !ok {
		return nil, nil
	}
	return firstOf(name), firstOf(version)
}
