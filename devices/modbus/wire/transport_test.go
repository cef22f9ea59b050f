package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/modbus/modbustest"
)

// A link that is stopped while it sends does not open its port again to send once more.
func TestStoppedLinkOpensNoPort(t *testing.T) {
	p, err := modbustest.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	port := New(Endpoint{Mode: RTU, Address: p.A, Serial: Serial{Baud: 9600, DataBits: 8, StopBits: 1, Parity: "none"}}, &Unanswered{}, zap.NewNop())
	ctx, stop := context.WithCancel(context.Background())
	if err := port.Open(ctx, time.Second); err != nil {
		t.Fatal(err)
	}
	stop()
	port.Close()
	if err := port.Open(ctx, time.Second); !errors.Is(err, ErrLink) || !errors.Is(err, context.Canceled) || port.IsOpen() {
		t.Errorf("opened: %v", err)
	}
}

// A late reply is dropped also when the port was closed and opened again since its request,
// by the same transport or by the next one.
func TestLateReplyAfterReopening(t *testing.T) {
	late := 1 // number of replies that are held back until another request came
	unit, port := newSlowUnit(t, func() int { late--; return max(late+1, 0) })
	port.Options = Options{Timeout: 50 * time.Millisecond, MaxTimeout: 50 * time.Millisecond}
	if _, err := port.Unit(1).ReadHoldingRegisters(1, 1); !errors.Is(err, ErrTimeout) {
		t.Fatalf("the reply is in time: %v", err)
	}
	port.Close()
	next := New(unit.endpoint, port.unanswered, zap.NewNop())
	if err := next.Open(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	next.Options = Options{Timeout: time.Minute, MaxTimeout: 50 * time.Millisecond}
	got, err := next.Unit(1).ReadHoldingRegisters(2, 1)
	if err != nil || binary.BigEndian.Uint16(got) != 2 || unit.requests.Load() != 3 {
		t.Errorf("second reply %x, %v after %d requests", got, err, unit.requests.Load())
	}
}

// The late reply to a request of the port's last user is dropped, however short the timeout
// of the unit is for which the port was opened.
func TestLateReplyToTheLastUser(t *testing.T) {
	t.Parallel()
	unit, port := newSlowUnit(t, func() int { return 0 })
	port.Options = Options{Timeout: 10 * time.Millisecond, MaxTimeout: 10 * time.Millisecond}
	if _, err := port.Unit(2).ReadHoldingRegisters(0, 1); !errors.Is(err, ErrTimeout) {
		t.Fatalf("unit 2 replies: %v", err)
	}
	sent := make(chan error)
	go func() {
		time.Sleep(100 * time.Millisecond)
		sent <- unit.send(rtuFrame(1, []byte{3, 2, 9, 9}))
	}()
	port.Options = Options{Timeout: time.Minute, MaxTimeout: 2 * time.Second}
	got, err := port.Unit(1).ReadHoldingRegisters(7, 1)
	if err != nil || binary.BigEndian.Uint16(got) != 7 {
		t.Errorf("second reply %x, %v", got, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// Pain 17: no unit replies to a broadcast, and nobody waits for a reply.
func TestBroadcastWaitsForNoReply(t *testing.T) {
	_, port := newSlowUnit(t, func() int { return 1 })
	port.Options = Options{Timeout: time.Hour, MaxTimeout: time.Millisecond, Turnaround: time.Millisecond}
	if _, err := port.Unit(Broadcast).WriteSingleRegister(5, 1234); !errors.Is(err, ErrBroadcast) {
		t.Error(err)
	}
}
