package simulate

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// day is a day in ms.
const day = 86_400_000

// traffic plans everything benign.
func (s *sim) traffic() {
	s.out.token = s.letters
	s.at(s.start, s.nextRequest)
	for d := s.start - s.start%day; d < s.end; d += day {
		s.at(d+2*3_600_000+10*60_000, s.nightly)
		s.staff(d)
	}
	const sweep = 15 * 60_000
	for t := s.start - s.start%sweep + sweep; t < s.end; t += sweep {
		s.at(t+s.rng.Int64N(2000), s.sweep)
	}
	const audit = 3_600_000
	for t := s.start - s.start%audit + 20*60_000; t < s.end; t += audit {
		s.at(t+s.rng.Int64N(60_000), s.audit)
	}
}

// load is the rate of requests at t relative to the mean: more by day than by
// night, less at weekends.
func load(t int64) float64 {
	at := time.UnixMilli(t).UTC()
	hour := float64(at.Hour()) + float64(at.Minute())/60
	l := 1 + 0.55*math.Cos((hour-14)/24*2*math.Pi)
	if d := at.Weekday(); d == time.Saturday || d == time.Sunday {
		l *= 0.8
	}
	return l
}

const maxLoad = 1.55

// meanLoad is load's mean over a time.
func meanLoad(start, end int64) float64 {
	const step = 5 * 60_000
	sum, n := 0.0, 0
	for t := start; t < end; t += step {
		sum += load(t)
		n++
	}
	return sum / float64(n)
}

// nextRequest is the arrival of requests: a Poisson process whose rate follows
// load, by thinning.
func (s *sim) nextRequest(t int64) {
	perMs := s.opts.Rate / recordsPerRequest / 1000 / s.meanLoad * maxLoad
	gap := int64(s.rng.ExpFloat64() / perMs)
	s.at(t+max(gap, 1), s.nextRequest)
	if s.rng.Float64()*maxLoad > load(t) {
		return
	}
	s.someRequest(t)
}

// child is a source of random numbers for one happening: how many it draws, which
// depends on the state of the functions, does not change what happens next.
func (s *sim) child() *rand.Rand { return rand.New(rand.NewPCG(s.rng.Uint64(), 5)) }

// someRequest is a customer's request, as benign traffic has them.
func (s *sim) someRequest(t int64) {
	q := request{rng: s.child(), route: s.someRoute()}
	if !q.route.auth {
		s.anonymous(&q)
		if q.route == loginRoute && s.rng.Float64() < 0.06 {
			q.badPassword = true
			if s.rng.Float64() < 0.5 { // and once more, rightly or not
				again := q
				again.badPassword = s.rng.Float64() < 0.3
				s.at(t+between(s.rng, 4000, 15_000), func(t int64) { s.request(t, again) })
			}
		}
		s.request(t, q)
		return
	}
	u := s.someUser()
	q.user = u
	q.ip, q.agent = u.from(s.rng)
	switch p := s.rng.Float64(); {
	case p < 0.008: // an expired token: refused, renewed, and again
		q.expired = true
		again := q
		again.expired = false
		s.at(t+between(s.rng, 300, 3000), func(t int64) { s.request(t, again) })
	case p < 0.011:
		q.forbidden = true
	case p < 0.02:
		q.notFound = true
	}
	s.request(t, q)
}

func (s *sim) someRoute() *route {
	total := 0.0
	for _, r := range s.routes {
		total += r.weight
	}
	x := s.rng.Float64() * total
	for _, r := range s.routes {
		if x -= r.weight; x < 0 {
			return r
		}
	}
	return s.routes[len(s.routes)-1]
}

func (s *sim) someUser() *user {
	total := 0.0
	for _, u := range s.users {
		total += u.weight
	}
	x := s.rng.Float64() * total
	for _, u := range s.users {
		if x -= u.weight; x < 0 {
			return u
		}
	}
	return s.users[len(s.users)-1]
}

// from is where a user's request comes from. The first requests make the round
// of the user's networks: they are what is usual for this user.
func (u *user) from(rng *rand.Rand) (ip, agent string) {
	i := u.requests
	u.requests++
	if i >= len(u.homes) {
		total := 0.0
		for _, h := range u.homes {
			total += h.weight
		}
		x := rng.Float64() * total
		for i = 0; i < len(u.homes)-1; i++ {
			if x -= u.homes[i].weight; x < 0 {
				break
			}
		}
	}
	h := u.homes[i]
	return h.address(rng.IntN(h.hosts)), pick(rng, u.agents)
}

// anonymous gives a request without a token its source: anybody.
func (s *sim) anonymous(q *request) {
	q.agent = pick(s.rng, browsers)
	if s.rng.Float64() < 0.5 {
		q.ip, _ = s.someUser().from(s.rng)
		return
	}
	h := home{prefix: "2001:db8:" + strconv.FormatInt(between(s.rng, 0x9000, 0x9400), 16) + ":1::"}
	q.ip = h.address(s.rng.IntN(200))
}

// request is one request of a client.
type request struct {
	rng   *rand.Rand
	route *route
	user  *user
	ip    string
	agent string
	mark  *mark // the episode that it belongs to

	expired, forbidden, notFound, badPassword bool
	slow                                      bool // made to be expensive
}

// request plays a request from the gateway to the function and back.
func (s *sim) request(t int64, q request) {
	r := q.route
	a := accessLine{
		start: t, method: r.method, resource: r.resource, path: s.path(q.rng, r.resource), ip: q.ip, agent: q.agent,
		trace: "1-" + strconv.FormatInt(t/1000, 16) + "-" + s.hex(24),
	}
	now := t + between(q.rng, 2, 6)
	finish := func() {
		a.end = now + between(q.rng, 1, 4)
		q.mark.add(t, s.access(a))
	}
	if r.auth {
		if q.expired || q.forbidden || t >= q.user.token {
			v := s.invoke(now, invokeOptions{fn: s.fns[authFn], rng: q.rng, mark: q.mark, trace: a.trace})
			s.byGateway(v, q.mark, "authorizers/x1y2z3")
			now = v.end + 1
			a.authorizer, a.authorizerStatus = v, 200
			if v.status != "success" {
				a.status, a.errorType, a.errorMessage, a.bytes = 500, "AUTHORIZER_FAILURE", "Internal server error", 36
				finish()
				return
			}
		}
		switch {
		case q.expired:
			a.authorizerStatus = 401
			a.status, a.errorType, a.errorMessage, a.bytes = 401, "UNAUTHORIZED", "Unauthorized", 26
			finish()
			return
		case q.forbidden:
			a.principal = q.user.id
			a.status, a.errorType, a.errorMessage, a.bytes = 403, "ACCESS_DENIED", "User is not authorized to access this resource", 58
			finish()
			return
		}
		a.principal = q.user.id
		q.user.token = max(q.user.token, t+300_000) // how long the gateway caches the answer
	}
	v := s.invoke(now, invokeOptions{fn: s.fns[r.fn], rng: q.rng, mark: q.mark, trace: a.trace, slow: q.slow, own: r.method + " " + r.resource})
	s.byGateway(v, q.mark, r.method+r.resource)
	now = v.end + between(q.rng, 1, 3)
	a.integration, a.integrationStatus = v, 200
	switch {
	case v.status == "timeout":
		a.status, a.bytes, a.integrationError = 504, 41, "The Lambda function timed out"
		a.errorType, a.errorMessage = "INTEGRATION_TIMEOUT", "Endpoint request timed out"
	case v.status == "error":
		a.status, a.bytes, a.integrationError = 502, 36, "The Lambda function returned an error"
		a.errorType, a.errorMessage = "API_CONFIGURATION_ERROR", "Internal server error"
	case q.badPassword:
		a.status, a.integrationStatus, a.bytes = 401, 401, 44
	case q.notFound:
		a.status, a.integrationStatus, a.bytes = 404, 404, 39
	default:
		a.status = 200
		if r.method == "POST" && r != loginRoute {
			a.status = 201
		}
		a.integrationStatus = a.status
		a.bytes = r.bytes/2 + q.rng.IntN(r.bytes)
	}
	finish()
	if a.status == 201 && r.fn == ordersFn {
		s.ordered(v, q.rng)
	}
}

// path fills a template in.
func (s *sim) path(rng *rand.Rand, resource string) string {
	b := make([]byte, 0, 40)
	for i := 0; i < len(resource); i++ {
		if resource[i] != '{' {
			b = append(b, resource[i])
			continue
		}
		for resource[i] != '}' {
			i++
		}
		b = strconv.AppendInt(b, between(rng, 10_000, 99_999), 10)
	}
	return string(b)
}

// ordered is what an order causes: a row in the table, at times the payment at
// once, and a message for the worker.
func (s *sim) ordered(v *invocation, rng *rand.Rand) {
	who := s.inFunction(v.fn)
	s.trail(call{
		t: v.end, who: who, source: "dynamodb", name: "PutItem", params: `{"tableName":"orders"}`,
		resource: "arn:aws:dynamodb:" + region + ":" + accountID + ":table/orders", rtyp: "AWS::DynamoDB::Table", data: true,
	})
	if rng.Float64() < 0.3 {
		s.at(v.end+1, func(t int64) {
			p := s.invoke(t, invokeOptions{fn: s.fns[payFn], rng: rng, trace: s.trace(t)})
			s.invokeCall(p, who, "Invoke", `{"functionName":"`+payFn+`","invocationType":"Event"}`)
		})
	}
	s.at(v.end+between(rng, 300, 4000), func(t int64) {
		s.invoke(t, invokeOptions{fn: s.fns[workerFn], rng: rng, trace: s.trace(t), own: "1 message"})
	})
}

func (s *sim) trace(t int64) string { return "1-" + strconv.FormatInt(t/1000, 16) + "-" + s.hex(24) }

// inFunction is who code in a function is to the AWS API.
func (s *sim) inFunction(f *fn) identity {
	role := execRole(f.name)
	return roleIdentity(role, f.name, "ASIAEXAMPLE"+strconv.Itoa(len(f.name))+"FUNCTION", cloudNAT,
		"aws-sdk-js/3.940.0 ua/2.1 os/linux lang/js exec-env/AWS_Lambda_"+f.runtime)
}

// byGateway writes the data event of an invocation that the gateway made.
func (s *sim) byGateway(v *invocation, m *mark, path string) {
	m.add(v.end, s.invokeCall(v, serviceIdentity("apigateway"), "Invoke",
		`{"functionName":"`+v.fn.arn()+`","sourceArn":"arn:aws:execute-api:`+region+`:`+accountID+`:`+apiID+`/`+stage+`/`+path+`"}`))
}

// invokeOptions say how a function is invoked.
type invokeOptions struct {
	fn    *fn
	rng   *rand.Rand
	mark  *mark
	trace string
	own   string // a line of the function's own, written at times
	id    string // request id; empty: a new one
	slow  bool
	fail  bool
}

// invoke runs a function and writes its log.
func (s *sim) invoke(t int64, o invokeOptions) *invocation {
	f := o.fn
	v := &invocation{fn: f, id: o.id, called: t, start: t + between(o.rng, 1, 8), status: "success"}
	if v.id == "" {
		v.id = s.uuid()
	}
	var e *env
	live := f.envs[:0]
	for _, c := range f.envs {
		if c.free+idle > t {
			live = append(live, c)
			if e == nil && c.free <= t {
				e = c
			}
		}
	}
	f.envs = live
	init := 0.0
	if e == nil {
		v.cold = true
		init = logNormal(o.rng, 280, 0.25)
		v.start += int64(init)
		e = &env{stream: time.UnixMilli(t).UTC().Format("2006/01/02") + "/[$LATEST]" + s.hex(32)}
		f.envs = append(f.envs, e)
	}
	duration := logNormal(o.rng, f.median, f.sigma)
	if v.cold {
		duration *= 2.2
	}
	x := o.rng.Float64()
	switch {
	case o.slow && x < 0.55:
		duration = float64(f.timeout) + 1
	case o.slow:
		duration = 3000 + 6000*o.rng.Float64()
	case o.fail || x < f.failing:
		v.status = "error"
		duration *= 0.4
	}
	if duration > float64(f.timeout) {
		duration, v.status = float64(f.timeout), "timeout"
	}
	v.end = v.start + int64(duration) + 1
	e.free = v.end + 1
	own := o.own
	if o.rng.Float64() < 0.7 {
		own = ""
	}
	s.platformLines(v, e, duration, init, o.trace, own)
	for _, id := range v.lines {
		o.mark.add(v.start, id)
	}
	return v
}
