// Package kafkatest runs a real Apache Kafka for tests: one node or three, on
// loopback, in a directory of the test. Its jars come from scripts/kafka.sh.
//
// Without VEDETTE_KAFKA=1 in the environment its tests are skipped; with it, a
// Kafka that is not there fails them.
package kafkatest
