package incident

import (
	"context"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// placeOf says where a finding counts towards a flood: with the findings of its rule
// in its tile, or, if it is about one event, in that event's hour.
func placeOf(r Rule, f detect.Finding) Place {
	at := f.Tile
	if f.Merge == detect.MergeLeast {
		at = f.First - mod(f.First, int64(time.Hour))
	}
	return Place{Finding: f.ID, RuleTile: RuleTile{RuleID: r.ID, At: at}, Key: hashLink(LinkRepeat, []byte(r.ID), f.Key)}
}

// mod is never negative.
func mod(a, b int64) int64 { return (a%b + b) % b }

// flood works out which tiles of rules hold a flood now that the members are there,
// and adds to t.hits and t.suspects what follows from it.
func (t *tenantBatch) flood(ctx context.Context) error {
	t.places, t.flooded = map[detect.FindingID]Place{}, map[RuleTile]bool{}
	var moved []detect.FindingID
	for _, m := range t.members {
		if !m.isNew() && m.moved() {
			moved = append(moved, m.ID)
		}
	}
	touched := map[RuleTile]bool{}
	if len(moved) > 0 {
		old, err := t.tx.Places(ctx, t.tenant, moved)
		if err != nil {
			return fmt.Errorf("read tiles: %w", err)
		}
		for _, p := range old {
			touched[p.RuleTile] = true
		}
	}
	var places []Place
	by := map[RuleTile]int32{} // one of the members that come to it
	for i, m := range t.members {
		if m.isNew() || m.moved() {
			p := placeOf(m.rule, m.Finding.Finding)
			places = append(places, p)
			t.places[m.ID] = p
			touched[p.RuleTile] = true
			if m.isNew() || !t.closed(m.Incident) {
				by[p.RuleTile] = int32(i)
			}
		}
	}
	if len(places) == 0 {
		return nil
	}
	if err := t.tx.SavePlaces(ctx, t.tenant, places); err != nil {
		return fmt.Errorf("write tiles: %w", err)
	}
	tiles := keysOf(touched)
	keys, err := t.tx.TileKeys(ctx, t.tenant, tiles, t.opts.FloodKeys)
	if err != nil {
		return fmt.Errorf("count keys of tiles: %w", err)
	}
	floods, err := t.tx.Floods(ctx, t.tenant, tiles, 0)
	if err != nil {
		return fmt.Errorf("read floods: %w", err)
	}
	for _, tile := range floods {
		t.flooded[tile] = true
	}
	var rise, fall, stand []RuleTile
	for _, tile := range tiles {
		switch full := keys[tile] >= t.opts.FloodKeys; {
		case full && !t.flooded[tile]:
			rise = append(rise, tile)
		case full:
			stand = append(stand, tile)
		case t.flooded[tile]:
			fall = append(fall, tile)
		}
	}
	if err := t.changeFloods(ctx, rise, fall); err != nil {
		return err
	}
	return t.joinFloods(ctx, rise, stand, by)
}

// changeFloods notes which tiles hold a flood from now on, and which do no more:
// their incidents may come apart.
func (t *tenantBatch) changeFloods(ctx context.Context, rise, fall []RuleTile) error {
	if len(rise)+len(fall) == 0 {
		return nil
	}
	if err := t.tx.SaveFloods(ctx, t.tenant, rise, fall); err != nil {
		return fmt.Errorf("write floods: %w", err)
	}
	for _, tile := range rise {
		t.flooded[tile] = true
	}
	for _, tile := range fall {
		delete(t.flooded, tile)
	}
	if len(fall) == 0 {
		return nil
	}
	gone, err := t.tx.TileIncidents(ctx, t.tenant, fall, 0, time.Time{})
	if err != nil {
		return fmt.Errorf("find incidents of floods that ended: %w", err)
	}
	for _, g := range gone {
		if _, ok := t.suspects[g.Incident]; !ok {
			t.suspects[g.Incident] = nil
		}
	}
	return nil
}

// joinFloods finds the incidents that floods join: all of a tile that just came to
// hold one, one of a tile that held it, and one of each flood beside it.
func (t *tenantBatch) joinFloods(ctx context.Context, rise, stand []RuleTile, by map[RuleTile]int32) error {
	closed := t.now.Add(-t.opts.Reopen)
	join := func(tiles []RuleTile, most int, to func(RuleTile) []int32) error {
		if len(tiles) == 0 {
			return nil
		}
		found, err := t.tx.TileIncidents(ctx, t.tenant, tiles, most, closed)
		if err != nil {
			return fmt.Errorf("find incidents of floods: %w", err)
		}
		for _, f := range found {
			for _, ord := range to(f.RuleTile) {
				t.hits = append(t.hits, Hit{Ord: ord, Incident: f.Incident})
			}
		}
		return nil
	}
	own := func(tile RuleTile) []int32 {
		if i, ok := by[tile]; ok {
			return []int32{i}
		}
		return nil
	}
	if err := join(rise, 0, own); err != nil {
		return err
	}
	if err := join(stand, 1, own); err != nil {
		return err
	}
	var full []RuleTile
	for tile := range by {
		if t.flooded[tile] {
			full = append(full, tile)
		}
	}
	if len(full) == 0 {
		return nil
	}
	near, err := t.tx.Floods(ctx, t.tenant, full, t.opts.Repeat)
	if err != nil {
		return fmt.Errorf("read floods beside: %w", err)
	}
	return join(near, 1, func(tile RuleTile) []int32 {
		var ords []int32
		for _, f := range full {
			if f != tile && f.RuleID == tile.RuleID && max(f.At, tile.At)-min(f.At, tile.At) <= int64(t.opts.Repeat) {
				ords = append(ords, by[f])
			}
		}
		return ords
	})
}

// loadPlaces reads where the findings of incidents that may come apart count, and
// which of those tiles hold a flood.
func (t *tenantBatch) loadPlaces(ctx context.Context, suspects []ID) error {
	places, err := t.tx.PlacesOfIncidents(ctx, t.tenant, suspects)
	if err != nil {
		return fmt.Errorf("read tiles of incidents that may come apart: %w", err)
	}
	tiles := map[RuleTile]bool{}
	for _, p := range places {
		if _, newer := t.places[p.Finding]; !newer {
			t.places[p.Finding] = p
		}
		tiles[p.RuleTile] = true
	}
	floods, err := t.tx.Floods(ctx, t.tenant, keysOf(tiles), 0)
	if err != nil {
		return fmt.Errorf("read floods: %w", err)
	}
	for _, tile := range floods {
		t.flooded[tile] = true
	}
	return nil
}

// floodLink is the link that a finding has to others of its rule if its tile holds a
// flood.
func (t *tenantBatch) floodLink(f detect.FindingID) (Link, bool) {
	p, ok := t.places[f]
	if !ok || !t.flooded[p.RuleTile] {
		return Link{}, false
	}
	return Link{Finding: f, Kind: linkFlood, Hash: hashLink(linkFlood, []byte(p.RuleID)), First: p.At, Last: p.At}, true
}

func keysOf(m map[RuleTile]bool) []RuleTile {
	tiles := make([]RuleTile, 0, len(m))
	for tile := range m {
		tiles = append(tiles, tile)
	}
	return tiles
}
