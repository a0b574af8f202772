package incidenttest

import (
	"context"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

func (t *tx) Places(_ context.Context, tenant string, ids []detect.FindingID) ([]incident.Place, error) {
	return t.placesWhere(func(k FindingKey) bool { return k.Tenant == tenant && slices.Contains(ids, k.ID) }), t.step()
}

func (t *tx) PlacesOfIncidents(_ context.Context, tenant string, ids []incident.ID) ([]incident.Place, error) {
	return t.placesWhere(func(k FindingKey) bool {
		return k.Tenant == tenant && slices.Contains(ids, t.state.Findings[k].Incident)
	}), t.step()
}

func (t *tx) placesWhere(want func(FindingKey) bool) []incident.Place {
	var out []incident.Place
	for k, p := range t.places {
		if want(k) {
			out = append(out, p)
		}
	}
	return out
}

func (t *tx) SavePlaces(_ context.Context, tenant string, places []incident.Place) error {
	for _, p := range places {
		t.places[FindingKey{tenant, p.Finding}] = p
	}
	return t.step()
}

func (t *tx) TileKeys(_ context.Context, tenant string, tiles []incident.RuleTile, most int) (map[incident.RuleTile]int, error) {
	keys := map[incident.RuleTile]map[[16]byte]bool{}
	for k, p := range t.places {
		if k.Tenant != tenant || !slices.Contains(tiles, p.RuleTile) {
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

func (t *tx) TileIncidents(_ context.Context, tenant string, tiles []incident.RuleTile, most int, closed time.Time) ([]incident.TileIncident, error) {
	var out []incident.TileIncident
	n := map[incident.RuleTile]int{}
	for k, p := range t.places {
		in := t.state.Incidents[IncidentKey{tenant, t.state.Findings[k].Incident}]
		ti := incident.TileIncident{RuleTile: p.RuleTile, Incident: in.ID}
		if k.Tenant != tenant || !slices.Contains(tiles, p.RuleTile) || in.ID.IsZero() || slices.Contains(out, ti) || most > 0 && n[p.RuleTile] == most ||
			in.Status == incident.StatusResolved && in.ResolvedAt.Before(closed) {
			continue
		}
		n[p.RuleTile]++
		out = append(out, ti)
	}
	return out, t.step()
}

func (t *tx) Floods(_ context.Context, tenant string, tiles []incident.RuleTile, within time.Duration) ([]incident.RuleTile, error) {
	var out []incident.RuleTile
	for k := range t.floods {
		if k.Tenant == tenant && slices.ContainsFunc(tiles, func(at incident.RuleTile) bool {
			return at.RuleID == k.RuleID && max(at.At, k.At)-min(at.At, k.At) <= int64(within)
		}) {
			out = append(out, k.RuleTile)
		}
	}
	return out, t.step()
}

func (t *tx) SaveFloods(_ context.Context, tenant string, rise, fall []incident.RuleTile) error {
	for _, tile := range rise {
		t.floods[tkey{tenant, tile}] = true
	}
	for _, tile := range fall {
		delete(t.floods, tkey{tenant, tile})
	}
	return t.step()
}

func (t *tx) Keys(_ context.Context, tenant string, ids []incident.ID) ([]incident.RuleKeys, error) {
	type key struct {
		in   incident.ID
		rule string
		key  [16]byte
	}
	seen := map[key]bool{}
	sums := map[incident.RuleKeys]int64{}
	for k, p := range t.places {
		in := t.state.Findings[k].Incident
		if kk := (key{in, p.RuleID, p.Key}); k.Tenant == tenant && slices.Contains(ids, in) && !seen[kk] {
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
