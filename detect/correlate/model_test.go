package correlate_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// The models here are small, slow and meant to be obviously right: each takes all
// events at once.

// latenessOf is how late an event may come for the rule: those here read access logs.
func latenessOf(r *rule.Rule) time.Duration { return max(15*time.Minute, r.Correlation.Lateness) }

func div(a, b int64) int64 { return int64(math.Floor(float64(a) / float64(b))) }

func byKey(evs []simEvent) map[string][]simEvent {
	m := map[string][]simEvent{}
	for _, ev := range evs {
		m[ev.key] = append(m[ev.key], ev)
	}
	return m
}

func distinct(evs []simEvent) []simEvent {
	var out []simEvent
	for _, ev := range evs {
		if !slices.ContainsFunc(out, func(o simEvent) bool { return o.time == ev.time && o.id == ev.id }) {
			out = append(out, ev)
		}
	}
	return out
}

func holds(v float64, op rule.Op, n float64) bool {
	switch op {
	case rule.OpGT:
		return v > n
	case rule.OpGTE:
		return v >= n
	case rule.OpLT:
		return v < n
	case rule.OpLTE:
		return v <= n
	case rule.OpEQ:
		return v == n
	default:
		return v != n
	}
}

// measureOf says what a windowed rule measures over the events of a window.
func measureOf(c *rule.Correlation, evs []simEvent) float64 {
	switch c.Type {
	case rule.EventCount:
		return float64(len(distinct(evs)))
	case rule.ValueCount:
		labels := map[string]bool{}
		for _, ev := range evs {
			labels[ev.label] = true
		}
		return float64(len(labels))
	case rule.ValueSum, rule.ValueAvg:
		pane := max(int64(time.Second), int64(c.Timespan)/60)
		byPane := map[int64][]float64{}
		n := 0
		for _, ev := range distinct(evs) {
			if c.Type == rule.ValueSum && !c.Signed {
				ev.number = max(ev.number, 0)
			}
			byPane[div(ev.time, pane)] = append(byPane[div(ev.time, pane)], ev.number)
			n++
		}
		sum := 0.0
		for _, q := range slices.Sorted(mapKeys(byPane)) {
			here := new(big.Float).SetPrec(2000)
			for _, v := range byPane[q] {
				here.Add(here, big.NewFloat(v))
			}
			rounded, _ := here.Float64()
			sum += rounded
		}
		if c.Type == rule.ValueAvg {
			return sum / float64(n)
		}
		return sum
	case rule.ValuePercentile:
		var vs []float64
		for _, ev := range distinct(evs) {
			vs = append(vs, ev.number)
		}
		slices.Sort(vs)
		for i, v := range vs {
			if float64(100*(i+1)) >= c.Percentile*float64(len(vs)) {
				return v
			}
		}
		panic("no events")
	case rule.Temporal:
		refs := map[uint8]bool{}
		for _, ev := range evs {
			refs[ev.ref] = true
		}
		return float64(len(refs))
	default: // temporal_ordered, by trying everything
		var try func(ref int, after int64, used map[uint64]bool) bool
		try = func(ref int, after int64, used map[uint64]bool) bool {
			if ref == len(c.Rules) {
				return true
			}
			for _, ev := range evs {
				if int(ev.ref) == ref && ev.time >= after && !used[ev.id] {
					used[ev.id] = true
					if try(ref+1, ev.time, used) {
						return true
					}
					delete(used, ev.id)
				}
			}
			return false
		}
		if try(0, math.MinInt64, map[uint64]bool{}) {
			return float64(len(c.Rules))
		}
		return 0
	}
}

func paneOf(c *rule.Correlation) int64 { return max(int64(time.Second), int64(c.Timespan)/60) }

// hotPane is the events of a hot pane, and the greatest of the windows over it that
// make it so.
type hotPane struct {
	events []simEvent
	peak   float64
}

// hotPanes gives the hot panes of a key by number.
func hotPanes(c *rule.Correlation, all []simEvent) map[int64]hotPane {
	pane := paneOf(c)
	m := int64(c.Timespan) / pane
	panes := map[int64][]simEvent{}
	for _, ev := range all {
		panes[div(ev.time, pane)] = append(panes[div(ev.time, pane)], ev)
	}
	hot := map[int64]hotPane{}
	for q, here := range panes {
		best, any := 0.0, false
		for j := q - m + 1; j <= q; j++ {
			var in []simEvent
			for k := j; k < j+m; k++ {
				in = append(in, panes[k]...)
			}
			if v := measureOf(c, in); holds(v, c.Op, c.Value) {
				if !any {
					best = v
				}
				best, any = max(best, v), true
			}
		}
		if any {
			hot[q] = hotPane{here, best}
		}
	}
	return hot
}

func modelWindowed(r *rule.Rule, evs []simEvent, ps map[[2]int64]detect.Pointer, limit int) map[detect.FindingID]detect.Finding {
	c := r.Correlation
	pane := paneOf(c)
	size := (max(int64(c.Timespan), int64(time.Hour)) + pane - 1) / pane * pane
	out := map[detect.FindingID]detect.Finding{}
	for key, all := range byKey(evs) {
		hot := map[int64][]simEvent{} // tile → events of hot panes
		peak := map[int64]float64{}
		for q, p := range hotPanes(c, all) {
			tile := div(q*pane, size) * size
			hot[tile] = append(hot[tile], p.events...)
			if old, ok := peak[tile]; !ok || p.peak > old {
				peak[tile] = p.peak
			}
		}
		for tile, in := range hot {
			what := map[rule.CorrelationType]string{rule.EventCount: "count", rule.ValueCount: "distinct", rule.Temporal: "rules", rule.TemporalOrdered: "rules", rule.ValueSum: "sum", rule.ValueAvg: "average", rule.ValuePercentile: "at_percentile"}[c.Type]
			detail := fmt.Sprintf(`{"%s":%s`, what, strconv.FormatFloat(peak[tile], 'f', -1, 64))
			if c.Percentile > 0 {
				detail += fmt.Sprintf(`,"percentile":%v`, c.Percentile)
			}
			if c.Field != "" {
				detail += fmt.Sprintf(`,"field":"%s"`, c.Field)
			}
			if c.Op != rule.OpGTE || c.Signed || c.Type == rule.ValueAvg || c.Type == rule.ValuePercentile {
				detail += fmt.Sprintf(`,"op":"%s"`, c.Op)
			}
			detail += fmt.Sprintf(`,"threshold":%v,"window":"%s"}`, c.Value, c.Timespan)
			f := finding(r, key, tile, distinct(in), ps, limit)
			f.Peak, f.Detail = peak[tile], detail
			out[f.ID] = f
		}
	}
	return out
}

func finding(r *rule.Rule, key string, tile int64, in []simEvent, ps map[[2]int64]detect.Pointer, limit int) detect.Finding {
	f := detect.Finding{
		ID: detect.NewFindingID(tenant, r.Version, keyOf(key), tile), Tenant: tenant, RuleVersion: r.Version,
		Key: keyOf(key), Tile: tile, Count: int64(len(in)), First: math.MaxInt64, Last: math.MinInt64,
		Evidence: evidence(in, ps, limit),
	}
	for _, ev := range in {
		f.First, f.Last = min(f.First, ev.time), max(f.Last, ev.time)
		if ev.late {
			f.Late++
		}
	}
	return f
}

func inOrder(evs []simEvent) []simEvent {
	evs = slices.Clone(evs)
	slices.SortFunc(evs, func(a, b simEvent) int { return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.id, b.id)) })
	return evs
}

func modelNewValue(r *rule.Rule, evs []simEvent, ps map[[2]int64]detect.Pointer, limit int) map[detect.FindingID]detect.Finding {
	c := r.Correlation
	out := map[detect.FindingID]detect.Finding{}
	round := max(int64(time.Hour), int64(c.Forget)/128)
	for key, all := range byKey(evs) {
		first, latest := int64(0), int64(math.MinInt64)
		last := map[string]int64{}
		for _, ev := range inOrder(all) {
			if latest == math.MinInt64 || ev.time-latest >= 2*int64(c.Forget) {
				first, last = ev.time, map[string]int64{}
			}
			l, known := last[ev.label]
			if (!known || ev.time-l >= int64(c.Forget)) && ev.time-first >= int64(c.Learning) {
				period := div(ev.time, int64(c.Forget)) * int64(c.Forget)
				f := finding(r, key, period, []simEvent{ev}, ps, limit)
				f.ID = detect.NewFindingID(tenant, r.Version, detect.AppendKey(keyOf(key), []byte(ev.label)), period)
				f.Merge, f.Peak, f.Late = detect.MergeLeast, 1, 0
				if ev.pointedLate { // it is about one delivery
					f.Late = 1
				}
				var names []string
				for v := range last {
					if v != ev.label && ev.time-last[v] < int64(c.Forget) {
						names = append(names, v)
					}
				}
				sort.Slice(names, func(i, j int) bool {
					a, b := names[i], names[j]
					return last[a] > last[b] || last[a] == last[b] && a < b
				})
				d := fmt.Sprintf(`{"value":"%s","field":"%s"`, ev.label, c.Field)
				if len(names) > 0 {
					b, _ := json.Marshal(names)
					d += `,"known":` + string(b)
				}
				if days := float64((ev.time-first)/int64(144*time.Minute)) / 10; days > 0 {
					d += fmt.Sprintf(`,"learned_days":%v`, days)
				}
				f.Detail = d + `,"settled":true}`
				if _, again := out[f.ID]; again {
					panic("two findings of one identity")
				}
				out[f.ID] = f
			}
			up := int64(math.Ceil(float64(ev.time)/float64(round))) * round
			last[ev.label] = max(last[ev.label], up)
			latest = max(latest, up)
		}
	}
	return out
}

func modelBaseline(r *rule.Rule, evs []simEvent, ps map[[2]int64]detect.Pointer, limit int) map[detect.FindingID]detect.Finding {
	c := r.Correlation
	size := int64(c.Timespan)
	behind := int64(math.Ceil(float64(latenessOf(r)) / float64(size)))
	out := map[detect.FindingID]detect.Finding{}
	for key, all := range byKey(evs) {
		buckets := map[int64][]simEvent{}
		for _, ev := range all {
			buckets[div(ev.time, size)] = append(buckets[div(ev.time, size)], ev)
		}
		learned := map[int64]float64{}
		ks := slices.Sorted(mapKeys(buckets))
		since := 0 // which of them the key is known from
		for i, k := range ks {
			if i > 0 && c.Forget > 0 && (k-ks[i-1])*size >= int64(c.Forget) {
				since, learned = i, map[int64]float64{}
			}
			in := buckets[k]
			var v float64
			volume := len(in)
			var proof []simEvent
			if c.Measure == "ratio" {
				var part, whole []simEvent
				for _, ev := range in {
					if ev.ref == 0 {
						part = append(part, ev)
					} else {
						whole = append(whole, ev)
					}
				}
				if volume = len(whole); volume == 0 {
					continue
				}
				v, proof = float64(len(part))/float64(len(whole)), part
			} else {
				var ns []float64
				for _, ev := range in {
					ns = append(ns, ev.number)
				}
				sort.Float64s(ns)
				v = ns[int(math.Ceil(0.95*float64(len(ns))))-1]
				for _, ev := range in {
					if ev.number >= v {
						proof = append(proof, ev)
					}
				}
			}
			if volume < c.MinVolume {
				continue
			}
			var before []float64
			for j, x := range learned {
				if j <= k-1-behind {
					before = append(before, x)
				}
			}
			if len(before) >= c.MinBuckets && (k-ks[since])*size >= int64(c.Learning) {
				med := middle(before)
				var dev []float64
				for _, x := range before {
					dev = append(dev, math.Abs(x-med))
				}
				mad := middle(dev)
				if v > c.Factor*med && v > med+c.Deviations*1.4826*mad && v > c.Floor {
					tileSize := (max(size, int64(time.Hour)) + size - 1) / size * size
					tile := div(k*size, tileSize) * tileSize
					f := finding(r, key, tile, in, ps, limit)
					f.Count, f.Peak = int64(volume), v
					f.Evidence = evidence(proof, ps, limit)
					field := ""
					if c.Field != "" {
						field = fmt.Sprintf(`"field":"%s",`, c.Field)
					}
					num := func(x float64) string { b, _ := json.Marshal(x); return string(b) }
					f.Detail = fmt.Sprintf(`{"measure":"%s",%s"value":%s,"median":%s,"mad":%s,"buckets":%d,"volume":%d,"bucket":"%s","size":"%s"}`,
						c.Measure, field, num(v), num(med), num(mad), len(learned), volume, time.Unix(0, k*size).UTC().Format(time.RFC3339), c.Timespan)
					if old, ok := out[f.ID]; ok {
						old.Add(f, limit)
						f = old
					}
					out[f.ID] = f
					continue
				}
			}
			learned[k] = v
		}
	}
	return out
}

func middle(vs []float64) float64 {
	vs = slices.Clone(vs)
	sort.Float64s(vs)
	return (vs[(len(vs)-1)/2] + vs[len(vs)/2]) / 2
}

func modelUnmatched(r *rule.Rule, evs []simEvent, ps map[[2]int64]detect.Pointer, limit int) map[detect.FindingID]detect.Finding {
	c := r.Correlation
	lone := map[string][]simEvent{}    // roll-up key and tile
	unlisted := map[int64][]simEvent{} // day
	for _, all := range byKey(evs) {
		taken := map[int]bool{}
		sorted := inOrder(all)
	left:
		for _, l := range sorted {
			if l.ref == 1 {
				continue
			}
			for i, x := range sorted {
				if x.ref == 1 && !taken[i] && x.time >= l.time-int64(c.Before) && x.time <= l.time+int64(c.Timespan) {
					taken[i] = true
					continue left
				}
			}
			if l.ref > 1 {
				day := l.time - l.time%int64(24*time.Hour)
				unlisted[day] = append(unlisted[day], l)
				continue
			}
			pane := max(int64(time.Second), int64(c.Timespan)/60)
			size := (max(int64(c.Timespan), int64(time.Hour)) + pane - 1) / pane * pane
			k := fmt.Sprint(div(l.time, size)*size, "/", l.label)
			lone[k] = append(lone[k], l)
		}
	}
	out := map[detect.FindingID]detect.Finding{}
	for k, in := range lone {
		var tile int64
		fmt.Sscan(k, &tile)
		f := finding(r, "", tile, in, ps, limit)
		f.Key = []byte(in[0].label)
		f.ID = detect.NewFindingID(tenant, r.Version, f.Key, tile)
		f.Peak, f.Verdict = 1, detect.VerdictBypass
		f.Detail = fmt.Sprintf(`{"partners":0,"before":"%s","after":"%s","verdict":"bypass"}`, c.Before, c.Timespan)
		out[f.ID] = f
	}
	for day, in := range unlisted {
		var names []string
		for _, ev := range in {
			names = append(names, ev.label[1:])
		}
		slices.Sort(names)
		names = slices.Compact(names)
		b, _ := json.Marshal(names[:min(5, len(names))])
		f := finding(r, "", day, in, ps, limit)
		f.ID, f.Key = detect.NewFindingID(tenant, r.Version, keyOf("no inventory"), day), nil
		f.Peak, f.Verdict = 1, detect.VerdictUnknown
		f.Detail = fmt.Sprintf(`{"partners":0,"before":"%s","after":"%s","verdict":"unknown","reason":"no inventory","examples":%s}`, c.Before, c.Timespan, b)
		out[f.ID] = f
	}
	return out
}
