package simulate

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// The episodes.
const (
	CredentialStuffing = "credential-stuffing" // one address tries passwords on POST /login
	SlowRequests       = "slow-requests"       // searches made to be expensive, until the catalog times out
	NewCountry         = "new-country"         // a customer's token is used from another continent
	GatewayBypass      = "gateway-bypass"      // a leaked key invokes payments through the Lambda API
)

// EpisodeNames lists the episodes.
func EpisodeNames() []string {
	return []string{CredentialStuffing, SlowRequests, NewCountry, GatewayBypass}
}

// Labels is the content of labels.json: what of the logs is an attack.
type Labels struct {
	Seed     uint64    `json:"seed"`
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Episodes []Label   `json:"episodes"`
}

// Label is one attack episode.
type Label struct {
	Episode  string   `json:"episode"`
	Kind     string   `json:"kind"` // repeated_auth_failures, function_anomaly, new_origin or gateway_bypass
	Entities []Entity `json:"entities"`
	// Needs is the history that a rule needs before the episode can stand out;
	// zero if none.
	NeedsHours   int       `json:"needs_history_hours"`
	Start        time.Time `json:"start"`
	End          time.Time `json:"end"`
	Records      int       `json:"records"`
	FirstEventID string    `json:"first_event_id"`
	LastEventID  string    `json:"last_event_id"`
}

// Entity is someone or something that an episode is about.
type Entity struct {
	Type  string `json:"type"` // as event.Attr names it
	Value string `json:"value"`
}

// mark gathers what belongs to an episode. A nil mark gathers nothing.
type mark struct {
	label       Label
	first, last int64 // ms
}

func (m *mark) add(t int64, id string) {
	if m == nil {
		return
	}
	m.label.Records++
	if m.label.FirstEventID == "" || t < m.first {
		m.first, m.label.FirstEventID = t, id
	}
	if t >= m.last {
		m.last, m.label.LastEventID = t, id
	}
}

// lastEpisodeEnds is how long before the end the last episode is over: an
// absence is certain only when every log has settled.
const lastEpisodeEnds = 62 * time.Minute

// apart is how far apart episodes begin, so that they are incidents of their own.
const apart = 100 * time.Minute

// episodes plans the attacks. They have random numbers of their own, so that the
// benign traffic is the same without them.
func (s *sim) episodes() {
	rng := rand.New(rand.NewPCG(s.opts.Seed, 3))
	names := append([]string(nil), EpisodeNames()...)
	starts := make([]int64, len(names))
	length := s.end - s.start
	if need := int64(len(names))*apart.Milliseconds() + 2*lastEpisodeEnds.Milliseconds(); length >= need {
		rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		last := s.end - lastEpisodeEnds.Milliseconds() - longest
		for i := range names {
			back := int64(len(names)-1-i) * apart.Milliseconds()
			starts[i] = last - back - rng.Int64N(10*60_000)
		}
	} else {
		// Too short to set them properly apart: the one that needs the longest to be
		// judged comes first.
		names[0], names[3] = names[3], names[0]
		for i := range names {
			starts[i] = s.start + length*int64(2+i*18)/100
		}
	}
	for i, n := range names {
		seed := rng.Uint64()
		for _, want := range s.opts.Episodes {
			if n == want {
				s.episode(n, starts[i], rand.New(rand.NewPCG(seed, 4)))
			}
		}
	}
}

// longest is how long the longest episode lasts, ms.
const longest = 27 * 60_000

func (s *sim) episode(name string, start int64, rng *rand.Rand) {
	m := &mark{label: Label{Episode: name}}
	// In a short simulation they are shorter as well, but still attacks.
	scale := min(1, float64(s.end-s.start)/float64(4*time.Hour.Milliseconds()))
	span := func(minutes int64) int64 { return max(int64(float64(minutes*60_000)*scale), 90_000) }
	switch name {
	case CredentialStuffing:
		s.stuffing(m, start, span(6), rng)
	case SlowRequests:
		s.slowRequests(m, start, span(25), rng)
	case NewCountry:
		s.newCountry(m, start, span(9), rng)
	case GatewayBypass:
		s.bypass(m, start, span(5), rng)
	}
	s.marks = append(s.marks, m)
}

func entity(kind, value string) Entity { return Entity{kind, value} }

// stuffing tries one password after another from one address.
func (s *sim) stuffing(m *mark, start, span int64, rng *rand.Rand) {
	ip := fmt.Sprintf("203.0.113.%d", 64+rng.IntN(64))
	m.label.Kind = "repeated_auth_failures"
	m.label.Entities = []Entity{entity("src_endpoint.ip", ip), entity("gateway.route", loginRoute.method+" "+loginRoute.resource)}
	for t := start; t < start+span; t += between(rng, 700, 2200) {
		s.at(t, func(t int64) {
			s.request(t, request{rng: rng, route: loginRoute, ip: ip, agent: "python-requests/2.32.5", badPassword: true, mark: m})
		})
	}
}

// slowRequests floods the search from a handful of machines.
func (s *sim) slowRequests(m *mark, start, span int64, rng *rand.Rand) {
	m.label.Kind = "function_anomaly"
	m.label.NeedsHours = 72
	m.label.Entities = []Entity{entity("function.name", catalogFn), entity("gateway.route", searchRoute.method+" "+searchRoute.resource)}
	var ips []string
	for i := range 6 {
		ips = append(ips, fmt.Sprintf("203.0.113.%d", 130+20*i+rng.IntN(20)))
		m.label.Entities = append(m.label.Entities, entity("src_endpoint.ip", ips[i]))
	}
	// As heavy as it takes to drown a busy API as well.
	perMinute := 9 + 60*s.opts.Rate/recordsPerRequest
	for t := start; t < start+span; t += between(rng, int64(40_000/perMinute), int64(80_000/perMinute)) {
		s.at(t, func(t int64) {
			s.request(t, request{rng: rng, route: searchRoute, ip: pick(rng, ips), agent: "Mozilla/5.0", slow: true, mark: m})
		})
	}
}

// newCountry reads a customer's orders with that customer's token.
func (s *sim) newCountry(m *mark, start, span int64, rng *rand.Rand) {
	u := pick(rng, s.users)
	ip := fmt.Sprintf("198.51.100.%d", 129+rng.IntN(120))
	m.label.Kind = "new_origin"
	m.label.NeedsHours = 7 * 24
	m.label.Entities = []Entity{entity("actor.user.uid", u.id), entity("src_endpoint.ip", ip), entity("src_endpoint.location.country", "BR")}
	for t := start; t < start+span; t += between(rng, 15_000, 50_000) {
		s.at(t, func(t int64) {
			s.request(t, request{rng: rng, route: orderRoute, user: u, ip: ip, agent: "okhttp/5.3.0", mark: m})
		})
	}
}

// bypass finds out what a leaked key is good for, then invokes payments.
func (s *sim) bypass(m *mark, start, span int64, rng *rand.Rand) {
	const key = "AKIAEXAMPLELEAKED001"
	ip := fmt.Sprintf("203.0.113.%d", 2+rng.IntN(60))
	who := userIdentity("legacy-export", key, ip, "Boto3/1.41.2 md/Botocore#1.41.2")
	m.label.Kind = "gateway_bypass"
	m.label.Entities = []Entity{
		entity("function.name", payFn), entity("actor.user.uid", "arn:aws:iam::"+accountID+":user/legacy-export"),
		entity("actor.user.credential_uid", key), entity("src_endpoint.ip", ip),
	}
	s.at(start, func(t int64) {
		m.add(t, s.trail(call{t: t, who: who, source: "sts", name: "GetCallerIdentity", readOnly: true}))
		m.add(t+2000, s.trail(call{t: t + 2000, who: who, source: "lambda", name: "ListFunctions20150331", readOnly: true}))
	})
	for t := start + span/5; t < start+span; t += between(rng, 9000, 30_000) {
		s.at(t, func(t int64) {
			v := s.invoke(t, invokeOptions{fn: s.fns[payFn], rng: rng, mark: m, trace: s.trace(t)})
			m.add(v.end, s.invokeCall(v, who, "Invoke", `{"functionName":"`+payFn+`","invocationType":"RequestResponse"}`))
		})
	}
}

func (s *sim) labels() Labels {
	l := Labels{Seed: s.opts.Seed, Start: time.UnixMilli(s.start).UTC(), End: time.UnixMilli(s.end).UTC(), Episodes: []Label{}}
	for _, m := range s.marks {
		m.label.Start, m.label.End = time.UnixMilli(m.first).UTC(), time.UnixMilli(m.last).UTC()
		l.Episodes = append(l.Episodes, m.label)
	}
	return l
}

func writeLabels(dir string, l Labels) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("simulate: labels: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "labels.json"), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("simulate: write labels: %w", err)
	}
	return nil
}
