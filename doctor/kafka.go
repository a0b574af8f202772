package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/stream"
)

// generations is how many of the longest keep of the rules an owner may have to
// rebuild from the log.
const generations = 3

// brokers opens Kafka for the checks that follow.
func (d *doctor) brokers(ctx context.Context) {
	const check = "kafka"
	kafka, err := d.o.OpenKafka()
	if err != nil {
		d.fail(check, "correct the kafka section of the configuration", "%v", err)
		return
	}
	before := d.o.Now()
	if err := kafka.Ping(ctx); err != nil {
		kafka.Close()
		d.fail(check, "make sure that the brokers run and that kafka.brokers, kafka.tls and kafka.sasl are theirs", "%v", err)
		return
	}
	d.kafka = kafka
	d.ok(check, "answers in %v", round(d.o.Now().Sub(before)))
}

// observations is the topic of the layout in force.
func (d *doctor) observations() string {
	if d.progress == nil || d.progress.Topic == "" {
		return stream.TopicObservations
	}
	return d.progress.Topic
}

func (d *doctor) allTopics(ctx context.Context) {
	k := d.o.Config.Kafka
	wants := []struct {
		name       string
		partitions int
		retained   bool // for as long as the rules need
	}{
		{stream.TopicLogs, 0, true}, // which may grow
		{d.observations(), k.ObservationPartitions, true},
		{stream.TopicDeadLetter, 0, false},
	}
	if d.kafka == nil {
		for _, w := range wants {
			d.skip("topic "+w.name, "Kafka cannot be reached")
		}
		return
	}
	state, err := d.kafka.Inspect(ctx, stream.TopicLogs, d.observations(), stream.TopicDeadLetter)
	if err != nil || len(state.Topics) != len(wants) {
		d.fail("topics", "look at the brokers' log", "%v", err)
		return
	}
	if k.Replication > state.Brokers {
		d.fail("kafka brokers", fmt.Sprintf("bring %s up, or lower kafka.replication", plural(k.Replication, "broker")),
			"%s up, but kafka.replication is %d: topics cannot be created", plural(state.Brokers, "broker"), k.Replication)
	} else {
		d.ok("kafka brokers", "%d up", state.Brokers)
	}
	for i, w := range wants {
		d.topic(ctx, &state.Topics[i], w.partitions, w.retained)
	}
}

func (d *doctor) topic(ctx context.Context, t *stream.TopicState, partitions int, retained bool) {
	c := d.check("topic " + t.Name)
	switch {
	case errors.Is(t.Err, stream.ErrNoTopic) && d.progress != nil && d.progress.LayoutKnown:
		c.fail("if it was deleted, see what `vedette repair` says; otherwise allow this user DESCRIBE on it", "it is not there, although Vedette has run before")
		return
	case errors.Is(t.Err, stream.ErrNoTopic):
		c.warn("nothing, if this user may create topics: `vedette run` does when it starts", "it is not there yet")
		return
	case t.Err != nil:
		c.fail("allow this user DESCRIBE on it", "%v", t.Err)
		return
	}
	d.topics[t.Name] = *t
	if k := d.o.Config.Kafka; t.Name == stream.TopicLogs && t.Partitions < k.LogsPartitions {
		c.warn("nothing, if this user may add partitions: `vedette run` does when it starts", "it has %s, the configuration says %d",
			plural(t.Partitions, "partition"), k.LogsPartitions)
	}
	if partitions > 0 && t.Partitions != partitions {
		c.fail("configure the topic's count, unless it is the topic that is wrong; the count is fixed once a topic is in use",
			"it has %s, the configuration says %d: Vedette will not start", plural(t.Partitions, "partition"), partitions)
	}
	d.copies(c, t)
	d.settings(c, t, retained)
	if len(t.Leaderless) == 0 {
		d.permissions(ctx, c, t)
	}
	if c.clean() {
		detail := fmt.Sprintf("%s, %s", plural(t.Partitions, "partition"), plural(t.Replication, "copy"))
		detail = strings.Replace(detail, "copys", "copies", 1)
		if ms, err := strconv.ParseInt(t.Config["retention.ms"], 10, 64); err == nil {
			detail += ", kept " + retention(ms)
		}
		c.ok("%s", detail)
	}
}

// copies judges how many brokers may fail.
func (d *doctor) copies(c *check, t *stream.TopicState) {
	if n := len(t.Leaderless); n > 0 {
		c.fail("bring the brokers that hold it back", "%s of %d without a leader (%d first): nothing is read or written there",
			plural(n, "partition"), t.Partitions, t.Leaderless[0])
	}
	minISR := t.Replication
	if v, err := strconv.Atoi(t.Config["min.insync.replicas"]); err == nil {
		minISR = v
		alter := alterTopic(t.Name, "min.insync.replicas", strconv.Itoa(max(1, t.Replication-1)))
		switch {
		case t.Replication >= 3 && v < 2:
			c.fail(alter, "min.insync.replicas is %d: a write counts as safe with one copy of it", v)
		case v > t.Replication:
			c.fail(alter, "min.insync.replicas is %d of %d: nothing can be written", v, t.Replication)
		case v == t.Replication && v > 1:
			c.warn(alter, "min.insync.replicas is %d of %d: one broker down stops all writing", v, t.Replication)
		}
	}
	const reassign = "raise it with kafka-reassign-partitions.sh"
	switch want := d.o.Config.Kafka.Replication; {
	case t.Replication < want:
		c.fail(reassign, "replication is %d, the configuration says %d", t.Replication, want)
	case t.Replication < 2:
		c.warn(reassign+" and set kafka.replication: production wants 3", "one copy: a broker's disk lost is the log lost")
	}
	switch {
	case len(t.Leaderless) > 0: // said already
	case t.InSync < minISR && minISR <= t.Replication:
		c.fail("bring the brokers that hold it back", "%d of %d copies in sync, min.insync.replicas %d: nothing can be written", t.InSync, t.Replication, minISR)
	case t.InSync < t.Replication:
		c.warn("bring the brokers that hold it back", "%d of %d copies in sync", t.InSync, t.Replication)
	}
	if strings.EqualFold(t.Config["unclean.leader.election.enable"], "true") {
		c.fail(alterTopic(t.Name, "unclean.leader.election.enable", "false"),
			"unclean leader election is on: acknowledged records may vanish when a broker fails")
	}
}

// settings judges the topic's configuration.
func (d *doctor) settings(c *check, t *stream.TopicState, retained bool) {
	if t.ConfigErr != nil {
		c.warn("allow this user DESCRIBE_CONFIGS on it", "its configuration cannot be read: %v", t.ConfigErr)
		return
	}
	if v, err := strconv.ParseInt(t.Config["max.message.bytes"], 10, 64); err == nil && v < stream.MaxMessageBytes {
		c.fail(alterTopic(t.Name, "max.message.bytes", strconv.Itoa(stream.MaxMessageBytes)),
			"max.message.bytes is %d, records may take %d", v, stream.MaxMessageBytes)
	}
	if p := t.Config["cleanup.policy"]; strings.Contains(p, "compact") {
		c.fail(alterTopic(t.Name, "cleanup.policy", "delete"), "cleanup.policy is %s: compaction removes records that are needed", p)
	}
	if !retained {
		return
	}
	need := generations * d.keep
	ms, err := strconv.ParseInt(t.Config["retention.ms"], 10, 64)
	if err == nil && ms >= 0 && d.rules != nil && time.Duration(ms)*time.Millisecond < need {
		c.fail(alterTopic(t.Name, "retention.ms", strconv.FormatInt(need.Milliseconds(), 10)),
			"kept %s, but the rules need %v, three times their longest window and lateness: state could not be rebuilt", retention(ms), need)
	}
	if b, err := strconv.ParseInt(t.Config["retention.bytes"], 10, 64); err == nil && b >= 0 {
		c.warn(alterTopic(t.Name, "retention.bytes", "-1")+", or see to it that so much always covers "+need.String(),
			"retention.bytes is %d: a flood shortens how long records are kept", b)
	}
}

func (d *doctor) permissions(ctx context.Context, c *check, t *stream.TopicState) {
	if t.Partitions == 0 {
		return
	}
	first, _, err := d.kafka.Bounds(ctx, t.Name, 0)
	if err == nil {
		_, _, err = d.kafka.RecordAt(ctx, t.Name, 0, first)
	}
	switch {
	case errors.Is(err, stream.ErrDenied):
		c.fail("allow this user READ on it", "this user may not read it")
	case err != nil:
		c.fail("look at the brokers' log", "it cannot be read: %v", err)
	}
	err = d.kafka.MayWrite(ctx, t.Name, 0)
	switch {
	case errors.Is(err, stream.ErrDenied):
		c.fail("allow this user WRITE on it", "this user may not write it")
	case err != nil:
		c.fail("look at the brokers' log", "whether it can be written is not known: %v", err)
	}
}

// Of the clock that is in the log: a tick is written each second to a partition
// that is silent.
const silence = 30 * time.Second

// logClock judges the append stamps, which are the only clock that detection
// goes by. They come from the clocks of the processes that collect.
func (d *doctor) logClock(ctx context.Context) {
	const name = "log clock"
	logs, ok := d.topics[stream.TopicLogs]
	if !ok {
		d.skip(name, "%s cannot be read", stream.TopicLogs)
		return
	}
	c := d.check(name)
	var newest, oldest time.Time
	var slowest int32
	empty := 0
	for p := range int32(logs.Partitions) {
		first, end, err := d.kafka.Bounds(ctx, logs.Name, p)
		var r stream.Record
		some := false
		if err == nil && end > first {
			r, some, err = d.kafka.RecordAt(ctx, logs.Name, p, end-1)
		}
		switch {
		case err != nil:
			c.fail("look at the brokers' log", "partition %d: %v", p, err)
			return
		case !some:
			empty++
			continue
		}
		if newest.IsZero() || r.Time.After(newest) {
			newest = r.Time
		}
		if oldest.IsZero() || r.Time.Before(oldest) {
			oldest, slowest = r.Time, p
		}
	}
	now := d.o.Now()
	switch {
	case empty == logs.Partitions:
		c.ok("not started: nothing has been appended yet")
		return
	case empty > 0:
		c.fail("run `vedette run` with role collect or api: it writes ticks", "%s of %d without any record: time stands still",
			plural(empty, "partition"), logs.Partitions)
	case now.Sub(oldest) > silence:
		c.fail("run `vedette run` with role collect or api: it writes a tick each second",
			"nothing was appended to partition %d for %v: time stands still, and what waits for it waits on", slowest, round(now.Sub(oldest)))
	}
	if ahead := newest.Sub(now); ahead > skewWarn {
		d.skew(name, ahead, 0, "the newest append stamp is")
		return
	}
	if c.clean() {
		c.ok("at %v behind ours on the slowest partition", max(0, round(now.Sub(oldest))))
	}
}

// alterTopic is the command that changes a setting of a topic.
func alterTopic(topic, key, value string) string {
	return fmt.Sprintf("kafka-configs.sh --bootstrap-server … --alter --entity-type topics --entity-name %s --add-config %s=%s", topic, key, value)
}

func retention(ms int64) string {
	if ms < 0 {
		return "for ever"
	}
	t := time.Duration(ms) * time.Millisecond
	if t >= 48*time.Hour && t%(24*time.Hour) == 0 {
		return plural(int(t/(24*time.Hour)), "day")
	}
	return t.String()
}
