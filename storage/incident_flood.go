package storage

import (
	"context"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

func (t *incidentTx) Places(ctx context.Context, tenant string, findings []detect.FindingID) ([]incident.Place, error) {
	rows, err := t.q.FindingTiles(ctx, dbsqlc.FindingTilesParams{Tenant: tenant, FindingIds: idBytes(findings)})
	return placesOf(rows), err
}

func (t *incidentTx) PlacesOfIncidents(ctx context.Context, tenant string, incidents []incident.ID) ([]incident.Place, error) {
	rows, err := t.q.IncidentTiles(ctx, dbsqlc.IncidentTilesParams{Tenant: tenant, IncidentIds: uuidsOf(incidents)})
	return placesOf(rows), err
}

func placesOf[R dbsqlc.FindingTilesRow | dbsqlc.IncidentTilesRow](rows []R) []incident.Place {
	ps := make([]incident.Place, len(rows))
	for i, row := range rows {
		r := dbsqlc.FindingTilesRow(row)
		ps[i] = incident.Place{Finding: findingID(r.FindingID), RuleTile: incident.RuleTile{RuleID: r.RuleID, At: r.At}}
		copy(ps[i].Key[:], r.Key)
	}
	return ps
}

func (t *incidentTx) SavePlaces(ctx context.Context, tenant string, places []incident.Place) error {
	p := dbsqlc.SaveTilesParams{Tenant: tenant}
	for i := range places {
		pl := &places[i]
		p.FindingIds, p.RuleIds = append(p.FindingIds, pl.Finding[:]), append(p.RuleIds, pl.RuleID)
		p.Ats, p.Keys = append(p.Ats, pl.At), append(p.Keys, pl.Key[:])
	}
	return t.q.SaveTiles(ctx, p)
}

func columnsOf(tiles []incident.RuleTile) (rules []string, ats []int64) {
	for _, tile := range tiles {
		rules, ats = append(rules, tile.RuleID), append(ats, tile.At)
	}
	return rules, ats
}

func (t *incidentTx) TileKeys(ctx context.Context, tenant string, tiles []incident.RuleTile, most int) (map[incident.RuleTile]int, error) {
	rules, ats := columnsOf(tiles)
	rows, err := t.q.TileKeys(ctx, dbsqlc.TileKeysParams{Tenant: tenant, RuleIds: rules, Ats: ats, Most: int64(most)})
	keys := make(map[incident.RuleTile]int, len(rows))
	for _, r := range rows {
		keys[incident.RuleTile{RuleID: r.RuleID, At: r.At}] = int(r.N)
	}
	return keys, err
}

func (t *incidentTx) TileIncidents(ctx context.Context, tenant string, tiles []incident.RuleTile, most int, closed time.Time) ([]incident.TileIncident, error) {
	rules, ats := columnsOf(tiles)
	p := dbsqlc.TileIncidentParams{Tenant: tenant, RuleIds: rules, Ats: ats, Closed: timeOf(closed)}
	var out []incident.TileIncident
	if most == 1 {
		rows, err := t.q.TileIncident(ctx, p)
		for _, r := range rows {
			out = append(out, incident.TileIncident{RuleTile: incident.RuleTile{RuleID: r.RuleID, At: r.At}, Incident: incidentID(r.IncidentID)})
		}
		return out, err
	}
	rows, err := t.q.TileIncidents(ctx, dbsqlc.TileIncidentsParams(p))
	for _, r := range rows {
		out = append(out, incident.TileIncident{RuleTile: incident.RuleTile{RuleID: r.RuleID, At: r.At}, Incident: incidentID(r.IncidentID)})
	}
	return out, err
}

func (t *incidentTx) Floods(ctx context.Context, tenant string, tiles []incident.RuleTile, within time.Duration) ([]incident.RuleTile, error) {
	rules, ats := columnsOf(tiles)
	rows, err := t.q.Floods(ctx, dbsqlc.FloodsParams{Tenant: tenant, RuleIds: rules, Ats: ats, Within: int64(within)})
	out := make([]incident.RuleTile, len(rows))
	for i, r := range rows {
		out[i] = incident.RuleTile{RuleID: r.RuleID, At: r.At}
	}
	return out, err
}

func (t *incidentTx) SaveFloods(ctx context.Context, tenant string, rise, fall []incident.RuleTile) error {
	rules, ats := columnsOf(rise)
	if err := t.q.AddFloods(ctx, dbsqlc.AddFloodsParams{Tenant: tenant, RuleIds: rules, Ats: ats}); err != nil {
		return err
	}
	if len(fall) == 0 {
		return nil
	}
	rules, ats = columnsOf(fall)
	return t.q.DropFloods(ctx, dbsqlc.DropFloodsParams{Tenant: tenant, RuleIds: rules, Ats: ats})
}

func (t *incidentTx) Keys(ctx context.Context, tenant string, ids []incident.ID) ([]incident.RuleKeys, error) {
	rows, err := t.q.IncidentKeys(ctx, dbsqlc.IncidentKeysParams{Tenant: tenant, IncidentIds: uuidsOf(ids)})
	out := make([]incident.RuleKeys, len(rows))
	for i, r := range rows {
		out[i] = incident.RuleKeys{Incident: incidentID(r.IncidentID), RuleID: r.RuleID, Keys: r.Keys}
	}
	return out, err
}
