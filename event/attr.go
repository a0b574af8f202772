package event

import "fmt"

var attrNames = [NumAttrs]string{
	AttrUID:                "metadata.uid",
	AttrType:               "metadata.log_name",
	AttrLayer:              "layer",
	AttrOutcome:            "outcome",
	AttrClass:              "class_uid",
	AttrCloudProvider:      "cloud.provider",
	AttrCloudAccount:       "cloud.account.uid",
	AttrCloudRegion:        "cloud.region",
	AttrActorUID:           "actor.user.uid",
	AttrActorName:          "actor.user.name",
	AttrActorType:          "actor.user.type",
	AttrActorCredential:    "actor.user.credential_uid",
	AttrActorSession:       "actor.session.uid",
	AttrActorIssuer:        "actor.session.issuer",
	AttrActorInvokedBy:     "actor.invoked_by",
	AttrSrcIP:              "src_endpoint.ip",
	AttrSrcDomain:          "src_endpoint.domain",
	AttrSrcCountry:         "src_endpoint.location.country",
	AttrSrcASN:             "src_endpoint.autonomous_system.number",
	AttrSrcASName:          "src_endpoint.autonomous_system.name",
	AttrSrcNetwork:         "src_endpoint.subnet",
	AttrHTTPMethod:         "http_request.http_method",
	AttrHTTPHost:           "http_request.url.hostname",
	AttrHTTPPath:           "http_request.url.path",
	AttrHTTPUserAgent:      "http_request.user_agent",
	AttrHTTPStatus:         "http_response.code",
	AttrAPIOperation:       "api.operation",
	AttrAPIService:         "api.service.name",
	AttrAPIRequestUID:      "api.request.uid",
	AttrAPIError:           "api.response.error",
	AttrAPIErrorMessage:    "api.response.error_message",
	AttrResourceUID:        "resource.uid",
	AttrResourceType:       "resource.type",
	AttrGatewayAPI:         "gateway.api_id",
	AttrGatewayStage:       "gateway.stage",
	AttrGatewayRoute:       "gateway.route",
	AttrGatewayIntegration: "gateway.integration_request_id",
	AttrGatewayAuthorizer:  "gateway.authorizer_request_id",
	AttrFunctionUID:        "function.uid",
	AttrFunctionName:       "function.name",
	AttrFunctionVersion:    "function.version",
	AttrFunctionRequest:    "function.request_id",
	AttrFunctionPhase:      "function.phase",
	AttrFunctionColdStart:  "function.cold_start",
	AttrFunctionEntry:      "function.entry_point",
	AttrFunctionCaller:     "function.caller",
	AttrDuration:           "duration",
	AttrBytesOut:           "http_response.length",
	AttrTraceUID:           "trace.uid",
}

// Every attribute has its bit in the mask of those computed.
var _ [64 - NumAttrs]struct{}

// String is the OCSF path by which rules name the attribute.
func (a Attr) String() string {
	if a < NumAttrs {
		return attrNames[a]
	}
	return fmt.Sprintf("attr(%d)", uint8(a))
}

// ParseAttr finds an attribute by what String returns.
func ParseAttr(name string) (Attr, bool) {
	for a, n := range attrNames {
		if n == name {
			return Attr(a), true
		}
	}
	return 0, false
}

var layerNames = [...]string{"", "edge", "gateway", "function", "datastore", "control", "identity"}

// String is the layer's word in rules; empty for LayerUnknown.
func (l Layer) String() string {
	if int(l) < len(layerNames) {
		return layerNames[l]
	}
	return fmt.Sprintf("layer(%d)", uint8(l))
}

var outcomeNames = [...]string{
	"", "success", "unauthenticated", "denied", "throttled", "client_error", "server_error", "timeout",
}

// String is the outcome's word in rules; empty for OutcomeUnknown.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// outcomeOf tells the outcome of an HTTP status code; unknown for anything
// that is not one.
func outcomeOf(status int) Outcome {
	switch {
	case status == 401:
		return OutcomeUnauthenticated
	case status == 403:
		return OutcomeDenied
	case status == 429:
		return OutcomeThrottled
	case status == 504:
		return OutcomeTimeout
	case status >= 100 && status < 400:
		return OutcomeSuccess
	case status >= 400 && status < 500:
		return OutcomeClientError
	case status >= 500 && status < 600:
		return OutcomeServerError
	}
	return OutcomeUnknown
}
