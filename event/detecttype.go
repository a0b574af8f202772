package event

import "bytes"

// DetectType tells a record's log type from its content, cheaply: from the keys
// of the outermost object, or the first word of a line. It does not check the
// record; one that it gives no type is of none that is decoded here.
func DetectType(data []byte) Type {
	return detectType(data, true)
}

func detectType(data []byte, open bool) Type {
	if !isObject(data) {
		if isLambdaText(data) {
			return TypeLambda
		}
		return TypeUnknown
	}
	k := keysOf(data, false)
	switch {
	case open && k&(keyLogGroup|keyMessage) == keyLogGroup|keyMessage:
		return detectWrapped(data)
	case k&(keyEventSource|keyEventName) == keyEventSource|keyEventName:
		return TypeCloudTrail
	case k&keyRequestID != 0 && k&keyRoute != 0 && k&keyStatus != 0,
		k&keyGateway != 0 && k&keyStatus != 0:
		return TypeAPIGateway
	case k&keyPlatform != 0, k&keyContext != 0,
		k&(keyLevel|keyMessage) == keyLevel|keyMessage && k&keyTime != 0:
		return TypeLambda
	}
	return TypeUnknown
}

// detectWrapped looks into a CloudWatch Logs event. A function may write
// anything, so what its log group says comes first.
func detectWrapped(data []byte) Type {
	var group, message Value
	eachKey(data, func(key []byte, v span) {
		switch string(key) {
		case "logGroup":
			group = Value{Kind: v.kind, Raw: data[v.start:v.end], esc: v.esc}
		case "message":
			message = Value{Kind: v.kind, Raw: data[v.start:v.end], esc: v.esc}
		}
	})
	if group.Kind != KindString || message.Kind != KindString {
		return TypeUnknown
	}
	if bytes.HasPrefix(group.AppendText(nil), []byte("/aws/lambda/")) {
		return TypeLambda
	}
	return detectType(message.AppendText(nil), false)
}

// The keys by which log types are told apart.
const (
	keyEventSource = 1 << iota
	keyEventName
	keyLogGroup
	keyMessage
	keyRequestID
	keyRoute
	keyStatus
	keyGateway
	keyPlatform
	keyContext
	keyLevel
	keyTime
)

// keysOf are an object's keys, and, of one that is not inner, those of its
// "context".
func keysOf(data []byte, inner bool) (k int) {
	eachKey(data, func(key []byte, v span) {
		switch string(key) {
		case "eventSource":
			k |= keyEventSource
		case "eventName":
			k |= keyEventName
		case "logGroup":
			k |= keyLogGroup
		case "message":
			k |= keyMessage
		case "requestId", "request_id":
			k |= keyRequestID
		case "extendedRequestId", "extended_request_id", "requestTimeEpoch":
			k |= keyGateway
		case "httpMethod", "http_method", "routeKey", "route_key", "resourcePath", "resource_path":
			k |= keyRoute
		case "status", "statusCode":
			k |= keyStatus
		case "context":
			if v.kind == KindObject && !inner {
				k |= keysOf(data[v.start:v.end], true) & (keyRequestID | keyRoute | keyStatus | keyGateway)
			}
		case "type":
			if v.kind == KindString && bytes.HasPrefix(data[v.start:v.end], []byte("platform.")) {
				k |= keyPlatform
			}
		case "sls_ctx":
			k |= keyContext
		case "level":
			k |= keyLevel
		case "time", "timestamp":
			k |= keyTime
		}
	})
	return k
}

// eachKey calls f for the outermost object's keys, up to where the record stops
// being JSON.
func eachKey(data []byte, f func(key []byte, v span)) {
	var buf [64]byte
	i := space(data, space(data, 0)+1)
	for i < len(data) && data[i] == '"' {
		start := i + 1
		end, esc, _, bad := strEnd(data, start)
		if bad != faultNone {
			return
		}
		key := data[start:end]
		if esc {
			key = appendUnescaped(buf[:0], key)
		}
		if i = space(data, end+1); i >= len(data) || data[i] != ':' {
			return
		}
		if i = space(data, i+1); i >= len(data) {
			return
		}
		v, next := looseValue(data, i)
		if next < 0 {
			return
		}
		f(key, v)
		if i = space(data, next); i >= len(data) || data[i] != ',' {
			return
		}
		i = space(data, i+1)
	}
}

// looseValue passes over a value; a bare dash counts as one.
func looseValue(data []byte, i int) (v span, next int) {
	switch data[i] {
	case '"':
		end, esc, _, bad := strEnd(data, i+1)
		if bad != faultNone {
			return span{}, -1
		}
		return span{uint32(i + 1), uint32(end), KindString, esc}, end + 1
	case '{', '[':
		end, _, bad := skip(data, i, 1)
		if bad != faultNone {
			return span{}, -1
		}
		return span{uint32(i), uint32(end), KindObject, false}, end
	}
	end, k, bad := scalar(data, i)
	if bad != faultNone {
		if data[i] != '-' {
			return span{}, -1
		}
		end, k = i+1, KindNull
	}
	return span{uint32(i), uint32(end), k, false}, end
}

func isLambdaText(data []byte) bool {
	text := data
	if stamp, rest := cutStamp(data); stamp != nil {
		text = cutStream(rest)
		if len(text) >= 36 && isUUID(text[:36]) {
			return true
		}
	}
	for _, prefix := range [...]string{"START RequestId: ", "END RequestId: ", "REPORT RequestId: ", "INIT_START ", "XRAY TraceId: "} {
		if bytes.HasPrefix(text, []byte(prefix)) {
			return true
		}
	}
	return false
}
