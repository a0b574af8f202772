package alerting

import (
	"errors"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	const update = 5 * time.Minute
	told := func(version int64, e Event, ago time.Duration) Intent {
		return Intent{Delivered: version, LastEvent: e, LastSeverity: detect.LevelMedium, LastAt: now.Add(-ago)}
	}
	tried := func(in Intent) Intent { in.Attempts = 1; return in }
	for _, c := range []struct {
		name    string
		status  incident.Status
		version int64
		level   detect.Level
		intent  Intent
		want    plan
	}{
		{"new", incident.StatusOpen, 1, detect.LevelMedium, Intent{}, plan{actSend, EventTrigger, 0}},
		{"new and acknowledged", incident.StatusAcknowledged, 2, detect.LevelMedium, Intent{}, plan{actSend, EventAcknowledge, 0}},
		{"known", incident.StatusOpen, 1, detect.LevelMedium, told(1, EventTrigger, time.Hour), plan{actSkip, EventTrigger, 0}},
		{"resolved before it was told", incident.StatusResolved, 2, detect.LevelMedium, Intent{}, plan{actSkip, EventResolve, 0}},
		{"resolved, perhaps told", incident.StatusResolved, 2, detect.LevelMedium, tried(Intent{}), plan{actSend, EventResolve, 0}},
		{"resolved", incident.StatusResolved, 2, detect.LevelMedium, told(1, EventTrigger, time.Second), plan{actSend, EventResolve, 0}},
		{"merged", incident.StatusMerged, 2, detect.LevelMedium, told(1, EventTrigger, time.Second), plan{actSend, EventResolve, 0}},
		{"resolved again, told before", incident.StatusResolved, 4, detect.LevelMedium, told(2, EventResolve, time.Hour), plan{actSkip, EventResolve, 0}},
		{"resolved again, reopening perhaps told", incident.StatusResolved, 4, detect.LevelMedium, tried(told(2, EventResolve, time.Hour)), plan{actSend, EventResolve, 0}},
		{"reopened", incident.StatusOpen, 3, detect.LevelMedium, told(2, EventResolve, time.Second), plan{actSend, EventTrigger, 0}},
		{"more findings at once", incident.StatusOpen, 2, detect.LevelMedium, told(1, EventTrigger, time.Minute), plan{actWait, EventTrigger, 4 * time.Minute}},
		{"more findings later", incident.StatusOpen, 2, detect.LevelMedium, told(1, EventTrigger, update), plan{actSend, EventTrigger, 0}},
		{"severity raised", incident.StatusOpen, 2, detect.LevelHigh, told(1, EventTrigger, time.Second), plan{actSend, EventTrigger, 0}},
		{"acknowledged", incident.StatusAcknowledged, 2, detect.LevelMedium, told(1, EventTrigger, time.Second), plan{actSend, EventAcknowledge, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Subject{Intent: c.intent, Incident: incident.Incident{Status: c.status, Version: c.version, Severity: c.level}}
			if got := decide(s, now, update); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		failures int
		chance   float64
		want     time.Duration
	}{
		{0, 0, time.Second},
		{0, 0.5, 1500 * time.Millisecond},
		{1, 0, 2 * time.Second},
		{4, 0, 16 * time.Second},
		{100, 0, 5 * time.Minute},
		{1 << 40, 1, 10 * time.Minute},
	} {
		if got := backoff(c.failures, 2*time.Second, 10*time.Minute, c.chance); got != c.want {
			t.Errorf("backoff(%d, %v) = %v, want %v", c.failures, c.chance, got, c.want)
		}
	}
}

func TestRefuseLinkLocal(t *testing.T) {
	for address, ok := range map[string]bool{
		"169.254.169.254:80":          false,
		"[::ffff:169.254.169.254]:80": false,
		"[fe80::1]:443":               false,
		"[fd00:ec2::254]:80":          false,
		"0.0.0.0:80":                  false,
		"[ff02::1]:80":                false,
		"nonsense":                    false,
		"127.0.0.1:80":                true,
		"10.0.0.1:443":                true,
		"198.51.100.1:443":            true,
		"[2001:db8::1]:443":           true,
	} {
		if err := refuseLinkLocal("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestFailureOfAnything(t *testing.T) {
	f := failureOf(errors.New("odd"))
	if f.Reason != ReasonServer || !f.Retry {
		t.Errorf("%+v", f)
	}
}
