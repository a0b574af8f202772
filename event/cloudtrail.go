package event

import "bytes"

// The slots of a CloudTrail record.
const (
	ctEventTime slot = firstSlot + iota
	ctAtTimestamp
	ctPEventTime
	ctEventVersion
	ctEventSource
	ctEventName
	ctEventID
	ctEventType
	ctEventCategory
	ctManagementEvent
	ctReadOnly
	ctRegion
	ctSourceIP
	ctUserAgent
	ctErrorCode
	ctErrorMessage
	ctRequestID
	ctSharedEventID
	ctRecipient
	ctVPCEndpoint
	ctVPCAccount
	ctFromConsole
	ctAPIVersion
	ctResources
	ctServiceDetails
	ctRequest
	ctReqFunction
	ctReqBucket
	ctReqKey
	ctReqTable
	ctResponse
	ctRespConsoleLogin
	ctRespCheckMFA
	ctRespSwitchRole
	ctAdditional
	ctBytesIn
	ctBytesOut
	ctFunctionVersion
	ctMFAUsed
	ctTLS
	ctTLSVersion
	ctCipher
	ctHost
	ctUser
	ctUserType
	ctUserPrincipal
	ctUserARN
	ctUserAccount
	ctUserKey
	ctUserName
	ctUserInvokedBy
	ctUserProvider
	ctSession
	ctSourceIdentity
	ctIssuer
	ctIssuerType
	ctIssuerPrincipal
	ctIssuerARN
	ctIssuerAccount
	ctIssuerName
	ctSessionAttrs
	ctMFA
	ctCreation
)

var cloudTrailSchema = newSchema([]field{
	{"eventTime", ctEventTime},
	{"@timestamp", ctAtTimestamp},  // Logstash
	{"p_event_time", ctPEventTime}, // Panther
	{"eventVersion", ctEventVersion},
	{"eventSource", ctEventSource},
	{"eventName", ctEventName},
	{"eventID", ctEventID},
	{"eventType", ctEventType},
	{"eventCategory", ctEventCategory},
	{"managementEvent", ctManagementEvent},
	{"readOnly", ctReadOnly},
	{"awsRegion", ctRegion},
	{"sourceIPAddress", ctSourceIP},
	{"userAgent", ctUserAgent},
	{"errorCode", ctErrorCode},
	{"errorMessage", ctErrorMessage},
	{"requestID", ctRequestID},
	{"sharedEventID", ctSharedEventID},
	{"recipientAccountId", ctRecipient},
	{"vpcEndpointId", ctVPCEndpoint},
	{"vpcEndpointAccountId", ctVPCAccount},
	{"sessionCredentialFromConsole", ctFromConsole},
	{"apiVersion", ctAPIVersion},
	{"resources", ctResources},
	{"serviceEventDetails", ctServiceDetails},
	{"requestParameters", ctRequest},
	{"requestParameters.functionName", ctReqFunction},
	{"requestParameters.bucketName", ctReqBucket},
	{"requestParameters.key", ctReqKey},
	{"requestParameters.tableName", ctReqTable},
	{"responseElements", ctResponse},
	{"responseElements.ConsoleLogin", ctRespConsoleLogin},
	{"responseElements.CheckMfa", ctRespCheckMFA},
	{"responseElements.SwitchRole", ctRespSwitchRole},
	{"additionalEventData", ctAdditional},
	{"additionalEventData.bytesTransferredIn", ctBytesIn},
	{"additionalEventData.bytesTransferredOut", ctBytesOut},
	{"additionalEventData.functionVersion", ctFunctionVersion},
	{"additionalEventData.MFAUsed", ctMFAUsed},
	{"tlsDetails", ctTLS},
	{"tlsDetails.tlsVersion", ctTLSVersion},
	{"tlsDetails.cipherSuite", ctCipher},
	{"tlsDetails.clientProvidedHostHeader", ctHost},
	{"userIdentity", ctUser},
	{"userIdentity.type", ctUserType},
	{"userIdentity.principalId", ctUserPrincipal},
	{"userIdentity.arn", ctUserARN},
	{"userIdentity.accountId", ctUserAccount},
	{"userIdentity.accessKeyId", ctUserKey},
	{"userIdentity.userName", ctUserName},
	{"userIdentity.invokedBy", ctUserInvokedBy},
	{"userIdentity.identityProvider", ctUserProvider},
	{"userIdentity.sessionContext", ctSession},
	{"userIdentity.sessionContext.sourceIdentity", ctSourceIdentity},
	{"userIdentity.sessionContext.sessionIssuer", ctIssuer},
	{"userIdentity.sessionContext.sessionIssuer.type", ctIssuerType},
	{"userIdentity.sessionContext.sessionIssuer.principalId", ctIssuerPrincipal},
	{"userIdentity.sessionContext.sessionIssuer.arn", ctIssuerARN},
	{"userIdentity.sessionContext.sessionIssuer.accountId", ctIssuerAccount},
	{"userIdentity.sessionContext.sessionIssuer.userName", ctIssuerName},
	{"userIdentity.sessionContext.attributes", ctSessionAttrs},
	{"userIdentity.sessionContext.attributes.mfaAuthenticated", ctMFA},
	{"userIdentity.sessionContext.attributes.creationDate", ctCreation},
})

func (d *Decoder) cloudTrail(ev *Event) *DecodeError {
	if !d.document(ev, ev.Raw, true) {
		return d.refused()
	}
	if message, ok := ev.unwrap(); ok && !d.document(ev, message, false) {
		return d.refused()
	}
	source, name := ev.text(ctEventSource), ev.text(ctEventName)
	if source == nil || name == nil {
		return &DecodeError{Reason: ReasonMissing, Err: errNoEventName}
	}
	if err := ev.setTime(ev.first(ctEventTime, ctAtTimestamp, ctPEventTime)); err != nil {
		return err
	}
	ev.Status = ev.cloudTrailStatus(name)
	ev.Outcome = outcomeOf(ev.Status)
	ev.classifyCloudTrail(source, name)
	return nil
}

// classifyCloudTrail sets class, activity and layer.
func (e *Event) classifyCloudTrail(source, name []byte) {
	switch {
	case string(source) == "signin.amazonaws.com" || string(e.text(ctEventType)) == "AwsConsoleSignIn":
		e.Class, e.Activity, e.Layer = ClassAuthentication, activityOther, LayerIdentity
		if string(name) == "ConsoleLogin" {
			e.Activity = activityLogon
		}
	case string(source) == "lambda.amazonaws.com" && bytes.HasPrefix(name, []byte("Invoke")):
		e.Class, e.Activity, e.Layer = ClassAPIActivity, activityOther, LayerFunction
	case e.isDataEvent(source, name):
		e.Class, e.Activity, e.Layer = ClassDatastore, datastoreActivity(name), LayerDatastore
	default:
		e.Class, e.Activity, e.Layer = ClassAPIActivity, apiActivity(name), LayerControl
	}
}

// isDataEvent says whether a record is about the content of a data store. Old
// records have no eventCategory; what they have is tried in turn.
func (e *Event) isDataEvent(source, name []byte) bool {
	switch string(source) {
	case "s3.amazonaws.com", "s3express.amazonaws.com", "s3-outposts.amazonaws.com",
		"dynamodb.amazonaws.com", "rds-data.amazonaws.com", "sdb.amazonaws.com":
	default:
		return false
	}
	if category := e.text(ctEventCategory); category != nil {
		return string(category) == "Data"
	}
	switch string(e.text(ctManagementEvent)) {
	case "true":
		return false
	case "false":
		return true
	}
	switch string(name) {
	case "GetObject", "PutObject", "DeleteObject", "DeleteObjects", "HeadObject", "CopyObject", "ListObjects",
		"ListObjectsV2", "SelectObjectContent", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload",
		"GetItem", "BatchGetItem", "TransactGetItems", "Query", "Scan", "PutItem", "UpdateItem", "DeleteItem",
		"BatchWriteItem", "TransactWriteItems", "ExecuteStatement", "BatchExecuteStatement":
		return true
	}
	return false
}

// The OCSF activities used by more than one class, or by name.
const (
	activityOther = 99

	activityLogon = 1 // of Authentication

	activityCreate = 1 // of API Activity
	activityRead   = 2
	activityUpdate = 3
	activityDelete = 4

	dataRead   = 1 // of Datastore Activity
	dataUpdate = 2
	dataQuery  = 4
	dataWrite  = 5
	dataDelete = 7
	dataList   = 8
)

// apiActivity tells what an operation does from the verb it begins with.
func apiActivity(name []byte) uint8 {
	name = bytes.TrimPrefix(name, []byte("Batch"))
	n := min(1, len(name)) // "Setup" does not begin with the verb "Set"
	for n < len(name) && name[n]-'a' < 26 {
		n++
	}
	switch string(name[:n]) {
	case "Create", "Put", "Add", "Attach", "Run":
		return activityCreate
	case "Get", "List", "Describe", "Head", "Lookup":
		return activityRead
	case "Update", "Modify", "Set", "Patch":
		return activityUpdate
	case "Delete", "Remove", "Detach", "Stop":
		return activityDelete
	}
	return activityOther
}

func datastoreActivity(name []byte) uint8 {
	switch string(name) {
	case "Query", "Scan", "ExecuteStatement", "BatchExecuteStatement", "ExecuteTransaction", "SelectObjectContent":
		return dataQuery
	case "TransactGetItems":
		return dataRead
	case "BatchWriteItem", "TransactWriteItems", "CopyObject", "UploadPart", "UploadPartCopy",
		"CreateMultipartUpload", "CompleteMultipartUpload", "RestoreObject":
		return dataWrite
	case "AbortMultipartUpload":
		return dataDelete
	}
	name = bytes.TrimPrefix(name, []byte("Batch"))
	for _, v := range [...]struct {
		prefix   string
		activity uint8
	}{
		{"Get", dataRead},
		{"Head", dataRead},
		{"List", dataList},
		{"Put", dataWrite},
		{"Update", dataUpdate},
		{"Delete", dataDelete},
	} {
		if bytes.HasPrefix(name, []byte(v.prefix)) {
			return v.activity
		}
	}
	return activityOther
}

func (e *Event) cloudTrailAttr(a Attr) []byte {
	switch a {
	case AttrUID:
		return e.text(ctEventID)
	case AttrCloudAccount:
		return e.first(ctRecipient, ctUserAccount)
	case AttrCloudRegion:
		return e.text(ctRegion)
	case AttrActorUID:
		return e.cloudTrailActor()
	case AttrActorName:
		return e.first(ctUserName, ctIssuerName)
	case AttrActorType:
		return e.text(ctUserType)
	case AttrActorCredential:
		return e.text(ctUserKey)
	case AttrActorSession:
		return e.cloudTrailSession()
	case AttrActorIssuer:
		return e.text(ctIssuerARN)
	case AttrActorInvokedBy:
		return e.text(ctUserInvokedBy)
	case AttrSrcIP:
		if ip := e.text(ctSourceIP); isIP(ip) {
			return ip
		}
	case AttrSrcDomain:
		if ip := e.text(ctSourceIP); !isIP(ip) {
			return ip
		}
	case AttrHTTPHost:
		return e.text(ctHost)
	case AttrHTTPUserAgent:
		return e.text(ctUserAgent)
	case AttrAPIOperation:
		return e.text(ctEventName)
	case AttrAPIService:
		return e.text(ctEventSource)
	case AttrAPIRequestUID:
		return e.text(ctRequestID)
	case AttrAPIError:
		return e.text(ctErrorCode)
	case AttrAPIErrorMessage:
		return e.text(ctErrorMessage)
	case AttrResourceUID:
		uid, _ := e.cloudTrailResource()
		return uid
	case AttrResourceType:
		_, kind := e.cloudTrailResource()
		return kind
	case AttrFunctionUID, AttrFunctionName, AttrFunctionVersion:
		return e.cloudTrailFunction(a)
	case AttrFunctionRequest:
		if e.Layer == LayerFunction {
			return e.text(ctRequestID)
		}
	case AttrBytesOut:
		return e.text(ctBytesOut)
	}
	return nil
}

// cloudTrailActor is the principal that stays the same from session to session:
// the role that was assumed, not the session's own name, which the caller chooses.
func (e *Event) cloudTrailActor() []byte {
	if arn := e.text(ctIssuerARN); arn != nil {
		return arn
	}
	if arn := e.text(ctUserARN); arn != nil {
		if role, _, ok := cutAssumedRole(arn); ok {
			return role
		}
		return arn
	}
	if p := e.text(ctUserPrincipal); p != nil {
		if string(e.text(ctUserType)) == "AssumedRole" {
			p, _, _ = bytes.Cut(p, []byte(":"))
		}
		return p
	}
	if string(e.text(ctUserType)) == "AWSAccount" {
		return e.text(ctUserAccount) // "anonymous" is one, too
	}
	p := e.first(ctUserInvokedBy, ctUserName)
	if string(p) == "HIDDEN_DUE_TO_SECURITY_REASONS" {
		return nil // a name that does not exist, typed at the console's sign-in
	}
	return p
}

// cutAssumedRole parts arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION before the session.
func cutAssumedRole(arn []byte) (role, session []byte, ok bool) {
	i := bytes.Index(arn, []byte(":assumed-role/"))
	if i < 0 {
		return nil, nil, false
	}
	i += len(":assumed-role/")
	j := bytes.IndexByte(arn[i:], '/')
	if j < 0 {
		return arn, nil, true
	}
	return arn[: i+j : i+j], arn[i+j+1:], true
}

func (e *Event) cloudTrailSession() []byte {
	if _, session, ok := cutAssumedRole(e.text(ctUserARN)); ok && len(session) > 0 {
		return session
	}
	if _, session, ok := bytes.Cut(e.text(ctUserPrincipal), []byte(":")); ok && len(session) > 0 {
		return session
	}
	return nil
}

// cloudTrailResource is the resource that a record is about: the first that it
// names by its ARN, or what its parameters say.
func (e *Event) cloudTrailResource() (uid, kind []byte) {
	uid, kind = e.listedResource(nil)
	if uid != nil {
		return uid, kind
	}
	switch {
	case e.Layer == LayerFunction:
		return e.cloudTrailFunction(AttrFunctionUID), e.constant("AWS::Lambda::Function")
	case e.text(ctReqBucket) != nil:
		if key := e.text(ctReqKey); key != nil {
			return e.join([]byte("arn:aws:s3:::"), e.text(ctReqBucket), []byte("/"), key), e.constant("AWS::S3::Object")
		}
		return e.join([]byte("arn:aws:s3:::"), e.text(ctReqBucket)), e.constant("AWS::S3::Bucket")
	case e.text(ctReqTable) != nil && string(e.text(ctEventSource)) == "dynamodb.amazonaws.com":
		return e.text(ctReqTable), e.constant("AWS::DynamoDB::Table")
	case e.text(ctReqFunction) != nil && string(e.text(ctEventSource)) == "lambda.amazonaws.com":
		return e.cloudTrailFunction(AttrFunctionUID), e.constant("AWS::Lambda::Function")
	}
	return nil, nil
}

// listedResource is the first of resources[] with an ARN, and of a type if one
// is asked for.
func (e *Event) listedResource(want []byte) (arn, kind []byte) {
	if !e.has(ctResources) || e.spans[ctResources].kind != KindArray {
		return nil, nil
	}
	doc := e.Doc
	i := space(doc, int(e.spans[ctResources].start)+1)
	for doc[i] != ']' {
		el, next := valueAt(doc, i)
		if el.kind == KindObject {
			arn, kind = e.resource(el)
			if arn != nil && (want == nil || string(kind) == string(want)) {
				return arn, kind
			}
		}
		if i = space(doc, next); doc[i] == ',' {
			i = space(doc, i+1)
		}
	}
	return nil, nil
}

func (e *Event) resource(sp span) (arn, kind []byte) {
	var buf [1]Value
	for _, name := range [...]string{"ARN", "arn", "ARNPrefix"} {
		if vs := walk(buf[:0], e.Doc, sp, name); len(vs) > 0 && arn == nil {
			arn = e.value(vs[0])
		}
	}
	if vs := walk(buf[:0], e.Doc, sp, "type"); len(vs) > 0 {
		kind = e.value(vs[0])
	}
	return arn, kind
}

// value is the text of a scalar value; nil if it is another or empty.
func (e *Event) value(v Value) []byte {
	switch {
	case len(v.Raw) == 0:
		return nil
	case v.Plain():
		return v.Raw
	case v.Kind == KindString:
		return e.unescaped(v.Raw)
	}
	return nil
}
