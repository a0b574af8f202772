package devbroker

import (
	"context"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// members has those leave their groups that cannot do so themselves. kfake gives a
// member no session whose connection was gone when its join was to be answered: it
// would keep the partitions that were shared out to it for ever. A real Kafka lets
// its session expire.
type members struct {
	cluster *kfake.Cluster
	client  *kafka.Client

	mu     sync.Mutex
	groups map[string]*groupMembers
}

type groupMembers struct {
	session time.Duration        // the longest that anybody asked for
	heard   map[string]time.Time // by member
}

func watchMembers(c *kfake.Cluster, addr string) *members {
	m := &members{cluster: c, client: &kafka.Client{Addr: kafka.TCP(addr)}, groups: make(map[string]*groupMembers)}
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat} {
		c.ControlKey(key.Int16(), m.observe)
	}
	return m
}

// observe notes who is heard, and handles nothing.
func (m *members) observe(req kmsg.Request) (kmsg.Response, error, bool) {
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		m.hear(r.Group, r.MemberID, time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
	case *kmsg.SyncGroupRequest:
		m.hear(r.Group, r.MemberID, 0)
	case *kmsg.HeartbeatRequest:
		m.hear(r.Group, r.MemberID, 0)
	}
	return nil, nil, false
}

func (m *members) hear(group, member string, session time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.groups[group]
	if g == nil {
		g = &groupMembers{heard: make(map[string]time.Time)}
		m.groups[group] = g
	}
	g.session = max(g.session, session)
	g.heard[member] = time.Now()
}

// silent returns the members of a group that have not been heard for longer than a
// session and a bit, since they were first seen in a group that is at work.
func (m *members) silent(group string) []string {
	info := m.cluster.GroupInfo(group)
	m.mu.Lock()
	defer m.mu.Unlock()
	if info == nil {
		delete(m.groups, group)
		return nil
	}
	if info.State != "Stable" {
		return nil // one that waits for its join to be answered says nothing
	}
	g, now := m.groups[group], time.Now()
	there := make(map[string]time.Time, len(info.Members))
	var silent []string
	for i := range info.Members {
		id := info.Members[i].MemberID
		heard, ok := g.heard[id]
		if !ok {
			heard = now
		}
		there[id] = heard
		if now.Sub(heard) > g.session+g.session/2 {
			silent = append(silent, id)
		}
	}
	g.heard = there
	return silent
}

// expire has those leave that have fallen silent.
func (m *members) expire(ctx context.Context) {
	m.mu.Lock()
	var groups []string
	for group := range m.groups {
		groups = append(groups, group)
	}
	m.mu.Unlock()
	for _, group := range groups {
		for _, id := range m.silent(group) {
			// Whether it worked shows when it is asked again.
			_, _ = m.client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{GroupID: group, Members: []kafka.LeaveGroupRequestMember{{ID: id}}})
		}
	}
}

func (m *members) run(ctx context.Context) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			m.expire(ctx)
		case <-ctx.Done():
			return
		}
	}
}
