package rule

import (
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/event"
)

// VisibilityLost is the rule that no file holds and nobody can switch off: it fires
// where records of the log could not be judged because they are gone.
func VisibilityLost() *Rule {
	r := &Rule{
		ID:     "6d0b8d3e-5f0c-4f7e-9a52-7b1f6d4c2a10",
		Name:   "vedette_visibility_lost",
		Title:  "Visibility lost",
		Status: "stable",
		Description: "Records of the log could not be judged: retention had removed them, the topic was truncated or replaced, or a rule's own code failed on them. " +
			"What happened in them is not known to Vedette. The log groups and trails that they came from still have them.",
		Author:  "Vedette",
		License: "Apache-2.0",
		FalsePos: []string{
			"A topic that was deleted and made again on purpose.",
		},
		Level: detect.LevelHigh,
		// Nothing is matched against it. Of all log types this one comes least late, and
		// what it fires on is never late: it need not be kept longer than other rules.
		Logsource: Logsource{Product: "vedette", Service: string(event.TypeLambda)},
		Version:   "visibility-lost-1",
	}
	r.Correlation = &Correlation{
		Type: EventCount, Rules: []*Rule{r}, GroupBy: []string{"log.range"}, Timespan: time.Minute,
		Op: OpGTE, Value: 1, Generate: true, Implicit: true,
	}
	return r
}

// LostRange is the group-by value of VisibilityLost: offsets [from, to) of a
// partition; to is −1 if nobody knows where the loss ends.
func LostRange(topic string, s detect.Source, from, to int64) string {
	life := ""
	if s.Incarnation > 0 {
		life = fmt.Sprintf(" (incarnation %d)", s.Incarnation)
	}
	if to < 0 {
		return fmt.Sprintf("%s partition %d%s from offset %d on", topic, s.Partition, life, from)
	}
	return fmt.Sprintf("%s partition %d%s offsets %d–%d", topic, s.Partition, life, from, to-1)
}

// LostRule is the group-by value of VisibilityLost for what a rule held in its
// windows when its code failed on records [from, to) of a source.
func LostRule(r *Rule, s detect.Source, from, to int64) string {
	return fmt.Sprintf("windows of rule %q (%s), which failed on records %d–%d of source %d", r.Title, r.ID, from, to-1, s.Partition)
}
