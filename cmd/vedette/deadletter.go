package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/stream"
)

// DeadLetterCmd looks at what could not be decoded.
type DeadLetterCmd struct {
	List  DeadLetterListCmd  `cmd:"" help:"List dead letters, newest first."`
	Show  DeadLetterShowCmd  `cmd:"" help:"Show all of one dead letter, its bytes too."`
	Retry DeadLetterRetryCmd `cmd:"" help:"Append records to the log again, after what was wrong has been mended."`
}

// deadLetterFilter says which are meant.
type deadLetterFilter struct {
	Since  string `placeholder:"WHEN" help:"Not older than this: a duration such as 24h, or a time such as 2026-05-01T12:00:00Z."`
	Until  string `placeholder:"WHEN" help:"Older than this, said in the same way."`
	Reason string `placeholder:"R" help:"Only with this reason."`
	Type   string `placeholder:"T" help:"Only of this log type."`
	Origin string `placeholder:"O" help:"Only from this collector or token."`
}

func (f *deadLetterFilter) matches(d *stream.DeadLetter) bool {
	return (f.Reason == "" || f.Reason == d.Reason) && (f.Type == "" || f.Type == d.Type) && (f.Origin == "" || f.Origin == d.Origin)
}

// span is a stretch of append stamps: from since on, up to before until. Zero: without
// bound.
type span struct{ since, until time.Time }

func (s span) holds(stamp time.Time) bool {
	return !stamp.Before(s.since) && (s.until.IsZero() || stamp.Before(s.until))
}

// span is the time that is meant.
func (f *deadLetterFilter) span(now time.Time) (s span, err error) {
	if s.since, err = when("--since", f.Since, now); err != nil {
		return s, err
	}
	if s.until, err = when("--until", f.Until, now); err != nil {
		return s, err
	}
	if f.Since != "" && f.Until != "" && !s.since.Before(s.until) {
		return s, fmt.Errorf("--until %q: want a time after --since %q", f.Until, f.Since)
	}
	return s, nil
}

// when is the time that a flag says; zero if it says none.
func when(flag, value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(value); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%s %q: want a duration such as 24h or a time such as 2026-05-01T12:00:00Z", flag, value)
}

// letter is one dead letter as it is shown.
type letter struct {
	ID        letterID  `json:"id"`
	Stamp     time.Time `json:"stamp"`
	Reason    string    `json:"reason"`
	Detail    string    `json:"detail,omitempty"`
	Tenant    string    `json:"tenant,omitempty"`
	Type      string    `json:"type,omitempty"`
	Origin    string    `json:"origin,omitempty"`
	Size      int       `json:"size"`               // of what is here, in bytes
	Truncated bool      `json:"truncated"`          // what is here is the beginning only
	SHA256    string    `json:"sha256,omitempty"`   // of the whole, if it was noted
	Stood     *letterID `json:"stood_at,omitempty"` // on vedette.logs; nil: never got there
}

func newLetter(id letterID, stamp time.Time, d *stream.DeadLetter) letter {
	l := letter{
		ID: id, Stamp: stamp.UTC(), Reason: d.Reason, Detail: d.Detail, Tenant: d.Tenant, Type: d.Type, Origin: d.Origin,
		Size: len(d.Value), Truncated: truncated(d), SHA256: d.SHA256,
	}
	if d.Partition >= 0 {
		l.Stood = &letterID{d.Partition, d.Offset}
	}
	return l
}

// truncated says whether the bytes are not those that the hash was made of.
func truncated(d *stream.DeadLetter) bool {
	if d.SHA256 == "" {
		return false
	}
	sum := sha256.Sum256(d.Value)
	return !strings.EqualFold(d.SHA256, hex.EncodeToString(sum[:]))
}

// deadLetters opens the topic. The caller closes.
func openDeadLetters(file string) (*deadLetterLog, *config.Config, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return nil, nil, &ExitError{2, err}
	}
	client, err := stream.NewClient(app.KafkaConfig(cfg.Kafka))
	if err != nil {
		return nil, nil, &ExitError{2, fmt.Errorf("open Kafka: %w", err)}
	}
	return &deadLetterLog{client: client}, cfg, nil
}

// DeadLetterListCmd lists them.
type DeadLetterListCmd struct {
	Config           string `required:"" placeholder:"FILE" help:"The configuration file."`
	Limit            int    `default:"50" help:"At most so many (${default})."`
	Format           string `enum:"table,json" default:"table" help:"table for people; json for programs: one dead letter a line."`
	deadLetterFilter `embed:""`
}

// Run lists them.
func (c *DeadLetterListCmd) Run(ctx context.Context, s *Streams) error {
	during, err := c.span(time.Now())
	if err != nil {
		return &ExitError{2, err}
	}
	if c.Limit <= 0 {
		return &ExitError{2, fmt.Errorf("--limit %d: want 1 or more", c.Limit)}
	}
	log, _, err := openDeadLetters(c.Config)
	if err != nil {
		return err
	}
	defer log.close()
	letters, more, err := log.newest(ctx, c.Limit, during, &c.deadLetterFilter)
	if err != nil {
		return err
	}
	if c.Format == "json" {
		e := json.NewEncoder(s.Out)
		for i := range letters {
			if err := e.Encode(&letters[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(letters) == 0 {
		_, err := fmt.Fprintln(s.Err, "no dead letters")
		return err
	}
	w := tabwriter.NewWriter(s.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTAMP\tREASON\tTYPE\tORIGIN\tSIZE\tSTOOD AT\tDETAIL")
	for i := range letters {
		l := &letters[i]
		size, stood := fmt.Sprint(l.Size), "-"
		if l.Truncated {
			size += "+"
		}
		if l.Stood != nil {
			stood = l.Stood.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.ID, l.Stamp.Format(time.RFC3339), field(l.Reason), field(l.Type), field(l.Origin),
			size, stood, cut(field(l.Detail), 60))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if more {
		fmt.Fprintln(s.Err, "there are more: --limit, --since, --until, or a filter")
	}
	return nil
}

// field is text for one column.
func field(s string) string {
	if s = oneLine(s); s == "" {
		return "-"
	}
	return s
}

// DeadLetterShowCmd shows one.
type DeadLetterShowCmd struct {
	Config string   `required:"" placeholder:"FILE" help:"The configuration file."`
	Raw    bool     `xor:"how" help:"Write the bytes alone, as they came: not for a terminal."`
	Format string   `enum:"text,json" default:"text" help:"text for people; json for programs, the bytes as value in base64."`
	ID     letterID `arg:"" name:"id" help:"As deadletter list shows it: PARTITION/OFFSET."`
}

// Run shows it.
func (c *DeadLetterShowCmd) Run(ctx context.Context, s *Streams) error {
	log, _, err := openDeadLetters(c.Config)
	if err != nil {
		return err
	}
	defer log.close()
	d, stamp, err := log.at(ctx, c.ID)
	if err != nil {
		return err
	}
	l := newLetter(c.ID, stamp, &d)
	switch {
	case c.Raw:
		_, err = s.Out.Write(d.Value)
	case c.Format == "json":
		err = json.NewEncoder(s.Out).Encode(struct {
			letter
			Value []byte `json:"value"`
		}{l, d.Value})
	default:
		err = showLetter(s.Out, &l, d.Value)
	}
	return err
}

func showLetter(out io.Writer, l *letter, value []byte) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	stood := "never got to " + stream.TopicLogs
	if l.Stood != nil {
		stood = stream.TopicLogs + " " + l.Stood.String()
	}
	size := fmt.Sprintf("%d bytes", l.Size)
	if l.Truncated {
		size += ", the beginning of a longer record"
	}
	for _, f := range [][2]string{
		{"id", l.ID.String()},
		{"stamp", l.Stamp.Format(time.RFC3339Nano)},
		{"reason", l.Reason},
		{"detail", l.Detail},
		{"tenant", l.Tenant},
		{"type", l.Type},
		{"origin", l.Origin},
		{"stood at", stood},
		{"size", size},
		{"sha256", l.SHA256},
	} {
		fmt.Fprintf(w, "%s\t%s\n", f[0], field(f[1]))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	b.WriteByte('\n')
	if utf8.Valid(value) {
		b.WriteString(printable(string(value)))
		if !bytes.HasSuffix(value, []byte("\n")) {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString(hex.Dump(value))
	}
	_, err := out.Write(b.Bytes())
	return err
}

// DeadLetterRetryCmd appends records again.
type DeadLetterRetryCmd struct {
	Config           string     `required:"" placeholder:"FILE" help:"The configuration file."`
	All              bool       `help:"All there are, narrowed by the filters, instead of those named."`
	DryRun           bool       `help:"Say what would be done, and do nothing."`
	IDs              []letterID `arg:"" optional:"" name:"id" help:"As deadletter list shows them."`
	deadLetterFilter `embed:""`
}

// Retried records travel together, up to so many and so large.
const (
	retryRecords = 1000
	retryBytes   = 8 << 20
)

// Run appends them. A record that was counted before, under whatever name it
// died later, is told by its event id and counts once.
func (c *DeadLetterRetryCmd) Run(ctx context.Context, s *Streams) error {
	filtered := c.deadLetterFilter != deadLetterFilter{}
	switch {
	case c.All == (len(c.IDs) > 0):
		return &ExitError{2, errors.New("deadletter retry: name ids, or --all with filters if you like")}
	case filtered && !c.All:
		return &ExitError{2, errors.New("deadletter retry: filters go with --all, not with ids")}
	}
	during, err := c.span(time.Now())
	if err != nil {
		return &ExitError{2, err}
	}
	log, cfg, err := openDeadLetters(c.Config)
	if err != nil {
		return err
	}
	defer log.close()
	r := retry{dry: c.DryRun, err: s.Err}
	if !c.DryRun {
		if r.appender, err = log.client.NewLogAppender(stream.AppenderOptions{
			Partitions: cfg.Kafka.LogsPartitions, Logger: slog.New(slog.DiscardHandler),
		}); err != nil {
			return err
		}
		defer r.appender.Close()
	}
	if c.All {
		err = log.each(ctx, during, func(id letterID, _ time.Time, d *stream.DeadLetter) error {
			if !c.matches(d) {
				return nil
			}
			return r.add(ctx, id, d)
		})
	}
	for _, id := range c.IDs {
		d, _, aerr := log.at(ctx, id)
		switch {
		case errors.Is(aerr, errNoLetter):
			r.refuse(id, "there is none")
			continue
		case aerr == nil:
			aerr = r.add(ctx, id, &d)
		}
		if err = aerr; err != nil {
			break
		}
	}
	if err == nil {
		err = r.flush(ctx)
	}
	verb := "appended again"
	if c.DryRun {
		verb = "would be appended again"
	}
	fmt.Fprintf(s.Out, "%d %s, %d refused\n", r.done, verb, r.refused)
	if err != nil {
		return fmt.Errorf("retry: %w", err)
	}
	if r.refused > 0 {
		return &ExitError{Code: 1}
	}
	return nil
}

// retry appends records in batches.
type retry struct {
	appender *stream.LogAppender
	dry      bool
	err      io.Writer

	batch         []stream.LogMessage
	size          int
	done, refused int
}

// notARecord is match's reason for a message whose headers are none of ours: it
// may have been anything.
const notARecord = "message"

func (r *retry) refuse(id letterID, why string) {
	r.refused++
	fmt.Fprintf(r.err, "%s: refused: %s\n", id, why)
}

func (r *retry) add(ctx context.Context, id letterID, d *stream.DeadLetter) error {
	switch {
	case d.Reason == foreign, d.Reason == notARecord:
		r.refuse(id, "it was no log record")
		return nil
	case truncated(d):
		r.refuse(id, "only the beginning of the record was kept")
		return nil
	case len(d.Value) > stream.MaxRecordBytes:
		r.refuse(id, "it is longer than a record may be")
		return nil
	}
	r.batch = append(r.batch, stream.LogMessage{Kind: stream.KindRecord, Tenant: d.Tenant, Type: d.Type, Origin: d.Origin, Value: d.Value})
	r.size += len(d.Value)
	if len(r.batch) < retryRecords && r.size < retryBytes {
		return nil
	}
	return r.flush(ctx)
}

func (r *retry) flush(ctx context.Context) error {
	if !r.dry {
		if err := r.appender.Append(ctx, r.batch); err != nil {
			return err
		}
	}
	r.done += len(r.batch)
	r.batch, r.size = nil, 0
	return nil
}
