package event

import (
	"bytes"
	"errors"
)

var (
	errNoEventName = errors.New("no eventName or eventSource")
	errNoTime      = errors.New("no event time")
	errBadTime     = errors.New("event time cannot be read")
)

// setTime reads the event's time, or takes the envelope's.
func (e *Event) setTime(text []byte) *DecodeError {
	if text == nil {
		if e.env.time == 0 {
			return &DecodeError{Reason: ReasonTime, Err: errNoTime}
		}
		e.Time = e.env.time
		return nil
	}
	ns, ok := parseTime(text)
	if !ok {
		return &DecodeError{Reason: ReasonTime, Err: errBadTime}
	}
	e.Time = ns
	return nil
}

// cloudTrailStatus is the HTTP status code that a record's error stands for.
func (e *Event) cloudTrailStatus(name []byte) int {
	code, message := e.text(ctErrorCode), e.text(ctErrorMessage)
	if code != nil {
		return errorStatus(code, message)
	}
	for _, s := range [...]slot{ctRespConsoleLogin, ctRespCheckMFA, ctRespSwitchRole} {
		if string(e.text(s)) == "Failure" {
			return 401
		}
	}
	if message == nil {
		return 200
	}
	if string(name) == "ConsoleLogin" {
		return 401
	}
	return 400
}

// errorStatus maps an AWS error code to the HTTP status code it stands for. What
// is not known is 400: the services' default.
func errorStatus(code, message []byte) int {
	var buf [64]byte
	c := lower(buf[:0], code)
	if rest, ok := bytes.CutPrefix(c, []byte("client.")); ok {
		c = rest
	} else if rest, ok := bytes.CutPrefix(c, []byte("server.")); ok {
		c = rest
	}
	switch string(c) {
	case "accessdenied", "accessdeniedexception", "unauthorizedoperation", "authorizationerror", "notauthorized",
		"notauthorizedexception", "unauthorizedaccess", "forbidden", "forbiddenexception", "vpceaccessdenied",
		"kms.accessdeniedexception", "allaccessdisabled", "optinrequired":
		return 403
	case "invalidclienttokenid", "unrecognizedclientexception", "signaturedoesnotmatch",
		"invalidsignatureexception", "expiredtoken", "expiredtokenexception", "invalidaccesskeyid",
		"missingauthenticationtoken", "incompletesignature", "requestexpired", "tokenrefreshrequired",
		"authfailure":
		return 401
	case "throttlingexception", "throttling", "throttledexception", "requestlimitexceeded",
		"toomanyrequestsexception", "provisionedthroughputexceededexception", "requestthrottled", "slowdown",
		"bandwidthlimitexceeded":
		return 429
	case "limitexceededexception":
		if saysRate(message) {
			return 429
		}
		return 400
	case "internalerror", "internalfailure", "internalserverexception", "internalservererror":
		return 500
	case "serviceunavailable", "serviceunavailableexception":
		return 503
	case "serviceexception":
		return 500
	}
	if bytes.HasPrefix(c, []byte("nosuch")) || bytes.HasSuffix(c, []byte("notfound")) ||
		bytes.HasSuffix(c, []byte("notfoundexception")) {
		return 404
	}
	return 400
}

func saysRate(message []byte) bool {
	var buf [1024]byte
	if len(message) > len(buf) {
		message = message[:len(buf)]
	}
	m := lower(buf[:0], message)
	return bytes.Contains(m, []byte("rate")) || bytes.Contains(m, []byte("throttl")) ||
		bytes.Contains(m, []byte("too many requests"))
}

// lower appends text with its ASCII letters in lower case.
func lower(dst, text []byte) []byte {
	for _, c := range text {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
