package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// oldestPostgres is the first major version that is supported.
const oldestPostgres = 14

// How far clocks may be apart: nothing is decided by more than one of them, but
// an event's time is capped at a minute past its append stamp, and what people
// read in several places should agree.
const (
	skewWarn = 2 * time.Second
	skewFail = 30 * time.Second
)

// postgres opens the ledger for the checks that follow.
func (d *doctor) postgres(ctx context.Context) {
	const check = "postgres"
	ledger, err := d.o.OpenLedger(ctx)
	if err != nil {
		d.fail(check, "make sure that Postgres runs and that postgres.dsn names its host, port, user, password and database", "%v", err)
		return
	}
	before := d.o.Now()
	s, err := ledger.ServerState(ctx)
	after := d.o.Now()
	if err != nil {
		ledger.Close()
		d.fail(check, "look at Postgres's own log", "%v", err)
		return
	}
	d.ledger, d.server = ledger, s
	if major := s.Version / 10000; major < oldestPostgres {
		d.fail(check, fmt.Sprintf("upgrade Postgres to %d or later", oldestPostgres), "answers, but is version %d", major)
	} else {
		d.ok(check, "version %d.%d answers in %v", major, s.Version%10000, round(after.Sub(before)))
	}
	d.serverSettings(&s)
	d.connections(&s)
	// What the answer took bounds what we know.
	d.skew("postgres clock", s.Now.Sub(before.Add(after.Sub(before)/2)), after.Sub(before)/2, "Postgres's clock is")
}

func (d *doctor) serverSettings(s *ServerState) {
	c := d.check("postgres settings")
	if s.ReadOnly {
		c.fail("name the primary in postgres.dsn (target_session_attrs=read-write), or unset default_transaction_read_only",
			"the server takes no writes: it is a standby, or set to read only")
	}
	if !strings.EqualFold(s.Encoding, "UTF8") {
		c.fail("create the database with ENCODING 'UTF8'", "the database's encoding is %s", s.Encoding)
	}
	if !s.Fsync {
		c.fail("set fsync = on", "fsync is off: a crash of the machine may corrupt the ledger")
	}
	if !s.FullPageWrites {
		c.warn("set full_page_writes = on, unless the file system writes pages whole",
			"full_page_writes is off: a crash of the machine may corrupt the ledger")
	}
	if s.SynchronousCommit == "off" {
		c.warn("set synchronous_commit = on",
			"synchronous_commit is off: a crash may take back what people were already told")
	}
	if c.clean() {
		c.ok("read-write, %s, fsync on, synchronous_commit %s", s.Encoding, s.SynchronousCommit)
	}
}

func (d *doctor) connections(s *ServerState) {
	const check = "postgres connections"
	need := d.o.Config.Postgres.MaxConnections
	free := max(0, s.Connections-s.Others-s.Own)
	switch {
	// A running service has some of those that it needs already.
	case free+s.Own >= need:
		d.ok(check, "%d of %d free, %d held by Vedette; a process takes up to %d", free, s.Connections, s.Own, need)
	case free == 0 && s.Own == 0:
		d.fail(check, "raise max_connections (or the limit of user or database), or close what holds them",
			"none of %d is free", s.Connections)
	default:
		d.warn(check, "raise max_connections, or lower postgres.max_connections",
			"%d of %d free, %d held by Vedette, but a process takes up to %d", free, s.Connections, s.Own, need)
	}
}

// skew judges how far a clock is ahead of ours; uncertain is how exactly it is known.
func (d *doctor) skew(check string, ahead, uncertain time.Duration, clock string) {
	const remedy = "keep all clocks by NTP (chronyd, systemd-timesyncd): compare with `timedatectl` on both machines"
	way := "ahead of"
	if ahead < 0 {
		ahead, way = -ahead, "behind"
	}
	switch off := ahead - uncertain; {
	case off > skewFail:
		d.fail(check, remedy, "%s %v %s ours", clock, round(ahead), way)
	case off > skewWarn:
		d.warn(check, remedy, "%s %v %s ours", clock, round(ahead), way)
	default:
		d.ok(check, "%s within %v of ours", clock, max(round(ahead+uncertain), time.Millisecond))
	}
}

func (d *doctor) schema(ctx context.Context) {
	const check = "postgres schema"
	if d.ledger == nil {
		d.skip(check, "Postgres cannot be reached")
		return
	}
	s, err := d.ledger.SchemaState(ctx)
	const grant = `give the user the database or the schema: GRANT CREATE, USAGE ON SCHEMA %s TO the user of postgres.dsn`
	switch {
	case err != nil:
		d.fail(check, "look at Postgres's own log", "%v", err)
	case s.Denied != "":
		d.fail(check, "let the user own the tables, or GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES", "this user may not read and change %s", s.Denied)
	case s.Have > s.Want:
		d.fail(check, "run the newer Vedette; migrations only go forward",
			"version %d was written by a newer Vedette than this, which knows %d", s.Have, s.Want)
	case d.server.Schema == "":
		d.fail(check, "create the schema that search_path names", "no schema of search_path exists")
	case (s.Have < s.Want || s.QueuePending) && !d.server.MayCreate:
		d.fail(check, fmt.Sprintf(grant, d.server.Schema), "migrations are due (%d of %d) and this user may not create tables in schema %s", s.Have, s.Want, d.server.Schema)
	case s.Have == 0:
		d.warn(check, "nothing: `vedette run` migrates when it starts", "the database is empty")
	case s.Have < s.Want || s.QueuePending:
		d.warn(check, "restart `vedette run`: it migrates when it starts", "version %d, this Vedette wants %d", s.Have, s.Want)
	default:
		d.ok(check, "version %d, up to date", s.Have)
		p, err := d.ledger.Progress(ctx)
		if err != nil {
			d.fail(check, "look at Postgres's own log", "%v", err)
			return
		}
		d.progress = &p
	}
}

func (d *doctor) layout(context.Context) {
	const check = "layout"
	k := d.o.Config.Kafka
	switch p := d.progress; {
	case p == nil:
		d.skip(check, "Postgres has no schema to read it from")
	case !p.LayoutKnown:
		d.ok(check, "not fixed yet: the first start fixes %d partitions of observations and %d of logs", k.ObservationPartitions, k.LogsPartitions)
	case p.ObservationPartitions != k.ObservationPartitions:
		d.fail(check, fmt.Sprintf("set kafka.observation_partitions to %d", p.ObservationPartitions),
			"Postgres fixes %d partitions of observations, the configuration says %d: Vedette will not start",
			p.ObservationPartitions, k.ObservationPartitions)
	default:
		d.ok(check, "%d partitions of observations, as configured, and %d of logs, to which more may be added", p.ObservationPartitions, p.SourcePartitions)
	}
}
