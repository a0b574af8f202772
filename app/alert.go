package app

import (
	"fmt"
	"strings"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/alerting/pagerduty"
	"github.com/vedette-sec/vedette/alerting/riverqueue"
	"github.com/vedette-sec/vedette/alerting/slack"
	"github.com/vedette-sec/vedette/alerting/webhook"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/secret"
)

// incidentOptions are those of the assembler and of what people do: both make intents.
func (a *App) incidentOptions() (incident.Options, error) {
	o := incident.Options{
		Ledger: a.db, Join: a.cfg.Incidents.JoinWindow, FloodKeys: a.cfg.Incidents.FloodKeys, Records: records{a.kafka}, Logger: a.logger, Registerer: a.registry,
	}
	for _, r := range a.cfg.Alerting.Receivers {
		level, err := detect.ParseLevel(r.MinSeverity)
		if err != nil {
			return o, fmt.Errorf("receiver %s: %w", r.Name, err)
		}
		o.Receivers = append(o.Receivers, incident.Receiver{Name: r.Name, MinSeverity: level})
	}
	return o, nil
}

// startAlert starts the assembler and the delivery of what it wants told.
func (a *App) startAlert() error {
	o, err := a.incidentOptions()
	if err != nil {
		return err
	}
	o.State, o.Tracer = a.parts.set, a.traces.Tracer("incident")
	assembler, err := incident.New(o)
	if err != nil {
		return err
	}
	a.start(a.standby.alone(part{name: "assemble", run: assembler.Run}))

	t := a.o.Timing
	ao := alerting.Options{
		Store: a.db.Intents(), Update: t.Update, Repair: t.Survey, Logger: a.logger, Registerer: a.registry, Link: a.link,
		Tracer: a.traces.Tracer("alerting"),
	}
	client := alerting.NewClient(alerting.ClientOptions{Timeout: t.Deliver, AllowInsecure: a.cfg.Alerting.AllowInsecure})
	a.cleanup(client.Close)
	var names []string
	for i, r := range a.cfg.Alerting.Receivers {
		n, err := Notifier(r, client)
		if err != nil {
			return fmt.Errorf("receiver %s: %w", r.Name, err)
		}
		names = append(names, r.Name)
		ao.Receivers = append(ao.Receivers, alerting.Receiver{Name: r.Name, MinSeverity: o.Receivers[i].MinSeverity, Notifier: n})
	}
	if ao.Queue, err = riverqueue.New(riverqueue.Options{
		Pool: a.db.Pool(), Receivers: names, Timeout: t.Rescue / 2, Rescue: t.Rescue, Logger: a.logger,
	}); err != nil {
		return err
	}
	alerts, err := alerting.New(ao)
	if err != nil {
		return err
	}
	a.start(part{name: "deliver", run: alerts.Run})
	return nil
}

// link is where people find an incident.
func (a *App) link(_ string, id incident.ID) string {
	base := a.cfg.API.ExternalURL
	if base == "" {
		base = "http://" + a.cfg.API.Listen
	}
	return strings.TrimSuffix(base, "/") + "/incidents/" + id.String()
}

// Notifier makes what tells a receiver, or says what is wrong with it.
func Notifier(r config.Receiver, client *alerting.Client) (alerting.Notifier, error) {
	switch r.Type {
	case "slack":
		return slack.New(slack.Options{URL: r.URL, Client: client})
	case "pagerduty":
		return pagerduty.New(pagerduty.Options{RoutingKey: r.Key, URL: r.URL, Client: client})
	case "webhook":
		return webhook.New(webhook.Options{URL: r.URL, Secrets: []secret.String{r.Key}, Client: client})
	}
	return nil, fmt.Errorf("type %q: want slack, pagerduty or webhook", r.Type)
}
