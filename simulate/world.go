package simulate

import (
	"fmt"

	"github.com/vedette-sec/vedette/detect/enrich"
)

// The account that does not exist.
const (
	accountID = "111122223333"
	region    = "eu-west-1"
	apiID     = "a1b2c3d4e5"
	stage     = "prod"
	domain    = "api.example.com"
	apiGroup  = "/aws/apigateway/orders-prod"
)

// Where staff and programs call the AWS API from.
const (
	officeIP  = "198.51.100.17" // staff, GB
	officeIP2 = "198.51.100.23"
	cloudNAT  = "192.0.2.200" // what functions call out from, US
)

// fn is a Lambda function and the environments it runs in.
type fn struct {
	name    string
	json    bool    // JSON log format; otherwise text
	runtime string  // as in the user agent
	median  float64 // execution time, ms
	sigma   float64
	timeout int64   // ms
	memory  int     // MB
	failing float64 // share of invocations that end with an error
	envs    []*env
}

func (f *fn) group() string { return "/aws/lambda/" + f.name }

func (f *fn) arn() string {
	return "arn:aws:lambda:" + region + ":" + accountID + ":function:" + f.name
}

// env is an execution environment: one log stream, one invocation at a time.
type env struct {
	stream string
	free   int64 // when the last invocation ended
}

// idle is how long an environment is kept without an invocation, ms.
const idle = 10 * 60_000

const (
	ordersFn  = "orders-api"
	payFn     = "payments"
	catalogFn = "catalog"
	authFn    = "authorizer"
	nightlyFn = "nightly-report"
	workerFn  = "order-worker"
)

// route is a method and path of the API.
type route struct {
	method, resource string
	fn               string
	auth             bool
	weight           float64
	bytes            int // of a usual response
}

// The routes that episodes use.
var (
	loginRoute  = &route{"POST", "/login", ordersFn, false, 3, 412}
	searchRoute = &route{"GET", "/catalog/search", catalogFn, false, 17, 5200}
	orderRoute  = &route{"GET", "/orders/{id}", ordersFn, true, 16, 1800}
)

func routes() []*route {
	return []*route{
		loginRoute, searchRoute, orderRoute,
		{"GET", "/catalog", catalogFn, false, 16, 9400},
		{"GET", "/catalog/{sku}", catalogFn, false, 15, 2100},
		{"GET", "/orders", ordersFn, true, 14, 6100},
		{"POST", "/orders", ordersFn, true, 8, 640},
		{"POST", "/payments", payFn, true, 7, 320},
		{"GET", "/payments/{id}", payFn, true, 4, 510},
	}
}

// user is a customer whose requests carry a token.
type user struct {
	id       string
	homes    []home
	agents   []string
	weight   float64
	requests int
	token    int64 // until when the authorizer's answer is cached
}

// home is a network that a user comes from.
type home struct {
	weight float64
	prefix string // of an address, to be completed
	hosts  int    // addresses there that the user gets
	first  int
}

func (h home) address(n int) string {
	if h.prefix[len(h.prefix)-1] == ':' {
		return fmt.Sprintf("%s%x", h.prefix, h.first+n)
	}
	return fmt.Sprintf("%s%d", h.prefix, h.first+n)
}

const (
	numUsers   = 30
	mobileHost = 40 // addresses of a mobile network's gateway
)

func (s *sim) populate() {
	for _, f := range []*fn{
		{name: ordersFn, runtime: "python3.13", median: 70, sigma: 0.32, timeout: 29_000, memory: 512, failing: 0.002},
		{name: payFn, json: true, runtime: "nodejs22.x", median: 160, sigma: 0.3, timeout: 29_000, memory: 512, failing: 0.003},
		{name: catalogFn, runtime: "nodejs22.x", median: 45, sigma: 0.32, timeout: 10_000, memory: 256, failing: 0.001},
		{name: authFn, json: true, runtime: "provided.al2023", median: 9, sigma: 0.3, timeout: 3_000, memory: 128, failing: 0.0005},
		{name: nightlyFn, runtime: "python3.13", median: 48_000, sigma: 0.15, timeout: 900_000, memory: 2048, failing: 0.1},
		{name: workerFn, json: true, runtime: "nodejs22.x", median: 85, sigma: 0.3, timeout: 60_000, memory: 256, failing: 0.004},
	} {
		s.fns[f.name] = f
	}
	countries := customerCountries()
	for i := range numUsers {
		c := countries[s.rng.IntN(len(countries))]
		u := &user{
			id:     fmt.Sprintf("customer-%04d", 1000+37*i+s.rng.IntN(37)),
			weight: 0.5 + s.rng.Float64(),
			agents: []string{pick(s.rng, browsers)},
		}
		// At home an IPv6 prefix, on the move the mobile operator's gateway, and some
		// have an office as well.
		u.homes = append(u.homes,
			home{weight: 0.7, prefix: fmt.Sprintf("2001:db8:%x%02x:1::", c.block, i), hosts: 3, first: 0x10},
			home{weight: 0.3, prefix: c.mobile, hosts: mobileHost, first: c.mobileFirst})
		if s.rng.Float64() < 0.4 {
			u.homes = append(u.homes, home{weight: 0.4, prefix: fmt.Sprintf("2001:db8:%x%02x:2::", c.block, 0x80+i), hosts: 1, first: 0x99})
			u.agents = append(u.agents, pick(s.rng, browsers))
		}
		s.users = append(s.users, u)
	}
	s.routes = routes()
	s.runners = []string{"192.0.2.130", "192.0.2.131", "192.0.2.150"}
}

// Inventory is what an operator of the simulated API would write down of its
// functions.
func Inventory() enrich.Inventory {
	role := func(n string) string { return "arn:aws:iam::" + accountID + ":role/" + n }
	return enrich.Inventory{Functions: []enrich.Function{
		{Name: ordersFn, Gateways: []string{apiID}, Principals: []string{role(deployer)}},
		{Name: payFn, Gateways: []string{apiID}, Principals: []string{role(execRole(ordersFn))}},
		{Name: catalogFn, Gateways: []string{apiID}},
		{Name: authFn, Authorizers: []string{apiID}},
		{Name: nightlyFn, Services: []string{"events"}},
		{Name: workerFn, Services: []string{"scheduler"}, EventSources: []string{"sqs"}},
	}}
}

const (
	deployer = "deployer"
	support  = "support-readonly"
)

func execRole(function string) string { return function + "-exec" }

var browsers = []string{
	"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
	"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.1 Safari/605.1.15",
	"Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
	"OrdersApp/4.2.1 (iPhone; iOS 19.1; Scale/3.00)",
	"OrdersApp/4.2.0 (Android 16; Pixel 9)",
}
