package event

import (
	"bytes"
	"errors"
)

// The slots of an API Gateway access log line. The operator chooses the keys, so
// a variable may stand under more than one; each has a slot of its own, and the
// first that has a value counts.
const (
	gwRequestID slot = firstSlot + iota
	gwRequestID2
	gwExtended
	gwExtended2
	gwAccount
	gwAPI
	gwAPI2
	gwStage
	gwDomain
	gwDomain2
	gwEpoch
	gwEpoch2
	gwTime
	gwTime2
	gwAtTimestamp
	gwMethod
	gwMethod2
	gwMethod3
	gwPath
	gwResourcePath
	gwResourcePath2
	gwRoute
	gwRoute2
	gwSourceIP
	gwSourceIP2
	gwSourceIP3
	gwSourceIP4
	gwUserAgent
	gwUserAgent2
	gwUserARN
	gwUserARN2
	gwUser
	gwCaller
	gwAPIKey
	gwPrincipal
	gwPrincipal2
	gwSub
	gwStatus
	gwStatus2
	gwErrorType
	gwErrorType2
	gwErrorType3
	gwErrorMessage
	gwIntegrationError
	gwIntegrationError2
	gwAuthorizerID
	gwAuthorizerID2
	gwIntegrationID
	gwIntegrationID2
	gwIntegrationID3
	gwLatency
	gwLatency2
	gwLength
	gwLength2
	gwContext
	gwWAF
	gwWebACL
	gwTrace
	gwTrace2
	gwIdentity
	gwIdentityIP
	gwIdentityIP2
	gwIdentityAgent
	gwIdentityARN
	gwIdentityCaller
	gwIdentityUser
	gwIdentityKey
	gwAuthorizer
	gwAuthorizerPrincipal
	gwAuthorizerRequest
	gwAuthorizerClaims
	gwAuthorizerSub
	gwIntegration
	gwIntegrationRequest
	gwIntegrationErr
	gwError
	gwErrorResponseType
	gwErrorText
)

var apiGatewaySchema = newSchema([]field{
	{"requestId", gwRequestID},
	{"request_id", gwRequestID2},
	{"extendedRequestId", gwExtended},
	{"extended_request_id", gwExtended2},
	{"accountId", gwAccount},
	{"apiId", gwAPI},
	{"api_id", gwAPI2},
	{"stage", gwStage},
	{"domainName", gwDomain},
	{"domain_name", gwDomain2},
	{"requestTimeEpoch", gwEpoch},
	{"request_time_epoch", gwEpoch2},
	{"requestTime", gwTime},
	{"request_time", gwTime2},
	{"@timestamp", gwAtTimestamp},
	{"httpMethod", gwMethod},
	{"http_method", gwMethod2},
	{"method", gwMethod3},
	{"path", gwPath},
	{"resourcePath", gwResourcePath},
	{"resource_path", gwResourcePath2},
	{"routeKey", gwRoute},
	{"route_key", gwRoute2},
	{"sourceIp", gwSourceIP},
	{"ip", gwSourceIP2},
	{"source_ip", gwSourceIP3},
	{"sourceIP", gwSourceIP4},
	{"userAgent", gwUserAgent},
	{"user_agent", gwUserAgent2},
	{"userArn", gwUserARN},
	{"user_arn", gwUserARN2},
	{"user", gwUser},
	{"caller", gwCaller},
	{"apiKeyId", gwAPIKey},
	{"principalId", gwPrincipal},
	{"principal_id", gwPrincipal2},
	{"sub", gwSub},
	{"status", gwStatus},
	{"statusCode", gwStatus2},
	{"errorType", gwErrorType},
	{"errorResponseType", gwErrorType2},
	{"error_response_type", gwErrorType3},
	{"errorMessage", gwErrorMessage},
	{"integrationError", gwIntegrationError},
	{"integrationErrorMessage", gwIntegrationError2},
	{"authorizerRequestId", gwAuthorizerID},
	{"authorizer_request_id", gwAuthorizerID2},
	{"integrationRequestId", gwIntegrationID},
	{"integration_request_id", gwIntegrationID2},
	{"awsEndpointRequestId", gwIntegrationID3},
	{"responseLatency", gwLatency},
	{"response_latency", gwLatency2},
	{"responseLength", gwLength},
	{"response_length", gwLength2},
	{"context", gwContext},
	{"wafResponseCode", gwWAF},
	{"webaclArn", gwWebACL},
	{"xrayTraceId", gwTrace},
	{"xray_trace_id", gwTrace2},
	{"identity", gwIdentity},
	{"identity.sourceIp", gwIdentityIP},
	{"identity.sourceIP", gwIdentityIP2},
	{"identity.userAgent", gwIdentityAgent},
	{"identity.userArn", gwIdentityARN},
	{"identity.caller", gwIdentityCaller},
	{"identity.user", gwIdentityUser},
	{"identity.apiKeyId", gwIdentityKey},
	{"authorizer", gwAuthorizer},
	{"authorizer.principalId", gwAuthorizerPrincipal},
	{"authorizer.requestId", gwAuthorizerRequest},
	{"authorizer.claims", gwAuthorizerClaims},
	{"authorizer.claims.sub", gwAuthorizerSub},
	{"integration", gwIntegration},
	{"integration.requestId", gwIntegrationRequest},
	{"integration.error", gwIntegrationErr},
	{"error", gwError},
	{"error.responseType", gwErrorResponseType},
	{"error.message", gwErrorText},
})

var errNotAccessLog = errors.New("neither a status nor an error type")

func (d *Decoder) apiGateway(ev *Event) *DecodeError {
	if !d.accessLine(ev, ev.Raw, true) {
		return d.refused()
	}
	if message, ok := ev.unwrap(); ok && !d.accessLine(ev, message, false) {
		return d.refused()
	}
	if ev.has(gwContext) && ev.spans[gwContext].kind == KindObject && !ev.has(gwStatus) {
		// A format that has all variables below one member, as in $context.status.
		sp := ev.spans[gwContext]
		if !d.document(ev, ev.Doc[sp.start:sp.end:sp.end], false) {
			return d.refused()
		}
	}
	ev.Class, ev.Layer = ClassHTTPActivity, LayerGateway
	ev.Activity = httpActivity(ev.gateway(gwMethod, gwMethod2, gwMethod3))
	if err := ev.gatewayTime(); err != nil {
		return err
	}
	errorType := ev.gatewayError()
	status, ok := parseInt(ev.gateway(gwStatus, gwStatus2))
	if !ok || status < 100 || status > 599 {
		if status = int64(gatewayStatus(errorType)); status == 0 {
			return &DecodeError{Reason: ReasonMissing, Err: errNotAccessLog}
		}
	}
	ev.Status = int(status)
	ev.Outcome = outcomeOf(ev.Status)
	if string(errorType) == "MISSING_AUTHENTICATION_TOKEN" && ev.gateway(gwResourcePath, gwResourcePath2) == nil {
		// What an unknown path or method gets: someone is trying names.
		ev.Outcome = OutcomeClientError
	}
	if string(errorType) == "WAF_FILTERED" {
		ev.Outcome = OutcomeDenied
	}
	if ms, ok := parseFloat(ev.gateway(gwLatency, gwLatency2)); ok {
		ev.Duration = ms
	}
	return nil
}

// accessLine scans a line, and once more if it has bare dashes in place of
// values: a variable that is absent and stands in the format without quotes.
func (d *Decoder) accessLine(ev *Event, doc []byte, outer bool) bool {
	if d.document(ev, doc, outer) {
		return true
	}
	if d.scan.fault != faultNumber {
		return false
	}
	repaired, ok := ev.nullDashes(doc)
	return ok && d.document(ev, repaired, outer)
}

// nullDashes is doc with null for every bare dash that stands as a member's value.
func (e *Event) nullDashes(doc []byte) (repaired []byte, ok bool) {
	from, out := 0, len(e.arena)
	for i := 0; i < len(doc); i++ {
		switch doc[i] {
		case '"':
			end, _, _, f := strEnd(doc, i+1)
			if f != faultNone {
				return nil, false
			}
			i = end
		case ':':
			dash := space(doc, i+1)
			next := space(doc, dash+1)
			if dash < len(doc) && doc[dash] == '-' && next < len(doc) && (doc[next] == ',' || doc[next] == '}') {
				e.arena = append(e.arena, doc[from:dash]...)
				e.arena = append(e.arena, "null"...)
				from, i = dash+1, dash
				ok = true
			}
		}
	}
	if !ok {
		return nil, false
	}
	e.arena = append(e.arena, doc[from:]...)
	return e.arena[out:len(e.arena):len(e.arena)], true
}

// gateway is the text of the first of some fields that has any; a dash is none.
func (e *Event) gateway(slots ...slot) []byte {
	for _, s := range slots {
		if t := e.text(s); t != nil && (len(t) > 1 || t[0] != '-') {
			return t
		}
	}
	return nil
}

func (e *Event) gatewayTime() *DecodeError {
	if t := e.gateway(gwEpoch, gwEpoch2); t != nil {
		if ns, ok := parseEpoch(t); ok {
			e.Time = ns
			return nil
		}
		return &DecodeError{Reason: ReasonTime, Err: errBadTime}
	}
	if t := e.gateway(gwTime, gwTime2, gwAtTimestamp); t != nil {
		ns, ok := parseCLFTime(t)
		if !ok {
			ns, ok = parseTime(t)
		}
		if !ok {
			return &DecodeError{Reason: ReasonTime, Err: errBadTime}
		}
		e.Time = ns
		return nil
	}
	return e.setTime(nil)
}

// gatewayError is the gateway's own reason for not passing a request on.
func (e *Event) gatewayError() []byte {
	if t := e.gateway(gwErrorType, gwErrorType2, gwErrorType3, gwErrorResponseType); t != nil {
		return t
	}
	if string(e.gateway(gwWAF)) == "WAF_BLOCK" {
		return e.constant("WAF_FILTERED")
	}
	return nil
}

// gatewayStatus is the status code that goes with an error type unless the
// operator has changed it; 0 for none.
func gatewayStatus(errorType []byte) int {
	switch string(errorType) {
	case "UNAUTHORIZED":
		return 401
	case "ACCESS_DENIED", "EXPIRED_TOKEN", "INVALID_API_KEY", "INVALID_SIGNATURE",
		"MISSING_AUTHENTICATION_TOKEN", "WAF_FILTERED":
		return 403
	case "RESOURCE_NOT_FOUND":
		return 404
	case "BAD_REQUEST_BODY", "BAD_REQUEST_PARAMETERS":
		return 400
	case "REQUEST_TOO_LARGE":
		return 413
	case "UNSUPPORTED_MEDIA_TYPE":
		return 415
	case "THROTTLED", "QUOTA_EXCEEDED":
		return 429
	case "API_CONFIGURATION_ERROR", "AUTHORIZER_FAILURE", "AUTHORIZER_CONFIGURATION_ERROR":
		return 500
	case "INTEGRATION_FAILURE", "INTEGRATION_TIMEOUT":
		return 504
	}
	return 0
}

func httpActivity(method []byte) uint8 {
	switch string(method) {
	case "":
		return 0
	case "CONNECT":
		return 1
	case "DELETE":
		return 2
	case "GET":
		return 3
	case "HEAD":
		return 4
	case "OPTIONS":
		return 5
	case "POST":
		return 6
	case "PUT":
		return 7
	case "TRACE":
		return 8
	case "PATCH":
		return 9
	}
	return activityOther
}

func (e *Event) apiGatewayAttr(a Attr) []byte {
	switch a {
	case AttrUID:
		return e.gatewayUID()
	case AttrCloudAccount:
		if t := e.gateway(gwAccount); t != nil {
			return t
		}
		return e.env.owner
	case AttrCloudRegion:
		if region := hostRegion(e.gateway(gwDomain, gwDomain2)); region != nil {
			return region
		}
		return arnPart(e.gateway(gwWebACL), 3)
	case AttrActorUID:
		if arn := e.gateway(gwUserARN, gwUserARN2, gwIdentityARN); arn != nil {
			if role, _, ok := cutAssumedRole(arn); ok {
				return role
			}
			return arn
		}
		return e.gateway(gwPrincipal, gwPrincipal2, gwAuthorizerPrincipal, gwSub, gwAuthorizerSub)
	case AttrActorName:
		return e.gateway(gwUser, gwIdentityUser, gwCaller, gwIdentityCaller)
	case AttrActorCredential:
		return e.gateway(gwAPIKey, gwIdentityKey)
	case AttrActorSession:
		if _, session, ok := cutAssumedRole(e.gateway(gwUserARN, gwUserARN2, gwIdentityARN)); ok {
			return firstOf(session)
		}
	case AttrSrcIP:
		if ip := e.gatewaySource(); isIP(ip) {
			return ip
		}
	case AttrSrcDomain:
		if ip := e.gatewaySource(); !isIP(ip) {
			return ip
		}
	case AttrHTTPMethod:
		return e.gateway(gwMethod, gwMethod2, gwMethod3)
	case AttrHTTPHost:
		return e.gateway(gwDomain, gwDomain2)
	case AttrHTTPPath:
		return e.gateway(gwPath)
	case AttrHTTPUserAgent:
		return e.gateway(gwUserAgent, gwUserAgent2, gwIdentityAgent)
	case AttrAPIOperation, AttrGatewayRoute:
		return e.gatewayRoute()
	case AttrAPIService, AttrGatewayAPI:
		return e.gateway(gwAPI, gwAPI2)
	case AttrAPIRequestUID:
		return e.gateway(gwRequestID, gwRequestID2)
	case AttrAPIError:
		return e.gatewayError()
	case AttrAPIErrorMessage:
		return e.gateway(gwErrorMessage, gwErrorText, gwError, gwIntegrationError, gwIntegrationError2, gwIntegrationErr)
	case AttrGatewayStage:
		return e.gateway(gwStage)
	case AttrGatewayIntegration:
		return e.gateway(gwIntegrationID, gwIntegrationID2, gwIntegrationID3, gwIntegrationRequest)
	case AttrGatewayAuthorizer:
		return e.gateway(gwAuthorizerID, gwAuthorizerID2, gwAuthorizerRequest)
	case AttrBytesOut:
		return e.gateway(gwLength, gwLength2)
	case AttrTraceUID:
		return traceRoot(e.gateway(gwTrace, gwTrace2))
	}
	return nil
}

func (e *Event) gatewaySource() []byte {
	return e.gateway(gwSourceIP, gwSourceIP2, gwSourceIP3, gwSourceIP4, gwIdentityIP, gwIdentityIP2)
}

// gatewayUID is the id that the gateway gave the request. The requestId of a
// REST API, a UUID, may be the client's own: as an identity it would let a
// client pass many requests off as one. That of an HTTP API is the gateway's.
func (e *Event) gatewayUID() []byte {
	if id := e.gateway(gwExtended, gwExtended2); id != nil {
		return id
	}
	if id := e.gateway(gwRequestID, gwRequestID2); id != nil && !isUUID(id) && bytes.HasSuffix(id, []byte("=")) {
		return id
	}
	return nil
}

// gatewayRoute is the request's template, of few values: method and resource
// path of a REST API, the route key of an HTTP API.
func (e *Event) gatewayRoute() []byte {
	resource := e.gateway(gwResourcePath, gwResourcePath2)
	if resource == nil {
		return e.gateway(gwRoute, gwRoute2)
	}
	method := e.gateway(gwMethod, gwMethod2, gwMethod3)
	if method == nil {
		return resource
	}
	return e.join(method, []byte(" "), resource)
}

// hostRegion is the region in a gateway's own name, ID.execute-api.REGION.amazonaws.com.
func hostRegion(host []byte) []byte {
	_, rest, ok := bytes.Cut(host, []byte(".execute-api."))
	if !ok {
		return nil
	}
	region, _, ok := bytes.Cut(rest, []byte(".amazonaws.com"))
	if !ok || len(region) == 0 {
		return nil
	}
	return region
}

// traceRoot is the id of an X-Ray trace header or of a bare trace id.
func traceRoot(t []byte) []byte {
	if i := bytes.Index(t, []byte("Root=")); i >= 0 {
		t = t[i+len("Root="):]
	}
	t, _, _ = bytes.Cut(t, []byte(";"))
	if len(t) == 0 {
		return nil
	}
	return t
}

// isUUID says whether b has a UUID's shape.
func isUUID(b []byte) bool {
	if len(b) != 36 {
		return false
	}
	for i, c := range b {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if unhex(c) < 0 {
				return false
			}
		}
	}
	return true
}
