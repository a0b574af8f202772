package incident_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/incident/incidenttest"
)

// flooder assembles findings one rule at a time.
type flooder struct {
	t *testing.T
	m *incidenttest.Memory
	a *incident.Assembler
}

func newFlooder(t *testing.T, keys int) *flooder {
	m := incidenttest.New(testRules...)
	a, err := incident.New(incident.Options{
		Ledger: m, FloodKeys: keys, Batch: 4, Receivers: []incident.Receiver{{Name: "all"}, {Name: "high", MinSeverity: detect.LevelHigh}},
		Now: func() time.Time { return time.Unix(0, start) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &flooder{t, m, a}
}

func (f *flooder) find(version string, hour int64, first int64, values ...string) {
	f.t.Helper()
	tile := start/int64(time.Hour)*int64(time.Hour) + hour*int64(time.Hour)
	d := detect.Finding{
		Tenant: "t", RuleVersion: version, Key: key(values...), Tile: tile, Count: 1,
		First: tile + first*int64(time.Minute), Last: tile + first*int64(time.Minute),
	}
	if version == "fresh" {
		d.Merge, d.Tile = detect.MergeLeast, 0
	}
	d.ID = detect.NewFindingID(d.Tenant, d.RuleVersion, d.Key, d.Tile)
	f.m.Checkpoint(0, d)
	if err := drain(f.t.Context(), f.a); err != nil {
		f.t.Fatal(err)
	}
}

// want compares the live incidents' numbers of findings with sizes, largest first.
func (f *flooder) want(sizes string) {
	f.t.Helper()
	n := map[incident.ID]int{}
	for _, r := range f.m.Findings {
		n[r.Incident]++
	}
	var got []string
	for size := len(f.m.Findings); size > 0; size-- {
		for id, k := range n {
			if k == size {
				got = append(got, fmt.Sprint(k))
				if in := f.m.Incidents[incidenttest.IncidentKey{Tenant: "t", ID: id}]; in.Findings != int64(k) {
					f.t.Errorf("an incident of %d findings says %d", k, in.Findings)
				}
			}
		}
	}
	if s := strings.Join(got, " "); s != sizes {
		f.t.Errorf("incidents of %s findings, want %s", s, sizes)
	}
}

// Floods of one rule in hours side by side are one incident, those further apart
// are not, and what found few keys stays by itself.
func TestFloodsSideBySide(t *testing.T) {
	f := newFlooder(t, 3)
	private := func(hour, n int64) string { return fmt.Sprintf("10.0.%d.%d", hour, n) } // joins nothing by itself
	for _, hour := range []int64{0, 5, 2} {
		for n := range int64(4) {
			f.find("flood1", hour, n, private(hour, n))
		}
	}
	f.want("8 4")
	f.find("flood2", 9, 0, private(9, 0))
	f.find("flood2", 9, 1, private(9, 1))
	f.want("8 4 1 1")
	f.find("flood1", 9, 1, private(9, 2)) // versions of a rule count together
	f.want("8 4 3")
	f.find("flood1", 3, 0, private(3, 0)) // beside one, but no flood
	f.want("8 4 3 1")
	for n := range int64(3) {
		f.find("flood1", 7, n, private(7, n))
	}
	f.want("10 8 1") // it stands between two
	merged := 0
	for _, in := range f.m.Incidents {
		if in.Status == incident.StatusMerged {
			merged++
			continue
		}
		if in.Findings == 10 && (in.Keys != 10 || !strings.HasSuffix(in.Title, " and 9 more") || in.Count != 10) {
			t.Errorf("the flood is told as %+v", in)
		}
	}
	if merged == 0 {
		t.Error("nothing was merged")
	}
	if err := consistent(f.m); err != nil {
		t.Error(err)
	}
}

// A flood that turns out to be none, since what it found happened at other times,
// comes apart.
func TestFloodEnds(t *testing.T) {
	f := newFlooder(t, 3)
	who := func(n int64) string { return fmt.Sprintf("arn:aws:iam::111122223333:user/u%d", n) }
	for n := range int64(3) {
		f.find("fresh", 3, 10+n, who(n))
	}
	f.want("3")
	f.find("fresh", 0, 1, who(1))
	f.want("1 1 1")
	f.find("fresh", 3, 9, who(8))
	f.want("3 1")
}
