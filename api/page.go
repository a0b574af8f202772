package api

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

//go:embed templates/*.html
var templateFS embed.FS

//go:embed static/style.css
var styleCSS []byte

//go:embed static/icon.svg
var iconSVG []byte

// pages are what a browser sees: HTML that needs no script, with sign-in by
// session cookie.
type pages struct {
	s     *Server
	views map[string]*template.Template
	style string // path of the stylesheet, which names its content
}

func newPages(s *Server) (*pages, error) {
	sum := sha256.Sum256(styleCSS)
	p := &pages{s: s, views: map[string]*template.Template{}, style: "/static/" + hex.EncodeToString(sum[:6]) + ".css"}
	for _, name := range []string{"list", "incident", "signin", "message"} {
		t, err := template.New("").Funcs(viewFuncs()).ParseFS(templateFS, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("parse page %s: %w", name, err)
		}
		p.views[name] = t
	}
	return p, nil
}

func (p *pages) register(handle func(string, http.HandlerFunc)) {
	handle("GET /{$}", p.list)
	handle("GET /incidents/{id}", p.incident)
	handle("POST /incidents/{id}", p.change)
	handle("GET /signin", p.signInForm)
	handle("POST /signin", p.signIn)
	handle("POST /signout", p.signOut)
	handle("GET "+p.style, static("text/css; charset=utf-8", styleCSS))
	handle("GET /static/icon.svg", static("image/svg+xml", iconSVG))
	handle("/", func(w http.ResponseWriter, r *http.Request) {
		p.message(w, r, principal{}, http.StatusNotFound, "Nothing here", "There is no page at this address.")
	})
}

func static(contentType string, b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		_, _ = w.Write(b)
	}
}

// frame is what every page's template gets.
type frame struct {
	Title    string
	Style    string
	Version  string
	Who      string // name of the token signed in with
	SignedIn bool
	Viewer   bool // open on this machine, read only
	CSRF     string
	Now      time.Time
	Body     any
}

// visitor is who looks at a page, and by which session.
type visitor struct {
	principal
	session session
}

// visit finds out who looks. Errors are for toAnswer; a visitor who is nobody
// gets a 401.
func (p *pages) visit(r *http.Request) (visitor, *answer) {
	now := p.s.o.Clock()
	var no *answer
	if c, err := r.Cookie(p.s.cookieName(r)); err == nil {
		if ss, ok := p.s.sessions.get(c.Value, now); ok {
			who, a := p.s.identify(r.Context(), ss.token)
			if a == nil {
				setPrincipal(r.Context(), who)
				return visitor{who, ss}, nil
			}
			if a.status != http.StatusUnauthorized {
				return visitor{}, a
			}
			p.s.sessions.end(c.Value)
			no = a
		}
	}
	if p.s.o.OpenOnLoopback && onLoopback(r) {
		v := visitor{principal: principal{tenant: p.s.o.Tenant, name: "viewer on this machine", viewer: true}}
		setPrincipal(r.Context(), v.principal)
		return v, nil
	}
	if no == nil {
		no = &answer{status: http.StatusUnauthorized, detail: "Sign in."}
	}
	return visitor{}, no
}

// reader is visit for pages that take the right to read. It has answered if it
// returns false.
func (p *pages) reader(w http.ResponseWriter, r *http.Request) (visitor, bool) {
	v, a := p.visit(r)
	switch {
	case a != nil && a.status == http.StatusUnauthorized:
		to := "/signin"
		if r.Method == http.MethodGet && r.URL.RequestURI() != "/" {
			to += "?next=" + url.QueryEscape(r.URL.RequestURI())
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
		return v, false
	case a != nil:
		p.fail(w, r, v, a)
		return v, false
	case !v.allows(ScopeRead):
		p.fail(w, r, v, &answer{status: http.StatusForbidden, detail: "The token may not read."})
		return v, false
	}
	return v, true
}

func (p *pages) render(w http.ResponseWriter, r *http.Request, v visitor, status int, view, title string, body any) {
	f := frame{
		Title: title, Style: p.style, Version: p.s.o.Version, Who: v.name, SignedIn: v.token != nil, Viewer: v.viewer,
		CSRF: v.session.csrf, Now: p.s.o.Clock(), Body: body,
	}
	var b bytes.Buffer
	if err := p.views[view].ExecuteTemplate(&b, "layout", f); err != nil {
		note(r.Context(), err)
		writeProblem(w, http.StatusInternalServerError, "The page could not be made.")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

type messageView struct{ Heading, Text string }

func (p *pages) message(w http.ResponseWriter, r *http.Request, who principal, status int, heading, text string) {
	p.render(w, r, visitor{principal: who}, status, "message", heading, messageView{heading, text})
}

func (p *pages) fail(w http.ResponseWriter, r *http.Request, v visitor, err error) {
	a := toAnswer(err)
	note(r.Context(), a)
	a.headers(w.Header())
	w.Header().Del("WWW-Authenticate") // a browser would ask for a password
	p.render(w, r, v, a.status, "message", http.StatusText(a.status), messageView{http.StatusText(a.status), a.detail})
}

// filter is the list's form as it was sent.
type filter struct {
	Status, Severity, Rule, Entity, Since, Until string
}

func (f filter) isZero() bool { return f == filter{} }

func (f filter) values() url.Values {
	v := url.Values{}
	for _, kv := range [][2]string{{"status", f.Status}, {"severity", f.Severity}, {"rule", f.Rule}, {"entity", f.Entity}, {"since", f.Since}, {"until", f.Until}} {
		if kv[1] != "" {
			v.Set(kv[0], kv[1])
		}
	}
	return v
}

// formTime is what <input type=datetime-local> sends; the page says that it is UTC.
const formTime = "2006-01-02T15:04"

// query turns the form into a Query, or says what is wrong with it. What it says
// is for the page and repeats nothing.
func (f filter) query() (_ Query, wrong string) {
	q := Query{Rule: f.Rule, Entity: f.Entity, Limit: defaultLimit}
	switch st := Status(f.Status); st {
	case "", "all":
		if st == "all" {
			q.Statuses = []Status{StatusOpen, StatusAcknowledged, StatusResolved}
		} else {
			q.Statuses = []Status{StatusOpen, StatusAcknowledged}
		}
	case StatusOpen, StatusAcknowledged, StatusResolved, StatusMerged:
		q.Statuses = []Status{st}
	default:
		return Query{}, "There is no such status."
	}
	if f.Severity != "" {
		l, err := detect.ParseLevel(f.Severity)
		if err != nil {
			return Query{}, "There is no such severity."
		}
		q.MinSeverity = l
	}
	if len(f.Rule) > 200 || len(f.Entity) > 2048 || strings.ContainsRune(f.Rule+f.Entity, 0) {
		return Query{}, "Rule or entity cannot be right."
	}
	for _, t := range []struct {
		text string
		to   *time.Time
	}{{f.Since, &q.Since}, {f.Until, &q.Until}} {
		if t.text == "" {
			continue
		}
		v, err := time.Parse(formTime, t.text)
		if err != nil {
			v, err = time.Parse(formTime+":05", t.text)
		}
		if err != nil || v.Year() < 1970 || v.After(maxTime) {
			return Query{}, "A time must look like 2026-01-02T15:04."
		}
		*t.to = v
	}
	return q, ""
}

type listView struct {
	Filter    filter
	Filtered  bool
	Counts    map[Status]int64
	Incidents []Incident
	Next      string // URL of the next page
	First     string // URL of the first page, on later ones
	Waiting   bool   // the page looks again by itself
	Message   string
	Tabs      []tab
}

type tab struct {
	Name, URL string
	Count     int64
	Current   bool
}

func (p *pages) list(w http.ResponseWriter, r *http.Request) {
	v, ok := p.reader(w, r)
	if !ok {
		return
	}
	in := r.URL.Query()
	view := listView{Filter: filter{
		Status: in.Get("status"), Severity: in.Get("severity"), Rule: strings.TrimSpace(in.Get("rule")),
		Entity: strings.TrimSpace(in.Get("entity")), Since: in.Get("since"), Until: in.Get("until"),
	}}
	f := view.Filter
	f.Status = ""
	view.Filtered = !f.isZero()
	q, wrong := view.Filter.query()
	if c := in.Get("cursor"); c != "" && wrong == "" {
		var err error
		if q.After, err = decodeCursor(c); err != nil {
			wrong = "This is not a page of the list."
		}
	}
	if wrong != "" {
		view.Message = wrong
		p.render(w, r, v, http.StatusBadRequest, "list", "Incidents", view)
		return
	}
	counts, err := p.s.o.Incidents.CountIncidents(r.Context(), v.tenant)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	view.Tabs = tabs(view.Filter, counts)
	var next string
	view.Incidents, next, err = p.s.page(r.Context(), v.tenant, q)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	vs := view.Filter.values()
	if in.Get("cursor") != "" {
		view.First = "/?" + vs.Encode()
	}
	if len(view.Incidents) == 0 && !view.Filtered && in.Get("cursor") == "" {
		view.Waiting = true
		w.Header().Set("Refresh", "5") // nothing can be lost by it: nothing is being read or typed
	}
	if next != "" {
		vs.Set("cursor", next)
		view.Next = "/?" + vs.Encode()
	}
	p.render(w, r, v, http.StatusOK, "list", "Incidents", view)
}

// tabs are the statuses as links that keep the rest of the filter.
func tabs(f filter, n map[Status]int64) []tab {
	ts := []tab{
		{Name: "To do", URL: "", Count: n[StatusOpen] + n[StatusAcknowledged]},
		{Name: "Open", URL: "open", Count: n[StatusOpen]},
		{Name: "Acknowledged", URL: "acknowledged", Count: n[StatusAcknowledged]},
		{Name: "Resolved", URL: "resolved", Count: n[StatusResolved]},
		{Name: "All", URL: "all", Count: n[StatusOpen] + n[StatusAcknowledged] + n[StatusResolved]},
	}
	for i := range ts {
		ts[i].Current = ts[i].URL == f.Status
		g := f
		g.Status = ts[i].URL
		ts[i].URL = "/?" + g.values().Encode()
	}
	return ts
}

var uuidText = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

type incidentView struct {
	IncidentDetail
	MayWrite bool
	Actions  []actionView
}

type actionView struct {
	Status Status
	Name   string
	Strong bool
}

func (p *pages) incident(w http.ResponseWriter, r *http.Request) {
	v, ok := p.reader(w, r)
	if !ok {
		return
	}
	d, err := p.find(r, v)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	view := incidentView{IncidentDetail: d, MayWrite: p.s.o.Actions != nil && v.allows(ScopeWrite) && d.Status != StatusMerged}
	if view.MayWrite {
		view.Actions = actionsFor(d.Status)
	}
	p.render(w, r, v, http.StatusOK, "incident", d.Title, view)
}

// actionsFor are the ways on from a status.
func actionsFor(s Status) []actionView {
	all := []actionView{{StatusAcknowledged, "Acknowledge", true}, {StatusResolved, "Resolve", false}, {StatusOpen, "Reopen", false}}
	return slices.DeleteFunc(all, func(a actionView) bool {
		return a.Status == s || a.Status == StatusAcknowledged && s == StatusResolved
	})
}

func (p *pages) find(r *http.Request, v visitor) (IncidentDetail, error) {
	id := strings.ToLower(r.PathValue("id"))
	if !uuidText.MatchString(id) {
		return IncidentDetail{}, ErrNotFound
	}
	return p.s.find(r.Context(), v.tenant, id)
}

// change is the buttons and the assignee's field of an incident.
func (p *pages) change(w http.ResponseWriter, r *http.Request) {
	v, ok := p.reader(w, r)
	if !ok {
		return
	}
	id := strings.ToLower(r.PathValue("id"))
	if err := r.ParseForm(); err != nil || !uuidText.MatchString(id) {
		p.fail(w, r, v, &answer{status: http.StatusBadRequest, detail: "The form could not be read."})
		return
	}
	if v.token == nil || !v.session.honest(r.PostForm.Get("csrf")) {
		p.fail(w, r, v, &answer{status: http.StatusForbidden, detail: "The form is not one of this session: go back, reload, try again."})
		return
	}
	if p.s.o.Actions == nil || !v.allows(ScopeWrite) {
		p.fail(w, r, v, &answer{status: http.StatusForbidden, detail: "The token may not change incidents."})
		return
	}
	c, err := changeOf(r.PostForm)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	if err := p.s.o.Actions.ChangeIncident(r.Context(), v.tenant, id, v.name, c); err != nil {
		p.fail(w, r, v, err)
		return
	}
	http.Redirect(w, r, "/incidents/"+id, http.StatusSeeOther)
}

func changeOf(form url.Values) (Change, error) {
	var c Change
	bad := func(detail string) (Change, error) {
		return Change{}, &answer{status: http.StatusBadRequest, detail: detail}
	}
	version, err := strconv.ParseInt(form.Get("version"), 10, 64)
	if err != nil || version < 1 {
		return bad("The form has no version.")
	}
	c.IfVersion = version
	switch st := Status(form.Get("status")); st {
	case "":
	case StatusOpen, StatusAcknowledged, StatusResolved:
		c.Status = st
	default:
		return bad("There is no such status.")
	}
	if form.Has("assignee") {
		a := strings.TrimSpace(form.Get("assignee"))
		if len(a) > 200 || !plainText(a) {
			return bad("That is no name.")
		}
		c.Assignee = &a
	}
	if c.Status == "" && c.Assignee == nil {
		return bad("Nothing to change.")
	}
	return c, nil
}

type signInView struct {
	Next    string
	Message string
}

func (p *pages) signInForm(w http.ResponseWriter, r *http.Request) {
	p.render(w, r, visitor{}, http.StatusOK, "signin", "Sign in", signInView{Next: localPath(r.URL.Query().Get("next"))})
}

// signIn exchanges a token for a session. Cross-origin posts have been refused,
// so nobody is signed in as somebody else.
func (p *pages) signIn(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm() // an empty form is a bad token
	view := signInView{Next: localPath(r.PostForm.Get("next")), Message: "This token is not known, or was revoked."}
	secret, err := ParseSecret(strings.TrimSpace(r.PostForm.Get("token")))
	if err != nil {
		note(r.Context(), err)
		p.render(w, r, visitor{}, http.StatusUnauthorized, "signin", "Sign in", view)
		return
	}
	who, a := p.s.identify(r.Context(), secret.Hash())
	switch {
	case a != nil && a.status == http.StatusUnauthorized:
		note(r.Context(), a)
		p.render(w, r, visitor{}, http.StatusUnauthorized, "signin", "Sign in", view)
		return
	case a != nil:
		p.fail(w, r, visitor{}, a)
		return
	}
	setPrincipal(r.Context(), who)
	if !who.allows(ScopeRead) {
		view.Message = "This token may only push logs. Sign in with one that may read."
		p.render(w, r, visitor{}, http.StatusForbidden, "signin", "Sign in", view)
		return
	}
	id := p.s.sessions.start(secret.Hash(), p.s.o.Clock())
	http.SetCookie(w, p.s.cookie(r, id, sessionAge))
	http.Redirect(w, r, view.Next, http.StatusSeeOther)
}

func (p *pages) signOut(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(p.s.cookieName(r)); err == nil {
		_ = r.ParseForm() // an empty form is a dishonest one
		if ss, ok := p.s.sessions.get(c.Value, p.s.o.Clock()); ok && !ss.honest(r.PostForm.Get("csrf")) {
			p.fail(w, r, visitor{}, &answer{status: http.StatusForbidden, detail: "The form is not one of this session: go back, reload, try again."})
			return
		}
		p.s.sessions.end(c.Value)
	}
	http.SetCookie(w, p.s.cookie(r, "", -time.Second))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// localPath keeps a redirect on this site.
func localPath(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") {
		return "/"
	}
	if u.Path != "/" && !strings.HasPrefix(u.Path, "/incidents/") {
		return "/"
	}
	return s
}
