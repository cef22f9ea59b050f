package host

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/streams/order"
)

// An older state of a device is not written, neither while a newer one is operated
// nor after a restart that finds only the older one (I30).
func TestOlderDeviceIsNotWritten(t *testing.T) {
	b := newBench(t)
	b.online()
	b.desire("1")
	b.eventually("written", func() bool { return b.driver.written() == "a=1" })
	old := b.device.DeepCopy()
	b.desire("2")
	b.eventually("written", func() bool { return b.driver.written() == "a=1 a=2" && b.sink.ack("a") == devices.Applied })
	send := func(version int) {
		t.Helper()
		if err := b.host.ApplyDevice(context.Background(), old, strconv.Itoa(version)); err != nil {
			t.Fatal(err)
		}
	}
	send(b.rev - 1)
	if n := b.host.Stats().StaleObjects; n != 1 {
		t.Fatal(n)
	}
	b.stop()
	newest := b.rev
	b.start()
	if err := b.host.ApplyModel(context.Background(), b.model, "1"); err != nil {
		t.Fatal(err)
	}
	send(newest - 1)
	b.eventually("session", b.running)
	b.driver.read()
	b.eventually("it is read", func() bool { return b.reported("a").Value == "2" && b.events(devices.ReasonStale) == 1 })
	if r := b.command(devices.Command{ID: "1", Properties: map[string]string{"a": "9"}}); r.Ack != devices.Failed || r.Reason != devices.ReasonStale {
		t.Fatalf("%+v", r)
	}
	if got := b.driver.written(); got != "a=1 a=2" {
		t.Fatal(got)
	}
	b.rev = newest
	b.desire("3") // a newer one ends it
	b.eventually("written", func() bool { return b.driver.written() == "a=1 a=2 a=3" })
}

// The state of another store is not older, whatever its numbers.
func TestAnotherStoreIsNotOlder(t *testing.T) {
	b := newBench(t)
	b.apply()
	for i, epoch := range []string{"e1", "e2", "e2"} {
		b.device.Spec.Properties[0].Desired = &v1beta1.TwinProperty{Value: strconv.Itoa(i + 1)}
		if err := b.host.ApplyDeviceFrom(context.Background(), epoch, b.device.DeepCopy(), strconv.Itoa(100-i)); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			b.eventually("written", func() bool { return strings.HasSuffix(b.driver.written(), "a="+strconv.Itoa(i+1)) })
		}
	}
	if n := b.host.Stats().StaleObjects; n != 1 || b.driver.written() != "a=1 a=2" {
		t.Fatal(n, b.driver.written())
	}
}

// Older is an order: nothing is older than itself, and of two states of one store not
// each is older than the other.
func TestOlderIsAnOrder(t *testing.T) {
	origins := rapid.Custom(func(t *rapid.T) origin {
		return origin{
			Stamp: order.Stamp{
				Epoch:   rapid.SampledFrom([]string{"", "e", "f"}).Draw(t, "epoch"),
				Version: rapid.SampledFrom([]string{"", "x", "9", "10", "11"}).Draw(t, "version"),
			},
			Generation: rapid.Int64Range(0, 3).Draw(t, "generation"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := origins.Draw(t, "a"), origins.Draw(t, "b")
		if a.older(a) || a.older(b) && b.older(a) {
			t.Fatalf("%+v %+v", a, b)
		}
		if a.Epoch != "" && b.Epoch != "" && a.Epoch != b.Epoch && a.older(b) {
			t.Fatalf("%+v %+v", a, b)
		}
		// What is not written down again after b fences as b does within its generation.
		if a.coveredBy(b) && (a.Generation != b.Generation || a.Epoch != b.Epoch) {
			t.Fatalf("%+v %+v", a, b)
		}
	})
	version := func(v string, generation int64) origin { return origin{order.Stamp{Version: v}, generation} }
	if !version("9", 0).older(version("10", 0)) || !version("11", 1).older(version("10", 2)) {
		t.Fatal("order")
	}
}
