package event_test

import (
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/event"
)

func TestDetectType(t *testing.T) {
	for _, tc := range []struct {
		data string
		want event.Type
	}{
		{``, event.TypeUnknown},
		{`{}`, event.TypeUnknown},
		{`{"eventName":"a"}`, event.TypeUnknown},
		{` {"eventSource":"a","event\u004eame":"b"`, event.TypeCloudTrail}, // not checked, only told
		{`{"Records":[{"eventSource":"a","eventName":"b"}]}`, event.TypeUnknown},
		{`{"messageType":"DATA_MESSAGE","logGroup":"/aws/lambda/f","logEvents":[]}`, event.TypeUnknown},
		{`{"requestId":"r","httpMethod":"GET","status":"200"}`, event.TypeAPIGateway},
		{`{"requestId":"r","routeKey":-,"status":"200"}`, event.TypeAPIGateway},
		{`{"requestId":"r","httpMethod":"GET"}`, event.TypeUnknown},
		{`{"type":"platform.start","record":{}}`, event.TypeLambda},
		{`{"type":"function","record":"text"}`, event.TypeUnknown},
		{`{"timestamp":"2026-03-02T10:02:41.904Z","level":"INFO","message":"hello"}`, event.TypeLambda},
		{`{"level":"INFO","msg":"hello"}`, event.TypeUnknown},
		{"START RequestId: 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001 Version: 1\n", event.TypeLambda},
		{"2026-03-02T10:02:43.900Z 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001 Task timed out after 3.00 seconds", event.TypeLambda},
		{"2026-03-02T10:02:43.900Z some other line", event.TypeUnknown},
		{`198.51.100.7 - - [02/Mar/2026:10:05:11 +0000] "GET / HTTP/1.1" 200 12`, event.TypeUnknown},
		{string(wrapped("/aws/lambda/f", "anything")), event.TypeLambda},
		{string(wrapped("/aws/lambda/f", `{"requestId":"r","httpMethod":"GET","status":"200"}`)), event.TypeLambda},
		{string(wrapped("shared", startLine)), event.TypeLambda},
		{string(wrapped("shared", `{"requestId":"r","httpMethod":"GET","status":"200"}`)), event.TypeAPIGateway},
		{string(wrapped("shared", trail(""))), event.TypeCloudTrail},
		{string(wrapped("shared", string(wrapped("/aws/lambda/f", "anything")))), event.TypeUnknown},
		{string(wrapped("shared", "anything")), event.TypeUnknown},
		{`{"context":{"requestId":"r","routeKey":"GET /","status":"200"}}`, event.TypeAPIGateway},
		{strings.Repeat(`{"context":`, 60) + `{"status":"200"}` + strings.Repeat(`}`, 60), event.TypeUnknown},
		{`{"logGroup":1,"message":"START RequestId: "}`, event.TypeUnknown},
	} {
		if got := event.DetectType([]byte(tc.data)); got != tc.want {
			t.Errorf("%s: type %q, want %q", tc.data, got, tc.want)
		}
	}
}
