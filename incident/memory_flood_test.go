package incident_test

import (
	"context"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

func (t *memoryTx) Places(_ context.Context, tenant string, ids []detect.FindingID) ([]incident.Place, error) {
	return t.placesWhere(func(k fkey) bool { return k.tenant == tenant && slices.Contains(ids, k.id) }), t.step()
}

func (t *memoryTx) PlacesOfIncidents(_ context.Context, tenant string, ids []incident.ID) ([]incident.Place, error) {
	return t.placesWhere(func(k fkey) bool {
		return k.tenant == tenant && slices.Contains(ids, t.findings[k].Incident)
	}), t.step()
}

func (t *memoryTx) placesWhere(want func(fkey) bool) []incident.Place {
	var out []incident.Place
	for k, p := range t.places {
		if want(k) {
			out = append(out, p)
		}
	}
	return out
}

func (t *memoryTx) SavePlaces(_ context.Context, tenant string, places []incident.Place) error {
	for _, p := range places {
		t.places[fkey{tenant, p.Finding}] = p
	}
	return t.step()
}

func (t *memoryTx) TileKeys(_ context.Context, tenant string, tiles []incident.RuleTile, most int) (map[incident.RuleTile]int, error) {
	keys := map[incident.RuleTile]map[[16]byte]bool{}
	for k, p := range t.places {
		if k.tenant != tenant || !slices.Contains(tiles, p.RuleTile) {
			continue
		}
		if keys[p.RuleTile] == nil {
			keys[p.RuleTile] = map[[16]byte]bool{}
		}
		keys[p.RuleTile][p.Key] = true
	}
	out := map[incident.RuleTile]int{}
	for tile, ks := range keys {
		out[tile] = min(len(ks), most)
	}
	return out, t.step()
}

func (t *memoryTx) TileIncidents(_ context.Context, tenant string, tiles []incident.RuleTile, most int, closed time.Time) ([]incident.TileIncident, error) {
	var out []incident.TileIncident
	n := map[incident.RuleTile]int{}
	for k, p := range t.places {
		in := t.incidents[ikey{tenant, t.findings[k].Incident}]
		ti := incident.TileIncident{RuleTile: p.RuleTile, Incident: in.ID}
		if k.tenant != tenant || !slices.Contains(tiles, p.RuleTile) || in.ID.IsZero() || slices.Contains(out, ti) || most > 0 && n[p.RuleTile] == most ||
			in.Status == incident.StatusResolved && in.ResolvedAt.Before(closed) {
			continue
		}
		n[p.RuleTile]++
		out = append(out, ti)
	}
	return out, t.step()
}

func (t *memoryTx) Floods(_ context.Context, tenant string, tiles []incident.RuleTile, within time.Duration) ([]incident.RuleTile, error) {
	var out []incident.RuleTile
	for k := range t.floods {
		if k.tenant == tenant && slices.ContainsFunc(tiles, func(at incident.RuleTile) bool {
			return at.RuleID == k.RuleID && max(at.At, k.At)-min(at.At, k.At) <= int64(within)
		}) {
			out = append(out, k.RuleTile)
		}
	}
	return out, t.step()
}

func (t *memoryTx) SaveFloods(_ context.Context, tenant string, rise, fall []incident.RuleTile) error {
	for _, tile := range rise {
		t.floods[tkey{tenant, tile}] = true
	}
	for _, tile := range fall {
		delete(t.floods, tkey{tenant, tile})
	}
	return t.step()
}

func (t *memoryTx) Keys(_ context.Context, tenant string, ids []incident.ID) ([]incident.RuleKeys, error) {
	type key struct {
		in   incident.ID
		rule string
		key  [16]byte
	}
	seen := map[key]bool{}
	sums := map[incident.RuleKeys]int64{}
	for k, p := range t.places {
		in := t.findings[k].Incident
		if kk := (key{in, p.RuleID, p.Key}); k.tenant == tenant && slices.Contains(ids, in) && !seen[kk] {
			seen[kk] = true
			sums[incident.RuleKeys{Incident: in, RuleID: p.RuleID}]++
		}
	}
	var out []incident.RuleKeys
	for k, n := range sums {
		k.Keys = n
		out = append(out, k)
	}
	return out, t.step()
}
