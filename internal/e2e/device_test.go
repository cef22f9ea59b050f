package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/slave"
	"github.com/petiole-io/petiole/streams"
)

// TestDevice: a reported value reaches the DeviceStatus, a desired value
// the register.
func TestDevice(t *testing.T) {
	site := lab.Sites[0]
	ns := newTank(t, site, "device")
	status, err := deviceStatus(t.Context(), ns, "tank")
	must(t, err)
	if o := status.OwnerReferences; len(o) != 1 || o[0].Kind != "Device" || o[0].Name != "tank" {
		t.Errorf("the DeviceStatus is owned by %+v, want the Device", o)
	}
	if status.Status.State != "online" && status.Status.State != "ok" {
		t.Errorf("state is %q, want online", status.Status.State)
	}

	t.Run("reported", func(t *testing.T) {
		for _, value := range []uint16{1234, 32767, 0} {
			must(t, site.Slave().Write(t.Context(), levelRegister, value))
			took := eventually(t, 20*time.Second, "the new level is reported", reports(ns, "tank", "level", strconv.Itoa(int(value))))
			measured(t, "register changed → DeviceStatus (polled each 0.2 s)", took, 2*time.Second)
		}
	})
	t.Run("desired", func(t *testing.T) {
		for i := range 5 {
			value := uint16(100 + i)
			desire(t, ns, "tank", strconv.Itoa(int(value)))
			took := eventually(t, 20*time.Second, "the register has the desired value", registerIs(site, setpointRegister, value))
			measured(t, "desired value → register", took, time.Second)
			eventually(t, 20*time.Second, "the DeviceStatus says that it was applied", observed(ns, "tank", "setpoint", strconv.Itoa(int(value))))
		}
	})
}

// TestDeviceWhileCut: desired values changed five times while cut end in one write of
// the newest; the samples taken meanwhile all arrive, in order. The cut is a silent one,
// as KubeEdge's figures were measured with.
func TestDeviceWhileCut(t *testing.T) {
	site := lab.Sites[0]
	ns := newTank(t, site, "devicecut")
	desire(t, ns, "tank", "10")
	eventually(t, 20*time.Second, "the first desired value is applied", observed(ns, "tank", "setpoint", "10"))

	p := &plant{site: site, ns: ns}
	p.cutSilently(t)
	cutAt := time.Now()
	for i := 1; i <= 5; i++ {
		desire(t, ns, "tank", strconv.Itoa(20+i))
	}
	must(t, site.Slave().Write(t.Context(), levelRegister, 4242))
	// The cut lasts until the hub has noticed it and the site has taken a few dozen samples.
	eventually(t, time.Minute, "the Site shows that it is not connected", siteConnected(site, false))
	must(t, registerIs(site, setpointRegister, 10)(t.Context()))
	if w := got[[]slave.Write](t)(site.Slave().Writes(setpointRegister, cutAt)); len(w) != 0 {
		t.Errorf("while cut the slave got the writes %+v", w)
	}

	healAt := time.Now()
	must(t, lab.Heal(t.Context(), site))
	took := timed(t, healAt, convergeLimit, map[string]condition{
		"newest desired value in the register": registerIs(site, setpointRegister, 25),
		"newest desired value acknowledged":    observed(ns, "tank", "setpoint", "25"),
		"level of the time of the cut":         reports(ns, "tank", "level", "4242"),
		"samples of the time of the cut": func(ctx context.Context) error {
			s, err := readSamples(ctx, site, ns, "tank")
			if err == nil && s.newest.Before(healAt) {
				err = fmt.Errorf("the newest sample is of %s", s.newest.Format(time.RFC3339))
			}
			return err
		},
	})
	measured(t, "heal → desired value written, samples there", last(took), convergeGoal)

	writes := got[[]slave.Write](t)(site.Slave().Writes(setpointRegister, cutAt))
	if len(writes) != 1 || len(writes[0].Values) != 1 || writes[0].Values[0] != 25 {
		t.Errorf("the slave got the writes %+v, want 25, once", writes)
	}
	s := got[sampled](t)(readSamples(t.Context(), site, ns, "tank"))
	during := 0
	for _, at := range s.times {
		if at.After(cutAt) && at.Before(healAt) {
			during++
		}
	}
	// Each 0.2 s there is a batch; half of them allows for a busy machine.
	if want := int(healAt.Sub(cutAt) / (200 * time.Millisecond) / 2); during < want {
		t.Errorf("%d samples of uptime were taken in the %s of the cut, want at least %d", during, healAt.Sub(cutAt).Round(time.Second), want)
	}
	t.Logf("%d batches in order and without a gap, %d samples of uptime from the %s of the cut", s.batches, during, healAt.Sub(cutAt).Round(time.Second))
}

// batch is devices.Samples as somebody reads it who has only its JSON.
type batch struct {
	Epoch    int64  `json:"epoch"`
	Sequence uint64 `json:"sequence"`
	Dropped  uint64 `json:"dropped"`
	Samples  []struct {
		Property string          `json:"property"`
		Value    json.RawMessage `json:"value"`
		Time     int64           `json:"time"`
	} `json:"samples"`
}

// sampled holds the samples of one device at the hub.
type sampled struct {
	batches int
	times   []time.Time // of the property uptime
	newest  time.Time
}

// readSamples reads a device's samples at the hub, in the order of the stream. A gap,
// a repetition, a step back in time, or a dropped batch is ErrNever.
func readSamples(ctx context.Context, site *rig.Site, namespace, name string) (sampled, error) {
	stream, err := lab.JS.Stream(ctx, streams.Telemetry(site.Name))
	if err != nil {
		return sampled{}, err
	}
	var out sampled
	var was batch
	err = rig.EachMessage(ctx, stream, streams.TelemetrySubject(site.Name, "sample", namespace, name), 1, func(m rig.StoredMessage) error {
		var b batch
		if err := json.Unmarshal(m.Data, &b); err != nil {
			return fmt.Errorf("%w: %w", rig.ErrNever, err)
		}
		next := b.Epoch == was.Epoch && b.Sequence == was.Sequence+1 || b.Epoch > was.Epoch && b.Sequence == 1
		if !next || b.Dropped != 0 {
			return fmt.Errorf("%w: batch %d of epoch %d (dropped %d) follows batch %d of epoch %d", rig.ErrNever, b.Sequence, b.Epoch, b.Dropped, was.Sequence, was.Epoch)
		}
		was = b
		out.batches++
		for _, s := range b.Samples {
			at := time.UnixMilli(s.Time)
			if s.Property != "uptime" {
				continue
			}
			if n := len(out.times); n > 0 && at.Before(out.times[n-1]) {
				return fmt.Errorf("%w: a sample of %s follows one of %s", rig.ErrNever, at, out.times[n-1])
			}
			out.times, out.newest = append(out.times, at), at
		}
		return nil
	})
	return out, err
}
