package app

import (
	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/config"
)

// Notifier makes what tells a receiver, or says what is wrong with it.
func Notifier(r config.Receiver, client *alerting.Client) (alerting.Notifier, error) {
	return notifier(r, client)
}
