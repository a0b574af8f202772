package event

import "bytes"

// function is a Lambda function as a name, an ARN or a part of one may give it.
type function struct {
	arn     []byte // without version or alias; nil if only a name is known
	region  []byte
	name    []byte
	version []byte // or alias; nil if there is none
}

// parseFunction reads what the Lambda API accepts as a function's name:
// NAME, NAME:ALIAS, ACCOUNT:function:NAME and
// arn:aws:lambda:REGION:ACCOUNT:function:NAME, both with :ALIAS as well.
func parseFunction(b []byte) function {
	var f function
	rest := b
	if i := bytes.Index(b, []byte(":function:")); i >= 0 {
		rest = b[i+len(":function:"):]
		if bytes.HasPrefix(b, []byte("arn:")) {
			f.arn = b
			f.region = arnPart(b, 3)
		}
	}
	name, version, ok := bytes.Cut(rest, []byte(":"))
	f.name = name
	if ok {
		f.version = version
		if f.arn != nil {
			n := len(f.arn) - len(version) - 1
			f.arn = f.arn[:n:n]
		}
	}
	if len(f.name) == 0 {
		return function{}
	}
	return f
}

// arnPart is the i-th of an ARN's parts between colons.
func arnPart(arn []byte, i int) []byte {
	for ; i > 0; i-- {
		j := bytes.IndexByte(arn, ':')
		if j < 0 {
			return nil
		}
		arn = arn[j+1:]
	}
	if j := bytes.IndexByte(arn, ':'); j >= 0 {
		arn = arn[:j:j]
	}
	if len(arn) == 0 {
		return nil
	}
	return arn
}

// cloudTrailFunction is the function that a record of Lambda's is about.
func (e *Event) cloudTrailFunction(a Attr) []byte {
	if string(e.text(ctEventSource)) != "lambda.amazonaws.com" {
		return nil
	}
	arn, _ := e.listedResource([]byte("AWS::Lambda::Function"))
	listed, asked := parseFunction(arn), parseFunction(e.text(ctReqFunction))
	ran := parseFunction(e.text(ctFunctionVersion))
	switch a {
	case AttrFunctionName:
		return firstOf(listed.name, asked.name, ran.name)
	case AttrFunctionVersion:
		return firstOf(ran.version, asked.version, listed.version)
	case AttrFunctionUID:
		if uid := firstOf(listed.arn, asked.arn, ran.arn); uid != nil {
			return uid
		}
		region, account := e.text(ctRegion), e.text(ctRecipient)
		if asked.name != nil && region != nil && account != nil {
			return e.join([]byte("arn:aws:lambda:"), region, []byte(":"), account, []byte(":function:"), asked.name)
		}
	}
	return nil
}

func firstOf(texts ...[]byte) []byte {
	for _, t := range texts {
		if len(t) > 0 {
			return t
		}
	}
	return nil
}
