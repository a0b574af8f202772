// Package api is how people and programs query and work incidents: the HTTP API
// under /v1, the page at /, health, readiness and metrics.
//
// # Who may do what
//
// A request to the API carries a bearer token (see [Secret]). A token has scopes:
//
//   - ingest: POST /v1/logs, and nothing else;
//   - read: everything that is read, metrics included;
//   - write: what read may, and changing incidents.
//
// In the browser the token is exchanged for a session, kept in this process: a
// restart signs everybody out. A session holds no more rights than its token has
// at the moment of each request, so revoking the token ends it.
//
// With [Options.OpenOnLoopback] (meant for `vedette dev`) the pages, not the API,
// are open for reading to a browser on the same machine. Such a request has a
// loopback peer, names a loopback host, which a page that rebinds its DNS name
// does not, and has not come through a proxy.
//
// Metrics are given to a token that may read, and to a loopback peer under the
// same conditions, so that a node's own agent can scrape them.
//
// # What errors say
//
// Errors are problem details (RFC 9457). They name the parameter at fault and
// what it must look like; they never repeat what was sent. What is for the
// operator goes to the log, under the id that the client gets as X-Request-Id.
package api
