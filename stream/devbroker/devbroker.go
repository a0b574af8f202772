// Package devbroker is the Kafka of `vedette dev`: a broker that speaks the
// Kafka protocol inside our own process and keeps its data in a directory.
//
// It is built on kfake, which calls itself a testing fake. It has one copy of
// the data and holds all of it in memory as well; production wants a real Kafka.
package devbroker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"golang.org/x/sys/unix"
)

var (
	// ErrInUse says that another process has the data directory.
	ErrInUse = errors.New("embedded broker: data directory in use by another process")
	// ErrPort says that the address is taken.
	ErrPort = errors.New("embedded broker: address in use")
)

// Options says where the broker listens and keeps its data.
type Options struct {
	Dir            string        // created if missing; empty: memory only
	Listen         string        // loopback address; port 0 for any; "127.0.0.1:0" if empty
	NoSync         bool          // leave it to the operating system when writes reach the disk
	RetentionEvery time.Duration // how often retention is applied; 1 min if zero
	MinSession     time.Duration // least session timeout that members of groups may ask for; 6 s if zero
	// ListenFunc makes the listener, for tests of connections that fail; net.Listen if nil.
	ListenFunc func(network, address string) (net.Listener, error)
	Logger     *slog.Logger // slog.Default if nil
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	lock    *os.File // referenced for as long as the lock must hold
	stop    chan struct{}
	cancel  context.CancelFunc
	done    sync.WaitGroup
	once    sync.Once
}

// Start opens the data directory and listens.
func Start(o Options) (*Broker, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.RetentionEvery <= 0 {
		o.RetentionEvery = time.Minute
	}
	if o.ListenFunc == nil {
		o.ListenFunc = net.Listen
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("embedded broker: listen address: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("embedded broker: %s is not a loopback address: it authenticates nobody", o.Listen)
	}
	b := &Broker{stop: make(chan struct{})}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("vedette-dev"),
		kfake.WithLogger(logger{o.Logger}),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return o.ListenFunc(network, o.Listen) }),
	}
	if o.MinSession > 0 {
		opts = append(opts, kfake.GroupMinSessionTimeout(o.MinSession))
	}
	if o.Dir != "" {
		if b.lock, err = lock(o.Dir); err != nil {
			return nil, err
		}
		opts = append(opts, kfake.DataDir(o.Dir))
		if !o.NoSync {
			opts = append(opts, kfake.SyncWrites())
		}
	}
	b.cluster, err = kfake.NewCluster(opts...)
	if err != nil {
		b.unlock()
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("%s: %w: stop what listens there or choose another", o.Listen, ErrPort)
		}
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	b.addr = b.cluster.ListenAddrs()[0]
	b.done.Go(func() { b.retain(o.RetentionEvery) })
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	members := watchMembers(b.cluster, b.addr)
	b.done.Go(func() { members.run(ctx) })
	return b, nil
}

// lock keeps two processes from writing the same files.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("embedded broker: data directory %s cannot be written: %w", dir, err)
		}
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
		}
		return nil, fmt.Errorf("embedded broker: lock %s: %w", dir, err)
	}
	return f, nil
}

func (b *Broker) unlock() {
	if b.lock != nil {
		b.lock.Close()
	}
}

// retain applies the topics' retention, which kfake does not do by itself after
// a restart.
func (b *Broker) retain(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-t.C:
			b.cluster.ApplyRetention()
		}
	}
}

// Addr returns the address the broker listens on, host:port.
func (b *Broker) Addr() string { return b.addr }

// Cluster returns the broker itself, for tests that inject faults.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close writes what is not on disk yet, stops listening and gives the data
// directory up.
func (b *Broker) Close() {
	b.once.Do(func() {
		close(b.stop)
		b.cancel()
		b.done.Wait()
		b.cluster.Close()
		b.unlock()
	})
}

// logger passes on what kfake says, warnings and worse.
type logger struct{ to *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.to.Error("embedded broker: " + fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.to.Debug("embedded broker: " + fmt.Sprintf(format, args...))
	}
}
