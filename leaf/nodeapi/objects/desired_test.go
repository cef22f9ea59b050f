package objects

import (
	"testing"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/order"
)

func TestOrderWithinAnEpoch(t *testing.T) {
	msg := func(op streams.Op, uid, version, epoch string) streams.Message {
		return streams.Message{Op: op, UID: uid, Version: version, Epoch: epoch}
	}
	live := Desired{UID: "u1", Stamp: order.Stamp{Epoch: "e1", Version: "100"}}
	gone := Desired{UID: "u1", Stamp: order.Stamp{Epoch: "e1", Version: "100"}, deleted: true}
	for _, c := range []struct {
		name string
		have Desired
		m    streams.Message
		want bool
	}{
		{"newer", live, msg(streams.OpPut, "u1", "101", "e1"), true},
		{"longer number", live, msg(streams.OpPut, "u1", "1000", "e1"), true},
		{"older", live, msg(streams.OpPut, "u1", "99", "e1"), false},
		{"the same again", live, msg(streams.OpPut, "u1", "100", "e1"), false},
		{"the same version of a slice, for other nodes", live, streams.Message{Ref: streams.Ref{Group: "discovery.k8s.io", Resource: "endpointslices"}, Op: streams.OpPut, UID: "u1", Version: "100", Epoch: "e1"}, true},
		{"recreated", live, msg(streams.OpPut, "u2", "101", "e1"), true},
		{"predecessor", live, msg(streams.OpPut, "u0", "50", "e1"), false},
		{"another epoch has its own versions", live, msg(streams.OpPut, "u1", "5", "e2"), true},
		{"not a number", live, msg(streams.OpPut, "u1", "", "e1"), true},
		{"deleted", live, msg(streams.OpDelete, "u1", "101", "e1"), true},
		{"no longer wanted, unchanged", live, msg(streams.OpDelete, "u1", "100", "e1"), true},
		{"late tombstone of the predecessor", live, msg(streams.OpDelete, "u0", "99", "e1"), false},
		{"tombstone of a successor that never came", live, msg(streams.OpDelete, "u2", "102", "e1"), true},
		{"tombstone of a successor that never came, new epoch", live, msg(streams.OpDelete, "u2", "5", "e2"), true},
		{"resurrection", gone, msg(streams.OpPut, "u1", "99", "e1"), false},
		{"wanted again, unchanged", gone, msg(streams.OpPut, "u1", "100", "e1"), true},
		{"recreated after delete", gone, msg(streams.OpPut, "u2", "101", "e1"), true},
		{"deleted twice", gone, msg(streams.OpDelete, "u1", "100", "e1"), false},
	} {
		if got := c.have.supersededBy(c.m); got != c.want {
			t.Errorf("%s: yields = %v, want %v", c.name, got, c.want)
		}
	}
}
