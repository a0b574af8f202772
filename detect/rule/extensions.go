package rule

import (
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v4"
)

// parameter is one key of the map "vedette" and what reads it.
type parameter struct {
	key  string
	read func(*yaml.Node) error
}

// readParameters reads the map "vedette", which may be absent: what any type may
// have, and ps.
func (c *Correlation) readParameters(own *yaml.Node, ps ...parameter) error {
	if own == nil {
		return nil
	}
	ps = append(ps, durationParameter("lateness", &c.Lateness))
	es, err := entries(own, "vedette")
	if err != nil {
		return err
	}
next:
	for _, e := range es {
		for _, p := range ps {
			if p.key == e.key {
				if err := p.read(e.value); err != nil {
					return err
				}
				continue next
			}
		}
		known := ""
		for i, p := range ps {
			if i > 0 {
				known += ", "
			}
			known += p.key
		}
		return atLine(e.line, "vedette: unknown key %q; known here are %s", e.key, known)
	}
	if c.Lateness > maxLateness {
		return at(own, "lateness: at most %s are supported: what came is kept as long", shortDuration(maxLateness))
	}
	return nil
}

// maxLateness bounds Lateness: state is kept, and the observations are retained, for
// several times as long.
const maxLateness = 7 * 24 * time.Hour

func durationParameter(key string, d *time.Duration) parameter {
	return parameter{key, func(n *yaml.Node) (err error) {
		*d, err = timespan(n, key)
		return err
	}}
}

func countParameter(key string, i *int) parameter {
	return parameter{key, func(n *yaml.Node) (err error) {
		*i, err = count(n, key)
		return err
	}}
}

func numberParameter(key string, f *float64) parameter {
	return parameter{key, func(n *yaml.Node) (err error) {
		*f, err = number(n, key)
		return err
	}}
}

func boolParameter(key string, b *bool) parameter {
	return parameter{key, func(n *yaml.Node) (err error) {
		*b, err = boolean(n, key)
		return err
	}}
}

func textParameter(key string, s *string) parameter {
	return parameter{key, func(n *yaml.Node) (err error) {
		*s, err = text(n, key)
		return err
	}}
}

func (c *Correlation) completeNewValue(n, condition, own *yaml.Node) error {
	if condition == nil {
		return at(n, "correlation: vedette.new_value wants a condition with the field to be learned")
	}
	if err := c.parseCondition(condition); err != nil {
		return err
	}
	if c.Field == "" || c.Op != "" {
		return at(condition, "condition: vedette.new_value wants a field and nothing else")
	}
	if len(c.GroupBy) == 0 {
		return at(n, "correlation: vedette.new_value wants a group-by: whose values are learned")
	}
	if c.Timespan != 0 {
		return at(n, "correlation: vedette.new_value has no timespan; its periods are vedette: {learning: 7d, forget: 90d}")
	}
	const day = 24 * time.Hour
	c.Learning, c.Forget = 7*day, 90*day
	if err := c.readParameters(own, durationParameter("learning", &c.Learning), durationParameter("forget", &c.Forget)); err != nil {
		return err
	}
	if c.Forget < c.Learning {
		return at(own, "vedette: forget is shorter than learning, so that nothing would ever be known")
	}
	return nil
}

func (c *Correlation) completeBaseline(n, condition, own *yaml.Node, rules int) error {
	if condition != nil {
		return at(condition, "condition: vedette.baseline has none; its thresholds are vedette: {factor: 4, deviations: 6, floor: 250, …}")
	}
	const day = 24 * time.Hour
	c.Learning, c.MinVolume, c.MinBuckets, c.Factor, c.Deviations = 3*day, 20, 48, 4, 6
	err := c.readParameters(own,
		textParameter("measure", &c.Measure), textParameter("field", &c.Field),
		durationParameter("learning", &c.Learning), durationParameter("forget", &c.Forget),
		countParameter("min_volume", &c.MinVolume), countParameter("min_buckets", &c.MinBuckets),
		numberParameter("factor", &c.Factor), numberParameter("deviations", &c.Deviations),
		numberParameter("floor", &c.Floor))
	if err != nil {
		return err
	}
	switch c.Measure {
	case "p95":
		if c.Field == "" {
			return at(own, "vedette: measure p95 wants a field, such as duration")
		}
		if err := fieldName(c.Field, own, "field"); err != nil {
			return err
		}
	case "ratio":
		if c.Field != "" {
			return at(own, "vedette: measure ratio takes no field; it counts the events of its two rules")
		}
		if rules != 2 {
			return at(n, "correlation: measure ratio wants two rules, numerator and denominator, not %d", rules)
		}
	default:
		where := own
		if where == nil {
			where = n
		}
		return at(where, "vedette: want a measure, p95 or ratio, not %q", c.Measure)
	}
	if c.Forget != 0 && c.Forget < max(c.Learning, c.Timespan) {
		return at(own, "vedette: forget is shorter than learning or a bucket, so that nothing would ever be known")
	}
	if c.MinVolume < 1 || c.MinBuckets < 1 {
		return at(own, "vedette: min_volume and min_buckets have to be at least 1")
	}
	return nil
}

func (c *Correlation) completeUnmatched(n, condition, own *yaml.Node, rules int) error {
	if condition != nil {
		return at(condition, "condition: vedette.unmatched has none; it fires for a left event without a partner")
	}
	if rules < 2 {
		return at(n, "correlation: vedette.unmatched wants at least two rules, the left side and where a partner may be")
	}
	if own == nil {
		return at(n, "correlation: vedette.unmatched wants vedette: {join: {rule: [field, …], …}}")
	}
	c.Before, c.Hold = time.Minute, 2*time.Hour
	join := parameter{"join", func(n *yaml.Node) error {
		es, err := entries(n, "join")
		if err != nil {
			return err
		}
		c.Join = make(map[string][]string, len(es))
		for _, e := range es {
			fs, err := fieldNames(e.value, "join: "+e.key)
			if err != nil {
				return err
			}
			if len(fs) == 0 {
				return atLine(e.line, "join: %s: want at least one field", e.key)
			}
			c.Join[e.key] = fs
		}
		return nil
	}}
	unknown := parameter{"unknown", func(n *yaml.Node) (err error) {
		c.Unknown, err = texts(n, "unknown")
		return err
	}}
	if err := c.readParameters(own, durationParameter("before", &c.Before), durationParameter("hold", &c.Hold), join, unknown); err != nil {
		return err
	}
	if len(c.Join) == 0 {
		return at(own, "vedette: want join: {rule: [field, …], …}, the fields of each rule whose values join")
	}
	return nil
}

func (c *Correlation) baselineSummary() string {
	what := "the 95th percentile of " + c.Field
	if c.Measure == "ratio" {
		what = "the ratio of " + titles(c.Rules[:1], "") + " to " + titles(c.Rules[1:], "")
	}
	f := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	return fmt.Sprintf("%s over %s, of %d or more events, above each of %s × the learned median, that median plus %s deviations, and %s",
		what, shortDuration(c.Timespan), c.MinVolume, f(c.Factor), f(c.Deviations), f(c.Floor))
}
