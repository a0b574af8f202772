package doctor_test

import (
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/stream"
)

// on makes the world's brokers those of a real Kafka, and has it running.
func on(addrs []string) func(*world) {
	return func(w *world) {
		w.addrs = addrs
		w.kafka = w.client()
		running(w)
	}
}

func TestOnRealKafka(t *testing.T) {
	c := kafkatest.Start(t, kafkatest.Options{Nodes: 3})
	w := newWorld(t, on(c.Brokers()))
	w.expect()
	ends := w.ends()
	w.run()
	if got := w.ends(); got != ends {
		t.Errorf("the topics end at %v, before it was asked at %v: asking has written", got, ends)
	}

	w.alter(stream.TopicLogs, "unclean.leader.election.enable", "true")
	w.again(t).expect(finding{"topic " + stream.TopicLogs, doctor.Fail, "may vanish", "unclean.leader.election.enable=false"})
	w.alter(stream.TopicLogs, "unclean.leader.election.enable", "false")

	c.Kill(3)
	topics := []string{stream.TopicLogs, stream.TopicObservations, stream.TopicDeadLetter}
	for deadline := time.Now().Add(time.Minute); ; {
		// Until the controller has given the broker up, and we have heard of it.
		state, err := w.client().Inspect(t.Context(), topics...)
		down := err == nil && state.Brokers == 2
		for i := range topics {
			down = down && state.Topics[i].InSync == 2 && len(state.Topics[i].Leaderless) == 0
		}
		if down {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the broker that was killed is still counted: %+v, %v", state, err)
		}
	}
	w.kafka = w.client() // the old one still believes in the broker for some seconds
	const detail, remedy = "2 of 3 copies in sync", "bring the brokers"
	w.again(t).expect(
		finding{"kafka brokers", doctor.Fail, "2 brokers up", "3 brokers"},
		finding{"topic " + topics[0], doctor.Warn, detail, remedy},
		finding{"topic " + topics[1], doctor.Warn, detail, remedy},
		finding{"topic " + topics[2], doctor.Warn, detail, remedy},
	)
}

// ends are where partitions 0 of the topics end.
func (w *world) ends() (ends [3]int64) {
	w.t.Helper()
	for i, topic := range []string{stream.TopicLogs, stream.TopicObservations, stream.TopicDeadLetter} {
		var err error
		if _, ends[i], err = w.kafka.Bounds(w.t.Context(), topic, 0); err != nil {
			w.t.Fatal(err)
		}
	}
	return ends
}

// TestRealAccessLists asks a broker that forbids some of what is needed.
func TestRealAccessLists(t *testing.T) {
	c := kafkatest.Start(t, kafkatest.Options{Properties: map[string]string{
		"authorizer.class.name":            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"allow.everyone.if.no.acl.found":   "true",
		"early.start.listeners":            "CONTROLLER",
		"connections.max.idle.ms":          "600000",
		"offsets.topic.replication.factor": "1",
	}})
	w := newWorld(t, func(w *world) {
		w.cfg.Kafka.Replication = 1
		w.addrs = c.Brokers()
		w.kafka = w.client()
		for _, topic := range []stream.Topic{
			{Name: stream.TopicLogs, Partitions: partitions, Retention: 7 * 24 * time.Hour},
			{Name: stream.TopicObservations, Partitions: partitions, Retention: 7 * 24 * time.Hour},
			{Name: stream.TopicDeadLetter, Partitions: 1},
		} {
			if err := w.kafka.EnsureTopics(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		}
		w.tick()
	})
	// A topic that has access lists is closed to all that they do not name.
	var acls []kafka.ACLEntry
	for topic, ops := range map[string][]kafka.ACLOperationType{
		stream.TopicLogs:         {kafka.ACLOperationTypeRead, kafka.ACLOperationTypeWrite, kafka.ACLOperationTypeDescribeConfigs},
		stream.TopicObservations: {kafka.ACLOperationTypeRead},
		stream.TopicDeadLetter:   {kafka.ACLOperationTypeWrite, kafka.ACLOperationTypeDescribeConfigs},
	} {
		for _, op := range ops {
			acls = append(acls, kafka.ACLEntry{
				ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ResourcePatternType: kafka.PatternTypeLiteral,
				Principal: "User:ANONYMOUS", Host: "*", Operation: op, PermissionType: kafka.ACLPermissionTypeAllow,
			})
		}
	}
	client := kafka.Client{Addr: kafka.TCP(w.addrs...)}
	res, err := client.CreateACLs(t.Context(), &kafka.CreateACLsRequest{ACLs: acls})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range res.Errors {
		if err != nil {
			t.Fatal(err)
		}
	}
	const one = "one copy"
	w.expect(
		finding{"topic " + stream.TopicLogs, doctor.Warn, one, ""},
		finding{"topic " + stream.TopicObservations, doctor.Warn, one, ""},
		finding{"topic " + stream.TopicObservations, doctor.Warn, "cannot be read", "DESCRIBE_CONFIGS"},
		finding{"topic " + stream.TopicObservations, doctor.Fail, "may not write it", "WRITE"},
		finding{"topic " + stream.TopicDeadLetter, doctor.Warn, one, ""},
		finding{"topic " + stream.TopicDeadLetter, doctor.Fail, "may not read it", "READ"},
	)
}
