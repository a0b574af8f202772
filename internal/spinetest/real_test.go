package spinetest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/internal/kafkatest"
)

// TestRealKafkaProcessesShare kills real processes whose groups a real Kafka
// coordinates: the others take their partitions, and find the same.
func TestRealKafkaProcessesShare(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{})
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	ctx := within(t, 3*time.Minute)
	s, db, c, w := shareSiteOn(t, ctx, k.Brokers(), 4, 700, seed)
	processesShare(t, ctx, s, db, c, rand.New(rand.NewPCG(seed, 8)), write(ctx, w, 15*time.Second), patient(), 5*time.Second)
}

// TestRealKafkaPartitionsAdded adds partitions to vedette.logs on a real Kafka.
func TestRealKafkaPartitionsAdded(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{})
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	ctx := within(t, 3*time.Minute)
	s, db, c, w := shareSiteOn(t, ctx, k.Brokers(), addedFirst, addedSteps, seed)
	partitionsAdded(t, ctx, s, db, c, w, patient())
}
