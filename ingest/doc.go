// Package ingest is how log records get in. Its root holds what every collector
// shares: the [Splitter], which cuts whatever a source hands over (JSON lines,
// CloudTrail files, CloudWatch Logs envelopes, gzip or not) into single records.
// The collectors are packages of their own below it.
//
// Nothing here judges a record: a piece is passed on as it stands, and the
// decoder of its log type refuses what is not strict JSON. The splitter only has
// to find where records begin and end, in bounded memory, and to lose none.
package ingest
