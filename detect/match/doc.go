// Package match is the stateless stage of detection: it reads records from
// vedette.logs, decodes and enriches them, evaluates the rules' detections
// ([Matcher]) and writes what the correlations count, small observations keyed
// by rule and group-by values, to vedette.observations.
//
// What it writes is a function of the records and of the generation in force:
// the rules, the enrichment and the [Semantics] of the program. Whoever reads the
// same records again writes the same observations.
package match
