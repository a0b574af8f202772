package event_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/event"
)

// sharedData is where records that others published lie, beside the checkout.
const sharedData = "../../shared/data"

func sharedLines(t *testing.T, name string) [][]byte {
	t.Helper()
	f, err := os.Open(filepath.Join(sharedData, name))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no published records beside the checkout: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	var lines [][]byte
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		lines = append(lines, bytes.Clone(sc.Bytes()))
	}
	if sc.Err() != nil {
		t.Fatal(sc.Err())
	}
	return lines
}

// members takes one member out of each line, of those that keep says.
func members(t *testing.T, lines [][]byte, name string, keep func(map[string]json.RawMessage) bool) [][]byte {
	t.Helper()
	var out [][]byte
	for _, l := range lines {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(l, &m); err != nil {
			t.Fatal(err)
		}
		if keep == nil || keep(m) {
			out = append(out, m[name])
		}
	}
	return out
}

// TestPublishedCloudTrail decodes records that others published. None may be
// lost: each is decoded, or refused for a reason that is counted here.
func TestPublishedCloudTrail(t *testing.T) {
	whole := func(name string) func(*testing.T) [][]byte {
		return func(t *testing.T) [][]byte { return sharedLines(t, name) }
	}
	for _, tc := range []struct {
		name    string
		records func(*testing.T) [][]byte
		total   int
		refused map[event.Reason]int
	}{
		{"stratus-red-team", whole("cloudtrail/stratus-red-team.jsonl.gz"), 66, nil},
		{"traildiscover", whole("cloudtrail/traildiscover.jsonl.gz"), 158, nil},
		{"otrf, by way of Logstash", whole("cloudtrail/otrf_ec2_proxy_s3_exfiltration.jsonl.gz"), 103, nil},
		{"panther", func(t *testing.T) [][]byte {
			return members(t, sharedLines(t, "panther/AWS.CloudTrail.jsonl"), "log", nil)
		}, 260, map[event.Reason]int{
			// Fragments written by hand: without time, or without what was called.
			event.ReasonTime:    8,
			event.ReasonMissing: 6,
		}},
		{"splunk", func(t *testing.T) [][]byte {
			return members(t, sharedLines(t, "splunk/data_sources.jsonl"), "log", func(m map[string]json.RawMessage) bool {
				return string(m["sourcetype"]) == `"aws:cloudtrail"`
			})
		}, 24, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			records := tc.records(t)
			if len(records) != tc.total {
				t.Fatalf("%d records, want %d", len(records), tc.total)
			}
			d, ev := event.NewDecoder(), new(event.Event)
			refused := map[event.Reason]int{}
			for _, r := range records {
				err := d.Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: r})
				var why *event.DecodeError
				if errors.As(err, &why) {
					refused[why.Reason]++
					continue
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, r)
				}
				if got := event.DetectType(r); got != event.TypeCloudTrail {
					t.Errorf("told to be %q: %s", got, r)
				}
				checkAgainstMap(t, ev, r)
			}
			for _, reason := range event.Reasons() {
				if refused[reason] != tc.refused[reason] {
					t.Errorf("%d refused because of %q, want %d", refused[reason], reason, tc.refused[reason])
				}
			}
		})
	}
}

// checkAgainstMap holds what is taken out of a record over to encoding/json.
func checkAgainstMap(t *testing.T, ev *event.Event, record []byte) {
	t.Helper()
	var m struct {
		EventID         string `json:"eventID"`
		EventName       string `json:"eventName"`
		EventSource     string `json:"eventSource"`
		SourceIPAddress string `json:"sourceIPAddress"`
		ErrorCode       string `json:"errorCode"`
		UserAgent       string `json:"userAgent"`
	}
	if err := json.Unmarshal(record, &m); err != nil {
		t.Fatal(err)
	}
	for a, want := range map[event.Attr]string{
		event.AttrAPIOperation:  m.EventName,
		event.AttrAPIService:    m.EventSource,
		event.AttrAPIError:      m.ErrorCode,
		event.AttrHTTPUserAgent: m.UserAgent,
	} {
		if got := string(ev.Attr(a)); got != want {
			t.Errorf("%s is %q, want %q: %s", a, got, want, record)
		}
	}
	if got := string(ev.Attr(event.AttrSrcIP)) + string(ev.Attr(event.AttrSrcDomain)); got != m.SourceIPAddress {
		t.Errorf("source is %q, want %q: %s", got, m.SourceIPAddress, record)
	}
	if m.EventID != "" && string(ev.Attr(event.AttrUID)) != m.EventID {
		t.Errorf("id is %q, want %q", ev.Attr(event.AttrUID), m.EventID)
	}
	if (m.ErrorCode != "") != (ev.Outcome != event.OutcomeSuccess) && m.EventName != "ConsoleLogin" {
		t.Errorf("error code %q, outcome %s: %s", m.ErrorCode, ev.Outcome, record)
	}
	if ocsf := event.OCSF(nil, ev); !json.Valid(ocsf) {
		t.Errorf("OCSF is no JSON: %s", ocsf)
	}
}

// Records of other log types are not taken for ours.
func TestPublishedRecordsOfOtherTypes(t *testing.T) {
	for _, name := range []string{"AWS.ALB", "AWS.GuardDuty", "AWS.S3ServerAccess", "AWS.VPCFlow", "AWS.WAFWebACL", "Amazon.EKS.Audit", "Azure.MonitorActivity", "GCP.AuditLog"} {
		for _, r := range members(t, sharedLines(t, "panther/"+name+".jsonl"), "log", nil) {
			if got := event.DetectType(r); got != event.TypeUnknown {
				t.Errorf("%s is told to be %q: %s", name, got, r)
			}
		}
	}
}
