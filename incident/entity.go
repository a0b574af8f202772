package incident

import (
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/vedette-sec/vedette/detect"
)

// The entity types that the package treats specially; others are kept as named.
const (
	EntitySrcIP     = "src_endpoint.ip"
	EntitySrcDomain = "src_endpoint.domain"
	EntityActor     = "actor.user.uid"
	EntityActorName = "actor.user.name"
	EntitySession   = "actor.session.uid"
	EntityFunction  = "function.name"
	EntityAccount   = "cloud.account.uid"
	EntityRegion    = "cloud.region"
	EntityRoute     = "gateway.route"
)

// maxEntity bounds an entity's value in bytes: it stands in an index. What is
// longer is cut, and joins nothing.
const maxEntity = 1024

// ocsfNames gives the OCSF attribute for a provider's field name.
var ocsfNames = map[string]string{
	"sourceIPAddress":                               EntitySrcIP,
	"userIdentity.arn":                              EntityActor,
	"userIdentity.userName":                         EntityActorName,
	"userIdentity.principalId":                      "actor.user.uid_alt",
	"userIdentity.accessKeyId":                      "actor.user.credential_uid",
	"userIdentity.accountId":                        "actor.user.account.uid",
	"userIdentity.sessionContext.sessionIssuer.arn": EntityActor,
	"recipientAccountId":                            EntityAccount,
	"awsRegion":                                     EntityRegion,
	"eventName":                                     "api.operation",
	"eventSource":                                   "api.service.name",
	"userAgent":                                     "http_request.user_agent",
	"requestParameters.functionName":                EntityFunction,
	"function.uid":                                  EntityFunction,
}

// placeholders are what providers write where they have nothing to say.
var placeholders = []string{"", "-", "null", "HIDDEN_DUE_TO_SECURITY_REASONS"}

// Entities names the entities of a finding: the values of its key by the names of
// the rule's group-by. Provider's field names become OCSF attributes, addresses
// get their canonical form, a role session counts as its role, an ARN also names
// its account. The result is sorted and without duplicates; Joins says whether
// the entity is of a kind that joins findings.
func Entities(r Rule, f detect.Finding) ([]Entity, error) {
	values, err := detect.SplitKey(f.Key)
	if err != nil {
		return nil, err
	}
	var es []Entity
	for i, v := range values {
		if i >= len(r.GroupBy) {
			break
		}
		es = appendEntity(es, r.GroupBy[i], v)
	}
	slices.SortFunc(es, func(a, b Entity) int {
		if c := strings.Compare(a.Type, b.Type); c != 0 {
			return c
		}
		return strings.Compare(a.Value, b.Value)
	})
	return slices.CompactFunc(es, func(a, b Entity) bool { return a.Type == b.Type && a.Value == b.Value }), nil
}

func appendEntity(es []Entity, name, value string) []Entity {
	typ, ok := ocsfNames[name]
	if !ok {
		typ = name
	}
	value, whole := cleanValue(value)
	if slices.Contains(placeholders, value) {
		return es
	}
	switch typ {
	case EntitySrcIP:
		a, err := netip.ParseAddr(value)
		if err != nil { // CloudTrail names a service here when a service called
			return append(es, Entity{Type: EntitySrcDomain, Value: value})
		}
		value = a.WithZone("").Unmap().String()
	case EntityActor:
		if account, role, session, ok := cutSession(value); ok {
			es = append(es, Entity{Type: EntitySession, Value: session})
			value = "arn:" + role
			es = appendAccount(es, account)
			break
		}
		if account := arnAccount(value); account != "" {
			es = appendAccount(es, account)
		}
	case EntityFunction:
		// An ARN, possibly with a version or alias, or "account:function:name".
		if _, rest, ok := strings.Cut(value, ":function:"); ok {
			if account := arnAccount(value); account != "" {
				es = appendAccount(es, account)
			}
			value, _, _ = strings.Cut(rest, ":")
			if value == "" {
				return es
			}
		}
	}
	e := Entity{Type: typ, Value: value}
	e.Joins = whole && Joinable(e)
	return append(es, e)
}

func appendAccount(es []Entity, account string) []Entity {
	return append(es, Entity{Type: EntityAccount, Value: account})
}

// Joinable reports whether an entity is of a kind by which findings are joined:
// a principal, a function, or a source address that belongs to one party on the
// internet. Private, shared, loopback and link-local addresses stand for many.
func Joinable(e Entity) bool {
	switch e.Type {
	case EntityActor, EntityFunction:
		return e.Value != ""
	case EntitySrcIP:
		a, err := netip.ParseAddr(e.Value)
		if err != nil {
			return false
		}
		a = a.Unmap()
		return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedAddresses.Contains(a)
	}
	return false
}

// sharedAddresses are carrier-grade NAT's, RFC 6598.
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

// cutSession takes an assumed-role session's ARN apart. The role's path does not
// stand in it, so a role with a path has two names: with it where the provider
// gave the role itself, without where only the session is known.
//
//	arn:aws:sts::111122223333:assumed-role/deployer/ci → 111122223333, aws:iam::111122223333:role/deployer, ci
func cutSession(arn string) (account, role, session string, ok bool) {
	p := strings.SplitN(arn, ":", 6)
	if len(p) != 6 || p[0] != "arn" || p[2] != "sts" {
		return "", "", "", false
	}
	rest, ok := strings.CutPrefix(p[5], "assumed-role/")
	if !ok {
		return "", "", "", false
	}
	name, session, ok := strings.Cut(rest, "/")
	if !ok || name == "" || session == "" || p[4] == "" {
		return "", "", "", false
	}
	return p[4], p[1] + ":iam::" + p[4] + ":role/" + name, session, true
}

// arnAccount is the account in an ARN, or empty.
func arnAccount(arn string) string {
	p := strings.SplitN(arn, ":", 6)
	if len(p) != 6 || p[0] != "arn" || len(p[4]) != 12 {
		return ""
	}
	for _, c := range []byte(p[4]) {
		if c < '0' || c > '9' {
			return ""
		}
	}
	return p[4]
}

// cleanValue makes a value fit for a text column and an index: valid UTF-8, no
// NUL, at most maxEntity bytes. It reports whether the value is still whole.
func cleanValue(s string) (v string, whole bool) {
	whole = true
	if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		s, whole = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD"), false
	}
	if len(s) > maxEntity {
		cut := maxEntity
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s, whole = s[:cut], false
	}
	return s, whole
}

// mainEntity picks the entity that tells most about a finding: what a title
// ends with.
func mainEntity(es []Entity) (Entity, bool) {
	for _, typ := range []string{EntitySrcIP, EntityActor, EntityActorName, EntityFunction, EntityRoute, EntitySrcDomain} {
		for _, e := range es {
			if e.Type == typ {
				return e, true
			}
		}
	}
	for _, e := range es {
		if e.Type != EntityAccount && e.Type != EntityRegion && e.Type != EntitySession {
			return e, true
		}
	}
	return Entity{}, false
}
