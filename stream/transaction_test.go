package stream_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/vedette-sec/vedette/stream"
)

// writeTransaction writes one record in a transaction of its own, which leaves
// a marker behind it.
func writeTransaction(t *testing.T, k *kafka.Client, topic, value string) {
	t.Helper()
	id, err := k.InitProducerID(ctx(t), &kafka.InitProducerIDRequest{TransactionalID: "tx", TransactionTimeoutMs: 10000, ProducerID: -1, ProducerEpoch: -1})
	if err != nil || id.Error != nil {
		t.Fatal(err, id)
	}
	add, err := k.AddPartitionsToTxn(ctx(t), &kafka.AddPartitionsToTxnRequest{
		TransactionalID: "tx", ProducerID: id.Producer.ProducerID, ProducerEpoch: id.Producer.ProducerEpoch,
		Topics: map[string][]kafka.AddPartitionToTxn{topic: {{Partition: 0}}},
	})
	if err != nil {
		t.Fatal(err, add)
	}
	produceTransactional(t, k, topic, value, int64(id.Producer.ProducerID), int16(id.Producer.ProducerEpoch))
	end, err := k.EndTxn(ctx(t), &kafka.EndTxnRequest{
		TransactionalID: "tx", ProducerID: id.Producer.ProducerID, ProducerEpoch: id.Producer.ProducerEpoch, Committed: true,
	})
	if err != nil || end.Error != nil {
		t.Fatal(err, end)
	}
}

// produceTransactional sends a batch that names its producer and its transaction.
func produceTransactional(t *testing.T, k *kafka.Client, topic, value string, producer int64, epoch int16) {
	t.Helper()
	b, err := stream.EncodeBatch([]stream.Record{{Value: []byte(value)}}, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	be := binary.BigEndian
	be.PutUint16(b[4+21:], 1<<4) // attributes: transactional
	be.PutUint64(b[4+43:], uint64(producer))
	be.PutUint16(b[4+51:], uint16(epoch))
	be.PutUint32(b[4+53:], 0) // sequence
	be.PutUint32(b[4+17:], crc32.Checksum(b[4+21:], crc32.MakeTable(crc32.Castagnoli)))
	res, err := k.RawProduce(ctx(t), &kafka.RawProduceRequest{
		Topic: topic, RequiredAcks: kafka.RequireAll, TransactionalID: "tx",
		RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(b)},
	})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		t.Fatal(err)
	}
}
