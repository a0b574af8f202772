package simulate

import (
	"strconv"
	"strings"
	"time"
)

// fields writes a JSON object key by key.
type fields struct{ b []byte }

func (f *fields) key(k string) {
	if len(f.b) == 0 {
		f.b = append(f.b, '{')
	} else {
		f.b = append(f.b, ',')
	}
	f.b = appendString(f.b, k)
	f.b = append(f.b, ':')
}

func (f *fields) text(k, v string) { f.key(k); f.b = appendString(f.b, v) }
func (f *fields) raw(k, v string)  { f.key(k); f.b = append(f.b, v...) }
func (f *fields) String() string   { return string(append(f.b, '}')) }

// dash is how API Gateway writes a variable that is absent.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func millis(n int64) string { return strconv.FormatInt(n, 10) }

// accessLine is one line of the API's access log; its times are ms.
type accessLine struct {
	start, end                   int64
	method, path, resource       string
	ip, agent, principal, apiKey string
	status                       int
	errorType, errorMessage      string
	authorizer                   *invocation
	authorizerStatus             int
	integration                  *invocation
	integrationStatus            int
	integrationError             string
	bytes                        int
	trace                        string
}

// access writes an access log line and returns its id.
func (s *sim) access(a accessLine) string {
	id := s.letters(15) + "="
	f := fields{s.scratch[:0]}
	f.text("v", "1")
	f.text("requestId", s.uuid())
	f.text("extendedRequestId", id)
	f.text("accountId", accountID)
	f.text("apiId", apiID)
	f.text("stage", stage)
	f.text("domainName", domain)
	f.text("requestTimeEpoch", millis(a.start))
	f.text("httpMethod", a.method)
	f.text("path", "/"+stage+a.path)
	f.text("resourcePath", a.resource)
	f.text("routeKey", "-")
	f.text("protocol", "HTTP/1.1")
	f.text("sourceIp", a.ip)
	f.text("userAgent", a.agent)
	f.text("userArn", "-")
	f.text("apiKeyId", dash(a.apiKey))
	f.text("principalId", dash(a.principal))
	f.text("status", strconv.Itoa(a.status))
	f.text("errorType", dash(a.errorType))
	f.text("errorMessage", dash(a.errorMessage))
	f.text("authorizerError", "-")
	if v := a.authorizer; v != nil {
		f.text("authorizerStatus", strconv.Itoa(a.authorizerStatus))
		f.text("authorizerRequestId", v.id)
		f.text("authorizerLatency", millis(v.end-v.called))
	} else {
		f.text("authorizerStatus", "-")
		f.text("authorizerRequestId", "-")
		f.text("authorizerLatency", "-")
	}
	if v := a.integration; v != nil {
		f.text("integrationRequestId", v.id)
		f.text("integrationStatus", strconv.Itoa(a.integrationStatus))
		f.text("integrationServiceStatus", "200")
		f.text("integrationLatency", millis(v.end-v.called))
	} else {
		f.text("integrationRequestId", "-")
		f.text("integrationStatus", "-")
		f.text("integrationServiceStatus", "-")
		f.text("integrationLatency", "-")
	}
	f.text("integrationError", dash(a.integrationError))
	f.text("responseLatency", millis(a.end-a.start))
	f.text("responseLength", strconv.Itoa(a.bytes))
	f.text("wafResponseCode", "WAF_ALLOW")
	f.text("webaclArn", "arn:aws:wafv2:"+region+":"+accountID+":regional/webacl/orders/11111111-2222-4333-8444-555555555555")
	f.text("xrayTraceId", a.trace)
	s.scratch = f.b
	s.logEvent(apiGroup, apiGroup+"/"+stage, a.end, f.String())
	return id
}

// logEvent writes an event of CloudWatch Logs and returns its id.
func (s *sim) logEvent(group, stream string, t int64, message string) string {
	b := append(make([]byte, 0, 56), "39"...)
	for n := int64(1e12); n > t && n > 1; n /= 10 {
		b = append(b, '0')
	}
	b = strconv.AppendInt(b, t, 10)
	for range 41 {
		b = append(b, byte('0'+s.ids.IntN(10)))
	}
	id := string(b)
	s.out.add(record{t: t, group: group, stream: stream, id: id, data: message})
	return id
}

// invocation is one run of a function; its times are ms.
type invocation struct {
	fn                 *fn
	id                 string
	called, start, end int64
	status             string // success, error or timeout
	cold               bool
	lines              []string // ids of the log events
}

// platformLines writes what the platform writes about an invocation, and at
// times a line of the function's own.
func (s *sim) platformLines(v *invocation, e *env, duration, init float64, trace, own string) {
	f := v.fn
	put := func(t int64, msg string) {
		v.lines = append(v.lines, f.group()+":"+s.logEvent(f.group(), e.stream, t, msg))
	}
	used := min(f.memory, 48+int(duration)%40+f.memory/8)
	billed := int64(duration+init) + 1
	if f.json {
		stamp := func(t int64) string { return time.UnixMilli(t).UTC().Format("2006-01-02T15:04:05.000Z") }
		tracing := `"tracing":{"spanId":"` + s.hex(16) + `","type":"X-Amzn-Trace-Id","value":"Root=` + trace + `;Parent=` + s.hex(16) + `;Sampled=1"}`
		if v.cold {
			put(v.start-int64(init), `{"time":"`+stamp(v.start-int64(init))+`","type":"platform.initStart","record":{"initializationType":"on-demand","phase":"init","runtimeVersion":"`+
				strings.ReplaceAll(f.runtime, ".", ":")+`","functionName":"`+f.name+`","functionVersion":"$LATEST"}}`)
		}
		put(v.start, `{"time":"`+stamp(v.start)+`","type":"platform.start","record":{"requestId":"`+v.id+`","version":"$LATEST",`+tracing+`}}`)
		if own != "" {
			var o fields
			o.text("timestamp", stamp(v.start+1))
			o.text("level", "INFO")
			o.text("requestId", v.id)
			o.text("message", own)
			put(v.start+1, o.String())
		}
		m := fields{make([]byte, 0, 192)}
		m.raw("durationMs", fixed(duration, 3))
		m.raw("billedDurationMs", strconv.FormatInt(billed, 10))
		m.raw("memorySizeMB", strconv.Itoa(f.memory))
		m.raw("maxMemoryUsedMB", strconv.Itoa(used))
		if v.cold {
			m.raw("initDurationMs", fixed(init, 3))
		}
		rec := fields{make([]byte, 0, 512)}
		rec.text("requestId", v.id)
		rec.raw("metrics", m.String())
		rec.b = append(rec.b, ',')
		rec.b = append(rec.b, tracing...)
		rec.text("status", v.status)
		if v.status == "error" {
			rec.text("errorType", "Runtime.ExitError")
		}
		put(v.end, `{"time":"`+stamp(v.end)+`","type":"platform.report","record":`+rec.String()+`}`)
		return
	}
	if v.cold {
		put(v.start-int64(init), "INIT_START Runtime Version: "+strings.ReplaceAll(f.runtime, ".", ":")+".v30\tRuntime Version ARN: arn:aws:lambda:"+region+"::runtime:0123abcd\n")
	}
	put(v.start, "START RequestId: "+v.id+" Version: $LATEST\n")
	if own != "" {
		put(v.start+1, time.UnixMilli(v.start+1).UTC().Format("2006-01-02T15:04:05.000Z")+"\t"+v.id+"\tINFO\t"+own+"\n")
	}
	report := "REPORT RequestId: " + v.id + "\tDuration: " + fixed(duration, 2) + " ms\tBilled Duration: " + strconv.FormatInt(billed, 10) +
		" ms\tMemory Size: " + strconv.Itoa(f.memory) + " MB\tMax Memory Used: " + strconv.Itoa(used) + " MB"
	if v.cold {
		report += "\tInit Duration: " + fixed(init, 2) + " ms"
	}
	switch v.status {
	case "timeout":
		put(v.end, time.UnixMilli(v.end).UTC().Format("2006-01-02T15:04:05.000Z")+" "+v.id+" Task timed out after "+fixed(float64(f.timeout)/1000, 2)+" seconds\n\n")
		report += "\tStatus: timeout"
	case "error":
		report += "\tStatus: error\tError Type: Runtime.ExitError"
	}
	put(v.end, "END RequestId: "+v.id+"\n")
	put(v.end, report+"\t\nXRAY TraceId: "+trace+"\tSegmentId: "+s.hex(16)+"\tSampled: true\t\n")
}

func fixed(v float64, decimals int) string { return strconv.FormatFloat(v, 'f', decimals, 64) }

// identity is who makes a call of the AWS API: its userIdentity and where it
// comes from.
type identity struct {
	user  string // JSON of userIdentity
	ip    string
	agent string
}

func serviceIdentity(name string) identity {
	d := name + ".amazonaws.com"
	return identity{`{"type":"AWSService","invokedBy":"` + d + `"}`, d, d}
}

func roleIdentity(role, session, key, ip, agent string) identity {
	id := "AROAEXAMPLE" + strings.ToUpper(strings.ReplaceAll(role, "-", ""))
	return identity{
		`{"type":"AssumedRole","principalId":"` + id + `:` + session + `","arn":"arn:aws:sts::` + accountID + `:assumed-role/` + role + `/` + session +
			`","accountId":"` + accountID + `","accessKeyId":"` + key + `","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"` + id +
			`","arn":"arn:aws:iam::` + accountID + `:role/` + role + `","accountId":"` + accountID + `","userName":"` + role +
			`"},"attributes":{"mfaAuthenticated":"false"}}}`, ip, agent,
	}
}

func userIdentity(name, key, ip, agent string) identity {
	return identity{
		`{"type":"IAMUser","principalId":"AIDAEXAMPLE` + strings.ToUpper(strings.ReplaceAll(name, "-", "")) + `","arn":"arn:aws:iam::` + accountID + `:user/` + name +
			`","accountId":"` + accountID + `","accessKeyId":"` + key + `","userName":"` + name + `"}`, ip, agent,
	}
}

// call is one CloudTrail record.
type call struct {
	t              int64 // when it was done, ms
	who            identity
	source, name   string // "lambda", "Invoke"
	kind           string // eventType; empty: AwsApiCall
	params         string // JSON or empty
	response       string // JSON or empty
	additional     string // JSON or empty
	errorCode      string
	errorMessage   string
	requestID      string // empty: a new one
	resource, rtyp string
	data, readOnly bool
}

// trail writes a CloudTrail record and returns its id.
func (s *sim) trail(c call) string {
	id := s.uuid()
	if c.requestID == "" {
		c.requestID = s.uuid()
	}
	null := func(v string) string {
		if v == "" {
			return "null"
		}
		return v
	}
	f := fields{s.scratch[:0]}
	f.text("eventVersion", "1.11")
	f.raw("userIdentity", c.who.user)
	f.text("eventTime", time.UnixMilli(c.t).UTC().Format("2006-01-02T15:04:05Z"))
	f.text("eventSource", c.source+".amazonaws.com")
	f.text("eventName", c.name)
	f.text("awsRegion", region)
	f.text("sourceIPAddress", c.who.ip)
	f.text("userAgent", c.who.agent)
	if c.errorCode != "" {
		f.text("errorCode", c.errorCode)
	}
	if c.errorMessage != "" {
		f.text("errorMessage", c.errorMessage)
	}
	f.raw("requestParameters", null(c.params))
	f.raw("responseElements", null(c.response))
	if c.additional != "" {
		f.raw("additionalEventData", c.additional)
	}
	f.text("requestID", c.requestID)
	f.text("eventID", id)
	f.raw("readOnly", strconv.FormatBool(c.readOnly))
	if c.resource != "" {
		f.raw("resources", `[{"accountId":"`+accountID+`","type":"`+c.rtyp+`","ARN":"`+c.resource+`"}]`)
	}
	kind := c.kind
	if kind == "" {
		kind = "AwsApiCall"
	}
	f.text("eventType", kind)
	f.raw("managementEvent", strconv.FormatBool(!c.data))
	f.text("recipientAccountId", accountID)
	category := "Management"
	if c.data {
		category = "Data"
	}
	f.text("eventCategory", category)
	if !strings.HasSuffix(c.who.ip, ".amazonaws.com") {
		f.raw("tlsDetails", `{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"`+c.source+`.`+region+`.amazonaws.com"}`)
	}
	s.scratch = f.b
	// Delivered some minutes later, in no order.
	s.out.add(record{t: c.t + 60_000 + s.ids.Int64N(4*60_000), data: f.String()})
	return id
}

// invokeCall is the CloudTrail data event of an invocation.
func (s *sim) invokeCall(v *invocation, who identity, name, params string) string {
	return s.trail(call{
		t: v.end, who: who, source: "lambda", name: name, params: params,
		additional: `{"functionVersion":"` + v.fn.arn() + `:$LATEST"}`,
		requestID:  v.id, resource: v.fn.arn(), rtyp: "AWS::Lambda::Function", data: true,
	})
}
