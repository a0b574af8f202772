package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// AppenderOptions says how log records are appended.
type AppenderOptions struct {
	Topic           string           // TopicLogs if empty
	DeadLetterTopic string           // TopicDeadLetter if empty
	Partitions      int              // of Topic
	DeadPartitions  int              // of DeadLetterTopic; 1 if zero
	Compression     Compression      // snappy if empty
	Timeout         time.Duration    // of one produce request; 5 s if zero
	Attempts        int              // how often a batch is sent before its Append fails; 4 if zero
	BatchBytes      int              // uncompressed size at which a batch is closed; 1 MiB if zero
	TickEvery       time.Duration    // silence after which a partition gets a tick; 1 s if zero
	Now             func() time.Time // time.Now if nil
	Metrics         *Metrics         // may be nil
	Logger          *slog.Logger     // slog.Default if nil
}

// LogAppender is how records get onto vedette.logs: in large batches, spread
// over the partitions, acknowledged by every in-sync replica before Append
// returns. It is safe for concurrent use: what callers append to a partition
// while a request is outstanding goes together into the next.
//
// Delivery is at least once: a batch whose outcome is unknown is sent again, and
// detection counts events by their ids. Close it after its callers have ended.
type LogAppender struct {
	o     AppenderOptions
	logs  *Producer
	dead  *Producer
	parts atomic.Pointer[[]*appendPartition]
	widen sync.Mutex
	turn  atomic.Uint32
	dturn atomic.Uint32

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	writes sync.WaitGroup
}

type appendPartition struct {
	lead    chan struct{} // token of whoever writes for all that wait
	mu      sync.Mutex
	waiting []*appendChunk
	wrote   time.Time // last acknowledged append
}

// appendChunk is what one Append has for one partition, at most one batch.
type appendChunk struct {
	recs []Record
	size int
	done chan error // buffered
}

// NewLogAppender makes an appender.
func (c *Client) NewLogAppender(o AppenderOptions) (*LogAppender, error) {
	if o.Partitions <= 0 {
		return nil, errors.New("log appender: no partitions")
	}
	if o.Topic == "" {
		o.Topic = TopicLogs
	}
	if o.DeadLetterTopic == "" {
		o.DeadLetterTopic = TopicDeadLetter
	}
	o.DeadPartitions = max(1, o.DeadPartitions)
	if o.Attempts <= 0 {
		o.Attempts = 4
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = 1 << 20
	}
	if o.TickEvery <= 0 {
		o.TickEvery = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a := &LogAppender{o: o}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	for _, t := range []struct {
		topic string
		p     **Producer
	}{{o.Topic, &a.logs}, {o.DeadLetterTopic, &a.dead}} {
		p, err := c.NewProducer(ProducerOptions{
			Topic: t.topic, Compression: o.Compression, Timeout: o.Timeout, Now: o.Now, Metrics: o.Metrics,
		})
		if err != nil {
			return nil, fmt.Errorf("log appender: %w", err)
		}
		*t.p = p
	}
	a.parts.Store(new([]*appendPartition))
	a.Widen(o.Partitions)
	return a, nil
}

// Widen tells that the topic has so many partitions; what is appended, broadcast and
// ticked from now on goes to the new ones as well. They never become fewer. It may
// be called at any time.
func (a *LogAppender) Widen(partitions int) {
	a.widen.Lock()
	defer a.widen.Unlock()
	parts := slices.Clone(*a.parts.Load())
	for len(parts) < partitions {
		parts = append(parts, &appendPartition{lead: make(chan struct{}, 1)})
	}
	a.parts.Store(&parts)
}

// Partitions is how many partitions it knows of.
func (a *LogAppender) Partitions() int { return len(*a.parts.Load()) }

// Append writes msgs and returns once all are acknowledged. On an error any of
// them may have been written: the caller appends all of them again. Values are
// not referred to after Append has returned nil; after an error they may be for
// as long as a request lasts.
//
// ErrTooLarge and what EncodeLog refuses are told before anything is written. If
// ctx has a span, that gets one within it, which the messages name.
func (a *LogAppender) Append(ctx context.Context, msgs []LogMessage) (err error) {
	if len(msgs) == 0 {
		return nil
	}
	ctx, s := span(ctx, "append", a.o.Topic, len(msgs))
	defer func() { end(s, err) }()
	recs := make([]Record, len(msgs))
	for i := range msgs {
		var err error
		if recs[i], err = EncodeLog(&msgs[i]); err != nil {
			return fmt.Errorf("append message %d of %d: %w", i+1, len(msgs), err)
		}
	}
	parts := *a.parts.Load()
	// Few records stay together, many are spread.
	total := 0
	for i := range recs {
		total += recordSize(&recs[i])
	}
	limit := min(a.o.BatchBytes, max(64<<10, total/len(parts)+1))
	type placed struct {
		part  *appendPartition
		n     int32
		chunk *appendChunk
	}
	var chunks []placed
	for len(recs) > 0 {
		n, size := 0, 0
		for n < len(recs) && (n == 0 || size+recordSize(&recs[n]) <= limit) {
			size += recordSize(&recs[n])
			n++
		}
		i := int32(a.turn.Add(1) % uint32(len(parts)))
		chunk := WithTrace(ctx, recs[:n:n])
		chunks = append(chunks, placed{parts[i], i, &appendChunk{recs: chunk, size: size, done: make(chan error, 1)}})
		recs = recs[n:]
	}
	if len(chunks) == 1 {
		return a.write(ctx, chunks[0].n, chunks[0].chunk)
	}
	// One goroutine a partition, so that each partition gets its chunks in order.
	byPart := make(map[int32][]*appendChunk)
	for _, c := range chunks {
		byPart[c.n] = append(byPart[c.n], c.chunk)
	}
	errs := make(chan error, len(byPart))
	for n, cs := range byPart {
		go func() {
			for _, c := range cs {
				if err := a.write(ctx, n, c); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range byPart {
		if e := <-errs; err == nil {
			err = e
		}
	}
	return err
}

// Broadcast writes m to every partition and returns once all have it.
func (a *LogAppender) Broadcast(ctx context.Context, m LogMessage) error {
	return a.BroadcastFrom(ctx, 0, m)
}

// BroadcastFrom writes m to every partition from the given one on.
func (a *LogAppender) BroadcastFrom(ctx context.Context, first int32, m LogMessage) error {
	r, err := EncodeLog(&m)
	if err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	return a.each(first, func(n int32) error {
		return a.write(ctx, n, &appendChunk{recs: []Record{r}, size: recordSize(&r), done: make(chan error, 1)})
	})
}

// each calls f for every partition from the first given at once and returns the
// first error.
func (a *LogAppender) each(first int32, f func(n int32) error) error {
	end := int32(a.Partitions())
	errs := make(chan error, max(0, end-first))
	for n := first; n < end; n++ {
		go func() { errs <- f(n) }()
	}
	var err error
	for range max(0, end-first) {
		if e := <-errs; err == nil {
			err = e
		}
	}
	return err
}

// Close fails what is outstanding and waits for it to end.
func (a *LogAppender) Close() {
	a.cancel()
	a.writes.Wait()
}

// write hands c over and waits until it is acknowledged. Whoever finds nobody
// writing to the partition starts to write for all that wait.
func (a *LogAppender) write(ctx context.Context, n int32, c *appendChunk) error {
	p := (*a.parts.Load())[n]
	p.mu.Lock()
	p.waiting = append(p.waiting, c)
	p.mu.Unlock()
	select {
	case p.lead <- struct{}{}:
		a.writes.Go(func() {
			defer func() { <-p.lead }()
			for a.writeBatch(n, p) {
			}
		})
	case err := <-c.done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		p.mu.Lock()
		p.waiting = slices.DeleteFunc(p.waiting, func(w *appendChunk) bool { return w == c })
		p.mu.Unlock()
		return fmt.Errorf("append to %s/%d: %w", a.o.Topic, n, ctx.Err())
	}
}

// writeBatch sends the oldest chunks that fit in one batch. It returns false if
// there were none.
func (a *LogAppender) writeBatch(n int32, p *appendPartition) bool {
	p.mu.Lock()
	k, size := 0, 0
	for k < len(p.waiting) && (k == 0 || size+p.waiting[k].size <= a.o.BatchBytes) {
		size += p.waiting[k].size
		k++
	}
	chunks := slices.Clone(p.waiting[:k])
	p.waiting = slices.Delete(p.waiting, 0, k)
	p.mu.Unlock()
	if k == 0 {
		return false
	}
	recs := chunks[0].recs
	for _, c := range chunks[1:] {
		recs = append(recs[:len(recs):len(recs)], c.recs...)
	}
	err := a.send(n, recs)
	if err == nil {
		p.mu.Lock()
		p.wrote = a.o.Now()
		p.mu.Unlock()
	}
	for _, c := range chunks {
		c.done <- err
	}
	return true
}

// send writes a batch, again if need be. The batch may hold records of several
// callers, so none of their contexts ends it.
func (a *LogAppender) send(n int32, recs []Record) error {
	backoff := 50 * time.Millisecond
	for attempt := 1; ; attempt++ {
		_, err := a.logs.Produce(a.ctx, n, recs)
		if err == nil || attempt == a.o.Attempts || !Retriable(err) {
			return err
		}
		select {
		case <-time.After(backoff):
		case <-a.ctx.Done():
			return err
		}
		backoff *= 4
	}
}

// DeadLetter writes d to the dead-letter topic.
func (a *LogAppender) DeadLetter(ctx context.Context, d DeadLetter) error {
	return a.DeadLetters(ctx, []DeadLetter{d})
}

// DeadLetters writes ds to the dead-letter topic. On an error any of them may
// have been written.
func (a *LogAppender) DeadLetters(ctx context.Context, ds []DeadLetter) error {
	for len(ds) > 0 {
		var recs []Record
		for size := 0; len(recs) < len(ds); {
			r := EncodeDeadLetter(&ds[len(recs)])
			if size += recordSize(&r); len(recs) > 0 && size > a.o.BatchBytes {
				break
			}
			recs = append(recs, r)
		}
		n := int32(a.dturn.Add(1) % uint32(a.o.DeadPartitions))
		if _, err := a.dead.Produce(ctx, n, recs); err != nil {
			return fmt.Errorf("dead letter: %w", err)
		}
		ds = ds[len(recs):]
	}
	return nil
}

// Run writes a tick to every partition that this process has left silent for a
// second, so that the clock that is in the log goes on. It returns when ctx is
// done. A tick that fails is tried again; Kafka being away stops the clock,
// which is right: nobody knows then what was appended.
func (a *LogAppender) Run(ctx context.Context) error {
	t := time.NewTicker(a.o.TickEvery / 4)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		err := a.tick(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			a.o.Logger.Warn("ticks cannot be written", "err", err)
		}
		if err == nil && failing {
			a.o.Logger.Info("ticks are written again")
		}
		failing = err != nil
	}
}

func (a *LogAppender) tick(ctx context.Context) error {
	now := a.o.Now()
	return a.each(0, func(n int32) error {
		p := (*a.parts.Load())[n]
		p.mu.Lock()
		silent := now.Sub(p.wrote) >= a.o.TickEvery && len(p.waiting) == 0
		p.mu.Unlock()
		if !silent {
			return nil
		}
		r, err := EncodeLog(&LogMessage{Kind: KindTick})
		if err != nil {
			return err
		}
		if err := a.write(ctx, n, &appendChunk{recs: []Record{r}, size: recordSize(&r), done: make(chan error, 1)}); err != nil {
			return err
		}
		a.o.Metrics.Ticks.Inc()
		return nil
	})
}
