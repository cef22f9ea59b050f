package streams

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
)

func batchOf(n int) []*nats.Msg {
	msgs := make([]*nats.Msg, n)
	for i := range msgs {
		msgs[i] = nats.NewMsg("s")
	}
	return msgs
}

func TestABatchIsMarkedAndUnmarked(t *testing.T) {
	msgs := batchOf(3)
	markBatch(msgs)
	id := msgs[0].Header.Get(headerBatchID)
	for i, want := range []string{"1", "2", "3"} {
		h := msgs[i].Header
		if id == "" || h.Get(headerBatchID) != id || h.Get(headerBatchSeq) != want || (h.Get(headerBatchCommit) == "1") != (i == 2) {
			t.Errorf("message %d of a batch has the headers %v", i+1, h)
		}
	}
	again := []*nats.Msg{msgs[2], msgs[1]}
	if markBatch(again); again[0].Header.Get(headerBatchID) == id || again[0].Header.Get(headerBatchCommit) != "" || again[0].Header.Get(headerBatchSeq) != "1" {
		t.Errorf("the first message of another batch has the headers %v", again[0].Header)
	}
	if markBatch(msgs[2:]); len(msgs[2].Header) != 0 {
		t.Errorf("a message alone has the headers %v", msgs[2].Header)
	}
}

func TestReadAck(t *testing.T) {
	ack, err := readAck([]byte(`{"stream":"S","seq":4,"domain":"hub","count":3}`))
	if want := (Ack{Stream: "S", Domain: "hub", Count: 3}); err != nil || ack != want {
		t.Errorf("readAck = %+v, %v; want %+v", ack, err, want)
	}
	var no *Refusal
	if _, err := readAck([]byte(`{"error":{"err_code":10201,"description":"duplicate"},"stream":"S"}`)); !errors.As(err, &no) || no.Code != CodeBatchDuplicate {
		t.Errorf("a refusal is read as %v", err)
	}
	for _, unclear := range []string{"", "{}", `{"seq":4}`, "[]"} {
		if ack, err := readAck([]byte(unclear)); err == nil || errors.As(err, &no) {
			t.Errorf("%q is read as %+v, %v", unclear, ack, err)
		}
	}
}

// FuzzReadAck decodes anything as an acknowledgement with a stream, or as an error.
func FuzzReadAck(f *testing.F) {
	f.Add([]byte(`{"stream":"S","seq":4,"domain":"hub","count":3}`))
	f.Add([]byte(`{"error":{"err_code":10201,"description":"duplicate"},"stream":"S"}`))
	f.Add([]byte(`{"error":null,"stream":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if ack, err := readAck(data); (err == nil) != (ack.Stream != "") {
			t.Errorf("%q: %+v, %v", data, ack, err)
		}
	})
}
