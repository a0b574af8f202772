package event_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/event"
)

// cloudTrailRecords makes n records of about 1.4 KB, the mean of real ones.
func cloudTrailRecords(n int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	apis := [][2]string{
		{"ec2.amazonaws.com", "DescribeInstances"},
		{"s3.amazonaws.com", "GetBucketAcl"},
		{"iam.amazonaws.com", "CreateAccessKey"},
		{"sts.amazonaws.com", "AssumeRole"},
		{"lambda.amazonaws.com", "UpdateFunctionCode20150331v2"},
	}
	recs := make([][]byte, n)
	for i := range recs {
		api := apis[r.IntN(len(apis))]
		recs[i] = fmt.Appendf(nil, `{"eventVersion":"1.09","userIdentity":{"type":"AssumedRole","principalId":"AROAEXAMPLE%07d:session-%d","arn":"arn:aws:sts::111122223333:assumed-role/deployer-%d/session-%d","accountId":"111122223333","accessKeyId":"ASIAEXAMPLE%09d","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROAEXAMPLE%07d","arn":"arn:aws:iam::111122223333:role/service/deployer-%d","accountId":"111122223333","userName":"deployer-%d"},"attributes":{"creationDate":"2026-03-02T09:11:40Z","mfaAuthenticated":"false"}}},"eventTime":"2026-03-02T09:14:%02dZ","eventSource":"%s","eventName":"%s","awsRegion":"eu-west-1","sourceIPAddress":"203.0.113.%d","userAgent":"APN/1.0 HashiCorp/1.0 Terraform/1.11.0 (+https://www.terraform.io) aws-sdk-go-v2/1.36.3 ua/2.1 os/linux lang/go#1.23.8 md/GOOS#linux","requestParameters":{"instancesSet":{"items":[{"instanceId":"i-%016x"},{"instanceId":"i-%016x"}]},"filterSet":{"items":[{"name":"tag:environment","valueSet":{"items":[{"value":"production"}]}}]},"maxResults":100},"responseElements":null,"requestID":"%08x-6a57-4a7c-8c11-6c1b9a3f0001","eventID":"%08x-9e0b-4f5d-9a37-2f9f4be10001","readOnly":true,"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","eventCategory":"Management","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"ec2.eu-west-1.amazonaws.com"},"sessionCredentialFromConsole":"true"}`,
			i, i, i%17, i, i, i, i%17, i%17, i%60, api[0], api[1], i%250, r.Uint64(), r.Uint64(), r.Uint32(), r.Uint32())
	}
	return recs
}

const accessLine = `{"v":"1","requestId":"5a0c3a0e-7b9d-4c1e-9d0a-0d6f3f9a0001","extendedRequestId":"JkL0aExample%04d=","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod","domainName":"api.example.com","requestTimeEpoch":"1772445761532","httpMethod":"GET","path":"/prod/orders/%d","resourcePath":"/orders/{id}","routeKey":"-","protocol":"HTTP/1.1","sourceIp":"198.51.100.77","userAgent":"python-requests/2.32.3","userArn":"-","apiKeyId":"-","principalId":"-","status":"403","errorType":"ACCESS_DENIED","errorMessage":"User is not authorized to access this resource","authorizerError":"-","authorizerStatus":"200","authorizerRequestId":"5d3a2d6c-3b7d-4a8e-8e39-1f40d9d10001","authorizerLatency":"41","integrationRequestId":"-","integrationStatus":"-","integrationServiceStatus":"-","integrationLatency":"-","integrationError":"-","responseLatency":"48","responseLength":"58","wafResponseCode":"WAF_ALLOW","webaclArn":"arn:aws:wafv2:eu-west-1:111122223333:regional/webacl/api/11111111-2222-4333-8444-555555555555","xrayTraceId":"1-69a56041-0123456789abcdef01234567"}`

func accessRecords(n int) [][]byte {
	recs := make([][]byte, n)
	for i := range recs {
		recs[i] = fmt.Appendf(nil, accessLine, i, i)
	}
	return recs
}

func wrappedAccessRecords(n int) [][]byte {
	recs := accessRecords(n)
	for i, r := range recs {
		recs[i] = wrapped("api-access", string(r))
	}
	return recs
}

// wrapped puts a message into a CloudWatch Logs event.
func wrapped(group, message string) []byte {
	m, err := json.Marshal(message)
	if err != nil {
		panic(err)
	}
	return fmt.Appendf(nil, `{"owner":"111122223333","logGroup":%q,"logStream":"2026/03/02/[$LATEST]0123456789abcdef0123456789abcdef","id":"38812345678901234567890123456789012345678901234567890001","timestamp":1772445761512,"message":%s}`, group, m)
}

const (
	startLine  = "START RequestId: 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001 Version: $LATEST\n"
	reportLine = "REPORT RequestId: 8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001\tDuration: 411.20 ms\tBilled Duration: 615 ms\tMemory Size: 128 MB\tMax Memory Used: 71 MB\tInit Duration: 203.69 ms\t\n"
	reportJSON = `{"time":"2026-03-02T10:02:41.934Z","type":"platform.report","record":{"requestId":"8b0f2f4e-7f0e-4f2f-bb4e-1f6b0f6e0001","metrics":{"durationMs":411.204,"billedDurationMs":615,"memorySizeMB":128,"maxMemoryUsedMB":71,"initDurationMs":203.69},"spans":[{"name":"responseLatency","start":"2026-03-02T10:02:41.512Z","durationMs":402.113}],"tracing":{"spanId":"0123456789abcdef","type":"X-Amzn-Trace-Id","value":"Root=1-69a56041-0123456789abcdef01234567;Parent=0123456789abcdef;Sampled=1"},"status":"success"}}`
)

func benchmarkSets() []struct {
	name string
	typ  event.Type
	recs [][]byte
} {
	return []struct {
		name string
		typ  event.Type
		recs [][]byte
	}{
		{"cloudtrail", event.TypeCloudTrail, cloudTrailRecords(2000)},
		{"apigateway", event.TypeAPIGateway, accessRecords(2000)},
		{"apigateway-cloudwatch", event.TypeAPIGateway, wrappedAccessRecords(2000)},
		{"lambda-start", event.TypeLambda, [][]byte{wrapped("/aws/lambda/orders-api", startLine)}},
		{"lambda-report", event.TypeLambda, [][]byte{wrapped("/aws/lambda/orders-api", reportLine)}},
		{"lambda-json", event.TypeLambda, [][]byte{wrapped("/aws/lambda/orders-api", reportJSON)}},
	}
}

// cpuTime measures what the process spends, which does not depend on who else
// uses the machine.
type cpuTime time.Duration

func startCPU(b *testing.B) cpuTime {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return cpuTime(time.Duration(u.Utime.Nano() + u.Stime.Nano()))
}

func (c cpuTime) report(b *testing.B) {
	spent := startCPU(b) - c
	b.ReportMetric(float64(spent)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/time.Duration(spent).Seconds(), "events/cpu-s")
}

func BenchmarkDecode(b *testing.B) {
	for _, set := range benchmarkSets() {
		b.Run(set.name, func(b *testing.B) {
			var total int
			for _, r := range set.recs {
				total += len(r)
			}
			d, ev := event.NewDecoder(), new(event.Event)
			b.SetBytes(int64(total / len(set.recs)))
			b.ReportAllocs()
			cpu := startCPU(b)
			i := 0
			for b.Loop() {
				if err := d.Decode(ev, event.Record{Type: set.typ, Data: set.recs[i]}); err != nil {
					b.Fatal(err)
				}
				if i++; i == len(set.recs) {
					i = 0
				}
			}
			cpu.report(b)
		})
	}
}

// BenchmarkDecodeAttrs decodes and asks for what rules group and compare by.
func BenchmarkDecodeAttrs(b *testing.B) {
	attrs := []event.Attr{
		event.AttrUID, event.AttrActorUID, event.AttrSrcIP, event.AttrOutcome, event.AttrAPIOperation,
		event.AttrFunctionName, event.AttrFunctionRequest, event.AttrGatewayRoute,
	}
	for _, set := range benchmarkSets() {
		b.Run(set.name, func(b *testing.B) {
			d, ev := event.NewDecoder(), new(event.Event)
			b.ReportAllocs()
			cpu := startCPU(b)
			i := 0
			for b.Loop() {
				if err := d.Decode(ev, event.Record{Type: set.typ, Data: set.recs[i]}); err != nil {
					b.Fatal(err)
				}
				for _, a := range attrs {
					ev.Attr(a)
				}
				if i++; i == len(set.recs) {
					i = 0
				}
			}
			cpu.report(b)
		})
	}
}

// jsonRecord is what a decoder on encoding/json would ask for.
type jsonRecord struct {
	EventTime, EventSource, EventName, EventID, EventType, EventCategory string
	AWSRegion                                                            string `json:"awsRegion"`
	SourceIPAddress, UserAgent, ErrorCode, ErrorMessage                  string
	RequestID, RecipientAccountID                                        string
	RequestParameters, ResponseElements, AdditionalEventData             json.RawMessage
	UserIdentity                                                         struct {
		Type, PrincipalID, ARN, AccountID, AccessKeyID, UserName, InvokedBy string
		SessionContext                                                      struct {
			SessionIssuer struct{ Type, ARN, UserName string }
			Attributes    struct{ MFAAuthenticated string }
		}
	}
}

func BenchmarkEncodingJSON(b *testing.B) {
	recs := cloudTrailRecords(2000)
	b.Run("struct", func(b *testing.B) {
		b.ReportAllocs()
		cpu := startCPU(b)
		for i := 0; b.Loop(); i++ {
			var r jsonRecord
			if err := json.Unmarshal(recs[i%len(recs)], &r); err != nil {
				b.Fatal(err)
			}
		}
		cpu.report(b)
	})
	for _, set := range benchmarkSets() {
		b.Run("map/"+set.name, func(b *testing.B) {
			b.ReportAllocs()
			cpu := startCPU(b)
			for i := 0; b.Loop(); i++ {
				if _, err := decodeMap(set.recs[i%len(set.recs)]); err != nil {
					b.Fatal(err)
				}
			}
			cpu.report(b)
		})
	}
}

// decodeMap decodes a record into a map, and the message of a CloudWatch Logs
// event, if that is an object, into another.
func decodeMap(data []byte) (map[string]any, error) {
	var r map[string]any
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	if m, ok := r["message"].(string); ok && strings.HasPrefix(m, "{") {
		return decodeMap([]byte(m))
	}
	return r, nil
}

func BenchmarkValues(b *testing.B) {
	d, ev := event.NewDecoder(), new(event.Event)
	if err := d.Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: cloudTrailRecords(1)[0]}); err != nil {
		b.Fatal(err)
	}
	for _, dotted := range []string{
		"eventName",
		"userIdentity.sessionContext.sessionIssuer.arn",
		"requestParameters.filterSet.items.valueSet.items.value",
		"sessionCredentialFromConsole",
		"tlsDetails.tlsVersion",
	} {
		b.Run(strings.ReplaceAll(dotted, ".", "-"), func(b *testing.B) {
			p := event.CompilePath(dotted)
			var buf []event.Value
			b.ReportAllocs()
			for b.Loop() {
				if buf = ev.Values(buf[:0], p); len(buf) != 1 {
					b.Fatalf("%d values", len(buf))
				}
			}
		})
	}
}

func BenchmarkHashID(b *testing.B) {
	uid := []byte("4c1d6f2a-9e0b-4f5d-9a37-2f9f4be10001")
	for b.Loop() {
		event.HashID(uid)
	}
}
