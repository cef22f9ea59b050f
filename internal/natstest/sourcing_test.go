package natstest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// TestDurableSourcing proves the configuration that everything stands on: what the
// hub stores reaches the leaf through the site's account, the hub's consumer counts
// what is pending while the line is cut, and a site sees nothing of another's.
func TestDurableSourcing(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	hub := StartHub(t, "plant-a", "plant-b")
	js, err := jetstream.NewWithDomain(hub.Connect(t, "bridge"), streams.HubDomain)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, js, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	for _, site := range []string{"plant-a", "plant-b"} {
		if err := streams.EnsureConsumer(ctx, js, streams.Desired, streams.SiteConsumer(site)); err != nil {
			t.Fatal(err)
		}
	}
	line := NewLine(t, hub.LeafAddr())
	leaf := startServer(t, LeafConf(t, "plant-a", line.Addr()))
	t.Cleanup(func() { leaf.Shutdown(); leaf.WaitForShutdown() })
	ljs, err := jetstream.New(connect(t, leaf))
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, ljs, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Fatal(err)
	}
	put := func(site, name, value string) {
		t.Helper()
		m := streams.Message{Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}, Op: streams.OpPut,
			Object: []byte(fmt.Sprintf(`{"metadata":{"name":%q},"data":{"v":%q}}`, name, value))}
		if _, err := streams.Put(ctx, js, streams.DesiredSubject(site, m.Ref), m); err != nil {
			t.Fatal(err)
		}
	}
	msgs := func() uint64 {
		s, err := ljs.Stream(ctx, streams.SiteDesired)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	wait := func(what string, cond func() bool) {
		t.Helper()
		for start := time.Now(); !cond(); time.Sleep(10 * time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s: not within 10 s", what)
			}
		}
	}
	pending := func() int {
		c, err := js.PushConsumer(ctx, streams.Desired, "plant-a")
		if err != nil {
			t.Fatal(err)
		}
		i := c.CachedInfo()
		return int(i.NumPending) + i.NumAckPending
	}
	put("plant-a", "one", "1")
	put("plant-b", "other", "1")
	wait("first object at the leaf", func() bool { return msgs() == 1 })
	line.Cut()
	for i := range 50 {
		put("plant-a", "one", fmt.Sprint(i))
		put("plant-a", "two", fmt.Sprint(i))
	}
	wait("backlog of two objects", func() bool { return pending() == 2 })
	line.Heal()
	wait("both objects at the leaf", func() bool { return msgs() == 2 })
	wait("empty backlog", func() bool { return pending() == 0 })
}
