package bench

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// The made-up account: how many there are of what rules count by.
const (
	users     = 20_000
	addresses = 60_000
	functions = 60
	routes    = 40
	// One burst of refused requests from a new address in so many records.
	burstEvery = 10_000
	burst      = 25
)

// operations are calls of the AWS API: each is as frequent as any other.
var operations = [...][2]string{
	{"lambda", "Invoke"},
	{"lambda", "GetFunction20150331v2"},
	{"lambda", "UpdateFunctionCode20150331v2"},
	{"lambda", "ListFunctions20150331"},
	{"s3", "GetObject"},
	{"s3", "PutObject"},
	{"s3", "ListBuckets"},
	{"s3", "GetBucketAcl"},
	{"s3", "PutBucketPolicy"},
	{"dynamodb", "GetItem"},
	{"dynamodb", "PutItem"},
	{"dynamodb", "DescribeTable"},
	{"sts", "AssumeRole"},
	{"sts", "GetCallerIdentity"},
	{"kms", "Decrypt"},
	{"kms", "GenerateDataKey"},
	{"kms", "ScheduleKeyDeletion"},
	{"iam", "ListRoles"},
	{"iam", "GetRole"},
	{"iam", "CreateAccessKey"},
	{"iam", "AttachRolePolicy"},
	{"iam", "PassRole"},
	{"ec2", "DescribeInstances"},
	{"ec2", "DescribeSecurityGroups"},
	{"ec2", "AuthorizeSecurityGroupIngress"},
	{"ec2", "RunInstances"},
	{"logs", "CreateLogStream"},
	{"logs", "DeleteLogGroup"},
	{"secretsmanager", "GetSecretValue"},
	{"secretsmanager", "ListSecrets"},
	{"ssm", "GetParameter"},
	{"ssm", "GetParametersByPath"},
	{"sqs", "SendMessage"},
	{"sns", "Publish"},
	{"cloudtrail", "LookupEvents"},
	{"cloudtrail", "GetTrailStatus"},
	{"apigateway", "GetRestApis"},
	{"apigateway", "UpdateStage"},
	{"events", "PutRule"},
	{"states", "StartExecution"},
}

// The records, with what varies in them between braces. A CloudTrail record is
// about as long as those of a real account are on average.
const (
	trailText = `{"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","principalId":"AROA{user}EXAMPLE:{user}","arn":"arn:aws:sts::111122223333:assumed-role/service-{user}/{user}",` +
		`"accountId":"111122223333","accessKeyId":"ASIA{hex}EX","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA{user}EXAMPLE","arn":"arn:aws:iam::111122223333:role/service-{user}",` +
		`"accountId":"111122223333","userName":"service-{user}"},"attributes":{"creationDate":"{iso}","mfaAuthenticated":"false"}}},"eventTime":"{iso}","eventSource":"{service}.amazonaws.com",` +
		`"eventName":"{operation}","awsRegion":"eu-west-1","sourceIPAddress":"{ip}","userAgent":"Boto3/1.35.1 md/Botocore#1.35.1 ua/2.0 os/linux#5.10.224-212.876.amzn2.x86_64 md/arch#x86_64 lang/python#3.12.5",` +
		`{error}"requestParameters":{"functionName":"{function}","key":"tenants/{uuid}/objects/{hex}.json","bucketName":"orders-prod-eu-west-1","Host":"orders-prod-eu-west-1.s3.eu-west-1.amazonaws.com"},` +
		`"responseElements":{"x-amz-request-id":"{hex}","x-amz-id-2":"{hex}{hex}{hex}="},"requestID":"{uuid}","eventID":"{uuid}","readOnly":true,` +
		`"resources":[{"accountId":"111122223333","type":"AWS::Lambda::Function","ARN":"arn:aws:lambda:eu-west-1:111122223333:function:{function}"}],"eventType":"AwsApiCall","managementEvent":true,` +
		`"recipientAccountId":"111122223333","eventCategory":"Management","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"{service}.eu-west-1.amazonaws.com"}}`

	accessText = `{"v":"1","requestId":"{uuid}","extendedRequestId":"Jk{hex}=","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod","domainName":"api.example.com",` +
		`"requestTimeEpoch":"{ms}","httpMethod":"GET","path":"/prod{route}/{hex}","resourcePath":"{route}","routeKey":"-","protocol":"HTTP/1.1","sourceIp":"{ip}",` +
		`"userAgent":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0","userArn":"-","apiKeyId":"-","principalId":"{user}","status":"{status}","errorType":"-","errorMessage":"-",` +
		`"authorizerError":"-","authorizerStatus":"200","authorizerRequestId":"{uuid}","authorizerLatency":"12","integrationRequestId":"{uuid}","integrationStatus":"200","integrationServiceStatus":"200",` +
		`"integrationLatency":"48","integrationError":"-","responseLatency":"63","responseLength":"512","wafResponseCode":"WAF_ALLOW",` +
		`"webaclArn":"arn:aws:wafv2:eu-west-1:111122223333:regional/webacl/orders/11111111-2222-4333-8444-555555555555","xrayTraceId":"1-69a56041-{hex}01234567"}`

	startText = `{"owner":"111122223333","logGroup":"/aws/lambda/{function}","logStream":"2026/03/02/[$LATEST]{hex}","id":"39{digits}","timestamp":{ms},` +
		`"message":"START RequestId: {uuid} Version: $LATEST\n"}`
	reportText = `{"owner":"111122223333","logGroup":"/aws/lambda/{function}","logStream":"2026/03/02/[$LATEST]{hex}","id":"39{digits}","timestamp":{ms},` +
		`"message":"REPORT RequestId: {uuid}\tDuration: {duration} ms\tBilled Duration: 124 ms\tMemory Size: 512 MB\tMax Memory Used: 91 MB\t\nXRAY TraceId: 1-69a56041-{hex}01234567\tSegmentId: {hex}\tSampled: true\t\n"}`
)

// template is a record cut at what varies.
type template struct {
	text  []string
	slots []string // between two texts
	size  int
}

func cut(s string) template {
	var t template
	t.size = len(s) + 512
	for {
		i := strings.IndexByte(s, '{')
		// JSON's own braces are not followed by a small letter.
		for i >= 0 && !(i+1 < len(s) && s[i+1] >= 'a' && s[i+1] <= 'z') {
			n := strings.IndexByte(s[i+1:], '{')
			if n < 0 {
				i = -1
				break
			}
			i += 1 + n
		}
		if i < 0 {
			t.text = append(t.text, s)
			return t
		}
		end := i + strings.IndexByte(s[i:], '}')
		t.text = append(t.text, s[:i])
		t.slots = append(t.slots, s[i+1:end])
		s = s[end+1:]
	}
}

// Traffic makes log records of an account that does not exist. Ids, times,
// addresses, principals, operations, functions and routes vary. It is for one
// goroutine.
type Traffic struct {
	rnd                           *rand.Rand
	now                           func() time.Time
	trail, access, start, report  template
	n                             int
	burst                         int    // requests left of the burst
	attacker                      uint32 // the address that they come from
	seed                          uint32
	ns                            int64
	iso                           []byte
	second                        int64
	user, ip, fn, route, op, code int
}

// NewTraffic makes a generator; the same seed makes the same records but for
// their times, which are now's.
func NewTraffic(seed uint64, now func() time.Time) *Traffic {
	return &Traffic{
		rnd: rand.New(rand.NewPCG(seed, 7)), now: now, seed: uint32(seed),
		trail: cut(trailText), access: cut(accessText), start: cut(startText), report: cut(reportText),
	}
}

// Next makes one record: of ten, five of CloudTrail, two of API Gateway and three
// of Lambda functions.
func (t *Traffic) Next() stream.LogMessage {
	t.n++
	t.ns = t.now().UnixNano()
	draw := t.rnd.Uint64()
	t.user = int(draw % users)
	t.ip = int(draw>>20) % addresses
	t.fn = int(draw>>40) % functions
	t.route = int(draw>>48) % routes
	t.op = int(draw>>54) % len(operations)
	t.code = 200
	if t.n%burstEvery == 0 {
		t.burst = burst
		t.attacker++
	}
	if t.burst > 0 {
		t.burst--
		t.code = 401
		return t.make(event.TypeAPIGateway, &t.access)
	}
	switch t.n % 10 {
	case 0, 2, 4, 6, 8:
		return t.make(event.TypeCloudTrail, &t.trail)
	case 1, 5:
		if draw>>58 == 0 {
			t.code = 403
		}
		return t.make(event.TypeAPIGateway, &t.access)
	case 3, 7:
		return t.make(event.TypeLambda, &t.report)
	default:
		return t.make(event.TypeLambda, &t.start)
	}
}

func (t *Traffic) make(typ event.Type, tmpl *template) stream.LogMessage {
	b := make([]byte, 0, tmpl.size)
	for i, s := range tmpl.slots {
		b = append(b, tmpl.text[i]...)
		b = t.fill(b, s)
	}
	b = append(b, tmpl.text[len(tmpl.slots)]...)
	return stream.LogMessage{Type: string(typ), Origin: "bench", Value: b}
}

func (t *Traffic) fill(b []byte, slot string) []byte {
	switch slot {
	case "uuid":
		b = t.hex(b, 8)
		b = append(b, '-')
		b = t.hex(b, 4)
		b = append(b, "-4000-8000-"...)
		return t.hex(b, 12)
	case "hex":
		return t.hex(b, 16)
	case "digits":
		return strconv.AppendUint(b, t.rnd.Uint64()>>1|1<<62, 10)
	case "ms":
		return strconv.AppendInt(b, t.ns/1e6, 10)
	case "iso":
		if s := t.ns / 1e9; s != t.second {
			t.second = s
			t.iso = time.Unix(s, 0).UTC().AppendFormat(t.iso[:0], time.RFC3339)
		}
		return append(b, t.iso...)
	case "user":
		return append(strconv.AppendInt(b, int64(t.user), 10), "-worker"...)
	case "ip":
		if t.code == 401 {
			b = append(b, "2001:db8:1:"...)
			b = strconv.AppendUint(b, uint64(t.seed&0xffff), 16)
			b = append(b, "::"...)
			return strconv.AppendUint(b, uint64(t.attacker&0xffff), 16)
		}
		return appendIP(b, 198, uint32(t.ip))
	case "function":
		return strconv.AppendInt(append(b, "orders-function-"...), int64(t.fn), 10)
	case "route":
		return strconv.AppendInt(append(b, "/orders/v1/resource"...), int64(t.route), 10)
	case "service":
		return append(b, operations[t.op][0]...)
	case "operation":
		return append(b, operations[t.op][1]...)
	case "error":
		if t.n%62 == 0 {
			return append(b, `"errorCode":"AccessDenied","errorMessage":"User is not authorized to perform this action",`...)
		}
		return b
	case "status":
		return strconv.AppendInt(b, int64(t.code), 10)
	case "duration":
		b = strconv.AppendUint(b, 80+t.rnd.Uint64()%60, 10)
		return append(b, ".25"...)
	}
	return b
}

const hexDigits = "0123456789abcdef"

// hex appends n ≤ 16 random digits.
func (t *Traffic) hex(b []byte, n int) []byte {
	var raw [8]byte
	binary.LittleEndian.PutUint64(raw[:], t.rnd.Uint64())
	for i := range n {
		b = append(b, hexDigits[raw[i/2]>>(4*(i%2))&15])
	}
	return b
}

// appendIP writes an address of 198.18.0.0/15, which is set aside for benchmarks.
func appendIP(b []byte, first byte, n uint32) []byte {
	b = strconv.AppendUint(b, uint64(first), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(18+n>>16&1), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(n>>8&255), 10)
	b = append(b, '.')
	return strconv.AppendUint(b, uint64(n&255), 10)
}
