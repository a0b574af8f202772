package event

import (
	"math"
	"strconv"
)

// ocsfVersion is the schema's version that OCSF writes.
const ocsfVersion = "1.5.0"

// OCSF appends the event as one JSON object of OCSF 1.5: for people and for
// other systems, not for the hot path. What OCSF has no place for stands in its
// "unmapped".
func OCSF(dst []byte, ev *Event) []byte {
	w := ocsfWriter{dst: dst, ev: ev}
	w.open("")
	w.base()
	w.metadata()
	w.who()
	w.http()
	w.api()
	w.class()
	w.unmapped()
	w.close()
	return w.dst
}

// ocsfWriter appends members; an object without any is taken back.
type ocsfWriter struct {
	dst   []byte
	ev    *Event
	marks [8]int // where each open object begins, its key included
	depth int
}

func (w *ocsfWriter) key(key string) {
	if c := w.dst[len(w.dst)-1]; c != '{' && c != '[' {
		w.dst = append(w.dst, ',')
	}
	w.dst = append(w.dst, '"')
	w.dst = append(w.dst, key...)
	w.dst = append(w.dst, '"', ':')
}

func (w *ocsfWriter) open(key string) {
	w.marks[w.depth] = len(w.dst)
	w.depth++
	if key != "" {
		w.key(key)
	}
	w.dst = append(w.dst, '{')
}

func (w *ocsfWriter) close() {
	w.depth--
	if w.dst[len(w.dst)-1] == '{' && w.depth > 0 {
		w.dst = w.dst[:w.marks[w.depth]]
		return
	}
	w.dst = append(w.dst, '}')
}

func (w *ocsfWriter) text(key string, t []byte) {
	if len(t) > 0 {
		w.key(key)
		w.dst = appendString(w.dst, t)
	}
}

func (w *ocsfWriter) word(key, t string) {
	if t != "" {
		w.text(key, w.ev.constant(t))
	}
}

func (w *ocsfWriter) attr(key string, a Attr) { w.text(key, w.ev.Attr(a)) }

func (w *ocsfWriter) number(key string, n int64) {
	w.key(key)
	w.dst = strconv.AppendInt(w.dst, n, 10)
}

// attrNumber writes an attribute that OCSF wants as an integer.
func (w *ocsfWriter) attrNumber(key string, a Attr) {
	if n, ok := parseInt(w.ev.Attr(a)); ok {
		w.number(key, n)
	}
}

func (w *ocsfWriter) yes(key string, b bool) {
	w.key(key)
	w.dst = strconv.AppendBool(w.dst, b)
}

func (w *ocsfWriter) base() {
	ev := w.ev
	name, category := className(ev.Class)
	w.number("class_uid", int64(ev.Class))
	w.word("class_name", name)
	w.number("category_uid", category)
	w.number("activity_id", int64(ev.Activity))
	w.number("type_uid", int64(ev.Class)*100+int64(ev.Activity))
	if ev.Class == ClassAPIActivity && ev.Layer == LayerFunction {
		w.word("activity_name", "Invoke")
	}
	w.number("time", ev.Time/1e6)
	w.number("severity_id", 1)
	switch ev.Outcome {
	case OutcomeUnknown:
		w.number("status_id", 0)
	case OutcomeSuccess:
		w.number("status_id", 1)
		w.word("status", "Success")
	default:
		w.number("status_id", 2)
		w.word("status", "Failure")
	}
	if ev.Duration > 0 && ev.Duration < math.MaxInt32 {
		w.number("duration", int64(math.Round(ev.Duration)))
	}
}

func className(c Class) (name string, category int64) {
	switch c {
	case ClassAuthentication:
		return "Authentication", 3
	case ClassHTTPActivity:
		return "HTTP Activity", 4
	case ClassAPIActivity:
		return "API Activity", 6
	case ClassDatastore:
		return "Datastore Activity", 6
	}
	return "Base Event", 0
}

func (w *ocsfWriter) metadata() {
	ev := w.ev
	w.open("metadata")
	w.word("version", ocsfVersion)
	w.attr("uid", AttrUID)
	w.attr("log_name", AttrType)
	w.text("correlation_uid", firstOf(ev.Attr(AttrGatewayIntegration), ev.Attr(AttrAPIRequestUID)))
	if ev.of != nil {
		w.text("event_code", ev.of.code(ev))
		w.open("product")
		w.word("vendor_name", ev.of.provider)
		w.word("name", ev.of.product)
		w.close()
	}
	w.text("log_provider", ev.env.group)
	w.close()

	w.open("cloud")
	w.attr("provider", AttrCloudProvider)
	w.open("account")
	w.attr("uid", AttrCloudAccount)
	w.close()
	w.attr("region", AttrCloudRegion)
	w.close()
}

func (w *ocsfWriter) user(key string) {
	w.open(key)
	w.attr("uid", AttrActorUID)
	w.attr("name", AttrActorName)
	w.attr("type", AttrActorType)
	w.attr("credential_uid", AttrActorCredential)
	if w.ev.Type == TypeCloudTrail {
		w.text("uid_alt", w.ev.text(ctUserPrincipal))
	}
	w.close()
}

func (w *ocsfWriter) who() {
	ev := w.ev
	w.open("actor")
	w.user("user")
	w.open("session")
	w.attr("uid", AttrActorSession)
	w.attr("issuer", AttrActorIssuer)
	if ev.Type == TypeCloudTrail {
		if mfa := ev.text(ctMFA); mfa != nil {
			w.yes("is_mfa", string(mfa) == "true")
		}
	}
	w.close()
	w.attr("invoked_by", AttrActorInvokedBy)
	if ev.Type == TypeLambda && ev.Class == ClassAPIActivity {
		w.word("invoked_by", "unknown") // the class demands an actor; the log knows none
	}
	w.close()

	w.open("src_endpoint")
	w.attr("ip", AttrSrcIP)
	w.attr("domain", AttrSrcDomain)
	if ev.Type == TypeCloudTrail {
		w.text("uid", ev.text(ctVPCEndpoint))
	}
	w.open("location")
	w.attr("country", AttrSrcCountry)
	w.close()
	w.open("autonomous_system")
	w.attrNumber("number", AttrSrcASN)
	w.attr("name", AttrSrcASName)
	w.close()
	if ev.Type == TypeLambda && ev.Class == ClassAPIActivity && ev.Attr(AttrSrcIP) == nil {
		w.word("name", "unknown")
	}
	w.close()
}

func (w *ocsfWriter) http() {
	ev := w.ev
	w.open("http_request")
	w.attr("http_method", AttrHTTPMethod)
	w.open("url")
	w.attr("hostname", AttrHTTPHost)
	w.attr("path", AttrHTTPPath)
	w.close()
	w.attr("user_agent", AttrHTTPUserAgent)
	if ev.Type == TypeCloudTrail {
		if n, ok := parseInt(ev.text(ctBytesIn)); ok {
			w.number("length", n)
		}
	}
	if ev.Type == TypeAPIGateway {
		w.attr("uid", AttrUID)
	}
	w.close()

	w.open("http_response")
	if ev.Type == TypeAPIGateway {
		w.attrNumber("code", AttrHTTPStatus)
		if ev.Duration > 0 && ev.Duration < math.MaxInt32 {
			w.number("latency", int64(math.Round(ev.Duration)))
		}
	}
	w.attrNumber("length", AttrBytesOut)
	w.close()
	w.open("trace")
	w.attr("uid", AttrTraceUID)
	w.close()
}

func (w *ocsfWriter) api() {
	w.open("api")
	w.attr("operation", AttrAPIOperation)
	w.open("service")
	w.attr("name", AttrAPIService)
	w.close()
	w.open("request")
	w.attr("uid", AttrAPIRequestUID)
	w.close()
	w.open("response")
	w.attrNumber("code", AttrHTTPStatus)
	w.attr("error", AttrAPIError)
	w.attr("error_message", AttrAPIErrorMessage)
	w.close()
	w.close()
	if uid := w.ev.Attr(AttrResourceUID); uid != nil {
		w.key("resources")
		w.dst = append(w.dst, '[', '{')
		w.text("uid", uid)
		w.attr("type", AttrResourceType)
		w.dst = append(w.dst, '}', ']')
	}
}

// class writes what some classes ask for on top.
func (w *ocsfWriter) class() {
	ev := w.ev
	switch ev.Class {
	case ClassAuthentication:
		w.user("user")
		w.yes("is_mfa", string(ev.text(ctMFAUsed)) == "Yes")
		w.number("logon_type_id", 3)
		w.open("service")
		w.attr("name", AttrAPIService)
		w.close()
		w.attr("status_detail", AttrAPIErrorMessage)
	case ClassDatastore:
		switch string(ev.Attr(AttrAPIService)) {
		case "dynamodb.amazonaws.com":
			w.number("type_id", 3)
		case "rds-data.amazonaws.com", "sdb.amazonaws.com":
			w.number("type_id", 1)
		default:
			w.number("type_id", 2)
		}
	}
}

func (w *ocsfWriter) unmapped() {
	ev := w.ev
	w.open("unmapped")
	w.attr("layer", AttrLayer)
	w.attr("outcome", AttrOutcome)
	if ev.Type == TypeCloudTrail {
		w.word("code_origin", "mapped") // the status code stands for the error code
	}
	w.open("gateway")
	w.attr("api_id", AttrGatewayAPI)
	w.attr("stage", AttrGatewayStage)
	w.attr("route", AttrGatewayRoute)
	w.attr("integration_request_id", AttrGatewayIntegration)
	w.attr("authorizer_request_id", AttrGatewayAuthorizer)
	w.close()
	w.open("function")
	w.attr("uid", AttrFunctionUID)
	w.attr("name", AttrFunctionName)
	w.attr("version", AttrFunctionVersion)
	w.attr("request_id", AttrFunctionRequest)
	w.attr("phase", AttrFunctionPhase)
	if cold := ev.Attr(AttrFunctionColdStart); cold != nil {
		w.yes("cold_start", string(cold) == "true")
	}
	w.attr("entry_point", AttrFunctionEntry)
	w.attr("caller", AttrFunctionCaller)
	if ev.Layer == LayerFunction && ev.Duration > 0 {
		w.key("duration_ms")
		w.dst = strconv.AppendFloat(w.dst, ev.Duration, 'f', -1, 64)
	}
	w.close()
	w.close()
}
