// Package event says what a log record means: it turns one raw record of a
// cloud log into an [Event] with the names of the Open Cybersecurity Schema
// Framework (OCSF, https://schema.ocsf.io).
//
// The package is a leaf: it does no I/O and knows no SDK, no Kafka and no rule.
// Decoding is strict, because libraries that disagree on what a record says are
// a way to evade a rule: duplicate keys among the fields that matter, bad UTF-8,
// raw control characters, truncated documents and nesting deeper than [MaxDepth]
// are refused with a [DecodeError] whose [Reason] may label a metric.
package event

// Type names a log type: what one record looks like, however it was collected.
type Type string

// The log types this package decodes.
const (
	TypeUnknown    Type = ""
	TypeCloudTrail Type = "aws.cloudtrail" // CloudTrail record, management or data event
	TypeAPIGateway Type = "aws.apigateway" // API Gateway access log line, JSON format
	TypeLambda     Type = "aws.lambda"     // Lambda function log line, text or JSON format
)

// MaxDepth is the deepest nesting of a record that is accepted.
const MaxDepth = 64

// Class is an OCSF class_uid.
type Class uint16

// The OCSF classes used. ClassBase marks a record that was understood but says
// nothing a detection asks for (an application's own line in a function log).
const (
	ClassBase           Class = 0
	ClassAuthentication Class = 3002
	ClassHTTPActivity   Class = 4002
	ClassAPIActivity    Class = 6003
	ClassDatastore      Class = 6005
)

// Layer says where in the path of a request the record was written.
type Layer uint8

// The layers, from the outside in.
const (
	LayerUnknown Layer = iota
	LayerEdge
	LayerGateway
	LayerFunction
	LayerDatastore
	LayerControl
	LayerIdentity
)

// Outcome is what became of the operation.
type Outcome uint8

// The outcomes, as log-driven detections tell them apart.
const (
	OutcomeUnknown Outcome = iota
	OutcomeSuccess
	OutcomeUnauthenticated // 401
	OutcomeDenied          // 403
	OutcomeThrottled       // 429
	OutcomeClientError     // other 4xx
	OutcomeServerError     // 5xx, a function's unhandled error
	OutcomeTimeout         // 504, a function that timed out
)

// Attr is a normalised attribute of an event. Its String is the OCSF path by
// which rules name it.
type Attr uint8

// The attributes. Times are nanoseconds since the Unix epoch, durations
// milliseconds; both are also fields of Event.
const (
	AttrUID                Attr = iota // metadata.uid: the provider's own id of the record, the dedupe identity
	AttrType                           // metadata.log_name: the log type
	AttrLayer                          // layer
	AttrOutcome                        // outcome
	AttrClass                          // class_uid
	AttrCloudProvider                  // cloud.provider
	AttrCloudAccount                   // cloud.account.uid
	AttrCloudRegion                    // cloud.region
	AttrActorUID                       // actor.user.uid: the stable principal (role or user ARN, gateway principal)
	AttrActorName                      // actor.user.name
	AttrActorType                      // actor.user.type
	AttrActorCredential                // actor.user.credential_uid
	AttrActorSession                   // actor.session.uid
	AttrActorIssuer                    // actor.session.issuer
	AttrActorInvokedBy                 // actor.invoked_by: the service that called on someone's behalf
	AttrSrcIP                          // src_endpoint.ip
	AttrSrcDomain                      // src_endpoint.domain: a service name in place of an address
	AttrSrcCountry                     // src_endpoint.location.country (enrichment)
	AttrSrcASN                         // src_endpoint.autonomous_system.number (enrichment)
	AttrSrcASName                      // src_endpoint.autonomous_system.name (enrichment)
	AttrSrcNetwork                     // src_endpoint.subnet: the /24 or /48 around the address (enrichment)
	AttrHTTPMethod                     // http_request.http_method
	AttrHTTPHost                       // http_request.url.hostname
	AttrHTTPPath                       // http_request.url.path
	AttrHTTPUserAgent                  // http_request.user_agent
	AttrHTTPStatus                     // http_response.code
	AttrAPIOperation                   // api.operation
	AttrAPIService                     // api.service.name
	AttrAPIRequestUID                  // api.request.uid
	AttrAPIError                       // api.response.error
	AttrAPIErrorMessage                // api.response.error_message
	AttrResourceUID                    // resource.uid
	AttrResourceType                   // resource.type
	AttrGatewayAPI                     // gateway.api_id
	AttrGatewayStage                   // gateway.stage
	AttrGatewayRoute                   // gateway.route: method and template, "GET /orders/{id}"
	AttrGatewayIntegration             // gateway.integration_request_id
	AttrGatewayAuthorizer              // gateway.authorizer_request_id
	AttrFunctionUID                    // function.uid
	AttrFunctionName                   // function.name
	AttrFunctionVersion                // function.version
	AttrFunctionRequest                // function.request_id
	AttrFunctionPhase                  // function.phase: start, report, done, init
	AttrFunctionColdStart              // function.cold_start: true or false, on reports
	AttrFunctionEntry                  // function.entry_point: gateway, event_source, direct, http_authorizer, or unknown if the inventory does not list it (enrichment)
	AttrFunctionCaller                 // function.caller: expected, unexpected or unknown (enrichment, from the inventory)
	AttrDuration                       // duration, ms
	AttrBytesOut                       // http_response.length
	AttrTraceUID                       // trace.uid
	NumAttrs
)

// Record is one log record as it travels: its bytes and, if it is known, its type.
type Record struct {
	Type Type
	Data []byte
}
