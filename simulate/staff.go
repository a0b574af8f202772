package simulate

import (
	"strconv"
	"time"
)

// nightly is the report that EventBridge starts. One in ten fails and is tried
// again under the same request id.
func (s *sim) nightly(t int64) {
	f := s.fns[nightlyFn]
	id := s.uuid()
	s.trail(call{
		t: t, who: serviceIdentity("events"), source: "lambda", name: "Invoke",
		params:    `{"functionName":"` + f.arn() + `","invocationType":"Event","sourceArn":"arn:aws:events:` + region + `:` + accountID + `:rule/nightly","sourceAccount":"` + accountID + `"}`,
		requestID: id, resource: f.arn(), rtyp: "AWS::Lambda::Function", data: true,
	})
	var try func(t int64)
	tries := 0
	try = func(t int64) {
		tries++
		v := s.invoke(t, invokeOptions{fn: f, rng: s.child(), id: id, trace: s.trace(t), own: "report for yesterday", fail: tries == 1 && s.rng.Float64() < 0.1})
		s.invokeCall(v, serviceIdentity("lambda"), "InvokeExecution", "")
		if v.status != "success" && tries < 3 {
			s.at(v.end+60_000, try)
			return
		}
		for range 3 {
			s.trail(call{
				t: v.start + 1000, who: s.inFunction(f), source: "s3", name: "PutObject", params: `{"bucketName":"orders-reports","key":"report.csv"}`,
				additional: `{"bytesTransferredIn":` + strconv.Itoa(20_000+s.rng.IntN(9000)) + `,"bytesTransferredOut":0,"AuthenticationMethod":"AuthHeader","SignatureVersion":"SigV4"}`,
				resource:   "arn:aws:s3:::orders-reports/report.csv", rtyp: "AWS::S3::Object", data: true,
			})
		}
	}
	if t+5*60_000 < s.end-margin { // it runs for a minute
		s.at(t+200, try)
	}
}

// sweep is the worker called by the scheduler, beside its queue.
func (s *sim) sweep(t int64) {
	v := s.invoke(t, invokeOptions{fn: s.fns[workerFn], rng: s.child(), trace: s.trace(t), own: "sweep"})
	s.invokeCall(v, serviceIdentity("scheduler"), "Invoke", `{"functionName":"`+v.fn.arn()+`","invocationType":"Event"}`)
}

// audit is a service of AWS that looks at everything and may not see all of it.
func (s *sim) audit(t int64) {
	for range 2 + s.rng.IntN(4) {
		s.trail(call{
			t: t, source: "s3", name: "GetBucketPolicy", readOnly: true, params: `{"bucketName":"orders-private"}`,
			who:       identity{`{"type":"AssumedRole","principalId":"AROAEXAMPLECONFIG:AWSConfig","arn":"arn:aws:sts::` + accountID + `:assumed-role/AWSServiceRoleForConfig/AWSConfig","accountId":"` + accountID + `","invokedBy":"config.amazonaws.com","sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::` + accountID + `:role/aws-service-role/config.amazonaws.com/AWSServiceRoleForConfig","accountId":"` + accountID + `","userName":"AWSServiceRoleForConfig"}}}`, "config.amazonaws.com", "config.amazonaws.com"},
			errorCode: "AccessDenied", errorMessage: "Access Denied",
		})
		t += 400
	}
}

// staff plans what people and the deployment do on the day that begins at d.
func (s *sim) staff(d int64) {
	hour := func(h, width int64) int64 { return d + h*3_600_000 + s.rng.Int64N(width*3_600_000) }
	working := time.UnixMilli(d).UTC().Weekday()
	if working == time.Saturday || working == time.Sunday {
		return
	}
	for range 1 + s.rng.IntN(3) {
		s.at(hour(9, 8), s.deploy)
	}
	for range 1 + s.rng.IntN(3) {
		s.at(hour(8, 9), s.lookAround)
	}
	for _, name := range []string{"alice", "bernd"} {
		if s.rng.Float64() < 0.6 {
			s.at(hour(8, 3), func(t int64) { s.signIn(t, name) })
		}
	}
}

// deploy is a deployment from the build runners, and the smoke test behind it.
func (s *sim) deploy(t int64) {
	who := roleIdentity(deployer, "ci-"+strconv.Itoa(1000+s.rng.IntN(9000)), "ASIAEXAMPLEDEPLOY0001", pick(s.rng, s.runners), "aws-sdk-go-v2/1.48.0 os/linux lang/go#1.26")
	f := s.fns[pick(s.rng, []string{ordersFn, payFn, catalogFn, authFn, workerFn})]
	params := `{"functionName":"` + f.name + `"}`
	for _, step := range []struct {
		name     string
		readOnly bool
	}{{"GetFunction20150331v2", true}, {"UpdateFunctionCode20150331v2", false}, {"GetFunctionConfiguration20150331v2", true}, {"PublishVersion20150331", false}} {
		s.trail(call{t: t, who: who, source: "lambda", name: step.name, params: params, readOnly: step.readOnly})
		t += between(s.rng, 900, 4000)
	}
	s.at(t+5000, func(t int64) {
		f.envs = nil // new code, new environments
		v := s.invoke(t, invokeOptions{fn: s.fns[ordersFn], rng: s.child(), trace: s.trace(t), own: "smoke test"})
		s.invokeCall(v, who, "Invoke", `{"functionName":"`+ordersFn+`","invocationType":"RequestResponse"}`)
	})
}

// lookAround is a member of the support staff reading this and that; a little of
// it is denied.
func (s *sim) lookAround(t int64) {
	who := roleIdentity(support, "carla", "ASIAEXAMPLESUPPORT001", pick(s.rng, []string{officeIP, officeIP2}), "aws-cli/2.31.9 md/awscrt#0.27.6")
	calls := []struct{ source, name string }{
		{"lambda", "ListFunctions20150331"}, {"logs", "FilterLogEvents"}, {"dynamodb", "DescribeTable"}, {"cloudwatch", "GetMetricData"}, {"apigateway", "GetStages"},
	}
	for range 3 + s.rng.IntN(12) {
		c := pick(s.rng, calls)
		rec := call{t: t, who: who, source: c.source, name: c.name, readOnly: true}
		if s.rng.Float64() < 0.06 {
			rec.errorCode, rec.errorMessage = "AccessDenied", "User is not authorized to perform this action"
		}
		s.trail(rec)
		t += between(s.rng, 2000, 30_000)
	}
}

// signIn is a sign-in to the console; now and then with a wrong password first.
func (s *sim) signIn(t int64, name string) {
	who := userIdentity(name, "", officeIP, browsers[2])
	rec := call{
		t: t, who: who, source: "signin", name: "ConsoleLogin", kind: "AwsConsoleSignIn",
		response: `{"ConsoleLogin":"Success"}`, additional: `{"LoginTo":"https://console.aws.amazon.com/console/home","MobileVersion":"No","MFAUsed":"Yes"}`,
	}
	if s.rng.Float64() < 0.15 {
		failed := rec
		failed.response, failed.errorMessage = `{"ConsoleLogin":"Failure"}`, "Failed authentication"
		s.trail(failed)
		rec.t += 15_000
	}
	s.trail(rec)
}
