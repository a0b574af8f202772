package doctor

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

func (d *doctor) receivers(ctx context.Context) {
	rs := d.o.Config.Alerting.Receivers
	if len(rs) == 0 {
		d.warn("receivers", "name some in alerting.receivers", "none: incidents are opened and nobody is told")
	}
	for _, r := range rs {
		c := d.check("receiver " + r.Name)
		n, err := d.o.Notifier(r)
		switch {
		case err != nil:
			c.fail("correct it in alerting.receivers", "%v", err)
		case !d.o.SendTest:
			c.ok("%s, from %s up; nothing was sent (--send-test sends a message)", r.Type, r.MinSeverity)
		default:
			d.sendTest(ctx, c, r, n)
		}
	}
}

// sendTest tells a receiver of an incident that is none, and that it is resolved,
// so that nothing is left open with those who keep account.
func (d *doctor) sendTest(ctx context.Context, c *check, r config.Receiver, n alerting.Notifier) {
	now := d.o.Now()
	level, err := detect.ParseLevel(r.MinSeverity)
	if err != nil {
		c.fail("correct it in alerting.receivers", "%v", err)
		return
	}
	test := alerting.Notification{
		Event: alerting.EventTrigger, At: now, URL: d.o.Config.API.ExternalURL,
		Explanation: "This is a test sent by vedette doctor. Nothing has happened and nothing needs to be done.",
		Incident: incident.Incident{
			Tenant: d.o.Config.Tenant, Status: incident.StatusOpen, Title: "Test message of vedette doctor", Severity: level,
			Count: 1, First: now.UnixNano(), Last: now.UnixNano(), Version: 1, OpenedAt: now, UpdatedAt: now,
		},
	}
	rand.Read(test.Incident.ID[:])
	// The marks of a random UUID: version 4, variant 10.
	test.Incident.ID[6] = test.Incident.ID[6]&0x0f | 0x40
	test.Incident.ID[8] = test.Incident.ID[8]&0x3f | 0x80
	began := time.Now()
	_, err = n.Notify(ctx, test)
	if err == nil {
		test.Event, test.Update = alerting.EventResolve, true
		test.Incident.Status, test.Incident.Version, test.Incident.ResolvedAt = incident.StatusResolved, 2, now
		_, err = n.Notify(ctx, test)
	}
	if err != nil {
		c.fail("see whether the URL and the key are still good, and whether this machine may reach it", "the test message was not accepted: %v", err)
		return
	}
	c.ok("%s accepted a test message and its resolution in %v", r.Type, round(time.Since(began)))
}
