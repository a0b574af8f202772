package replay_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/replay"
)

// Standard input that stays open and silent does not hold an interrupted replay.
func TestInterrupted(t *testing.T) {
	silent, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := replay.Run(ctx, replay.Options{Rules: testRules(t), Paths: []string{replay.Stdin}, Stdin: silent})
		done <- err
	}()
	if _, err := io.WriteString(w, quietRecord+"\n"); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still reading")
	}
}

const quietRecord = `{"eventVersion":"1.09","eventTime":"2026-03-02T09:14:07Z","eventSource":"ec2.amazonaws.com","eventName":"DescribeInstances","awsRegion":"eu-west-1","sourceIPAddress":"203.0.113.24","eventID":"e0","userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/a"}}`
