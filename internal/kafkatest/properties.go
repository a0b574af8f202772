package kafkatest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// logging is Kafka's log: what happens, without every configuration key.
const logging = `rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %m (%c{1})%n
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=WARN
`

// properties is the node's server.properties.
func (n *node) properties() string {
	copies := strconv.Itoa(min(3, len(n.c.nodes)))
	inSync := strconv.Itoa(min(2, len(n.c.nodes)))
	var listeners, protocols, voters []string
	for _, l := range slices.Sorted(maps.Keys(n.ports)) {
		listeners = append(listeners, fmt.Sprintf("%s://%s", l, n.addr(l)))
		protocols = append(protocols, fmt.Sprintf("%s:%s", l, protocol(l)))
	}
	for _, v := range n.c.nodes {
		voters = append(voters, fmt.Sprintf("%d@%s", v.id, v.addr(controller)))
	}
	p := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(n.id),
		"listeners":                      strings.Join(listeners, ","),
		"listener.security.protocol.map": strings.Join(protocols, ","),
		"inter.broker.listener.name":     string(Plaintext),
		"controller.listener.names":      string(controller),
		"controller.quorum.voters":       strings.Join(voters, ","),
		"log.dirs":                       fmt.Sprintf("%s/data-%d", n.c.dir, n.id),

		// Every default asks for three brokers, and groups hang without.
		"default.replication.factor":                       copies,
		"offsets.topic.replication.factor":                 copies,
		"transaction.state.log.replication.factor":         copies,
		"transaction.state.log.min.isr":                    inSync,
		"share.coordinator.state.topic.replication.factor": copies,
		"share.coordinator.state.topic.min.isr":            inSync,

		// Small and quick.
		"offsets.topic.num.partitions":                 "1",
		"transaction.state.log.num.partitions":         "1",
		"share.coordinator.state.topic.num.partitions": "1",
		"group.initial.rebalance.delay.ms":             "0",
		"log.cleaner.dedupe.buffer.size":               "2097152",
		"num.network.threads":                          "2",
		"num.io.threads":                               "4",

		// A broker that was killed is given up after this long; a machine full of
		// other tests must not look like that.
		"broker.session.timeout.ms":    "5000",
		"broker.heartbeat.interval.ms": "500",
		"controlled.shutdown.enable":   "true",

		// As production should have it.
		"auto.create.topics.enable":      "false",
		"unclean.leader.election.enable": "false",
	}
	if n.c.Credentials != nil {
		maps.Copy(p, n.c.Credentials.properties())
	}
	maps.Copy(p, n.c.o.Properties)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", k, p[k])
	}
	return b.String()
}

// protocol is Kafka's name of what is spoken on a listener.
func protocol(l Listener) string {
	switch l {
	case TLS, MutualTLS:
		return "SSL"
	case SASL:
		return "SASL_SSL"
	}
	return "PLAINTEXT"
}
