package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/goburrow/modbus"
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
	port := New(Endpoint{Mode: RTU, Address: p.A, Serial: Serial{Baud: 9600, DataBits: 8, StopBits: 1, Parity: "none"}}, zap.NewNop())
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

// A late reply is dropped also when the port was closed and opened again since its request.
func TestLateReplyAfterReopening(t *testing.T) {
	port := newLatePort(t, 0)
	port.Options = Options{Timeout: 100 * time.Millisecond, MaxTimeout: 100 * time.Millisecond, Grace: 50 * time.Millisecond}
	if _, err := port.Unit(1).ReadHoldingRegisters(0, 1); !errors.Is(err, ErrTimeout) {
		t.Fatalf("the reply is in time: %v", err)
	}
	port.Close()
	if err := port.Open(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if got, err := port.Unit(1).ReadHoldingRegisters(0, 1); err != nil || binary.BigEndian.Uint16(got) != 2 {
		t.Errorf("second reply %x, %v", got, err)
	}
}

// The late reply to a request of the port's last user is dropped, however short the timeout
// of the unit is for which the port was opened.
func TestLateReplyToTheLastUser(t *testing.T) {
	port := newLatePort(t, 1)
	port.Options = Options{Timeout: 10 * time.Millisecond, MaxTimeout: 10 * time.Millisecond}
	if _, err := port.Unit(2).ReadHoldingRegisters(0, 1); !errors.Is(err, ErrTimeout) {
		t.Fatalf("unit 2 replies: %v", err)
	}
	port.Options = Options{Timeout: 300 * time.Millisecond, MaxTimeout: 300 * time.Millisecond}
	if got, err := port.Unit(1).ReadHoldingRegisters(0, 1); err != nil || binary.BigEndian.Uint16(got) != 2 {
		t.Errorf("second reply %x, %v", got, err)
	}
}

// newLatePort opens a port with unit 1 behind it, whose replies are 1, 2, 3 and so on. The
// first is late. The last user of the port has sent the first requests, pending in number.
func newLatePort(t *testing.T, pending int) *Transport {
	t.Helper()
	p, err := modbustest.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	serial := Serial{Baud: 115200, DataBits: 8, StopBits: 1, Parity: "none"}
	far, err := openSerial(p.B, serial)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		request := make([]byte, 8)
		for i := 1; ; i++ {
			for i > pending {
				if _, err := io.ReadFull(far, request); err != nil {
					return
				}
				if request[0] == 1 {
					break
				}
			}
			if i == 1 {
				time.Sleep(150 * time.Millisecond)
			}
			reply, err := rtuUnit{1}.Encode(&modbus.ProtocolDataUnit{FunctionCode: 3, Data: binary.BigEndian.AppendUint16([]byte{2}, uint16(i))})
			if err != nil {
				t.Error(err)
			}
			if _, err := far.Write(reply); err != nil {
				return
			}
		}
	}()
	port := New(Endpoint{Mode: RTU, Address: p.A, Serial: serial}, zap.NewNop())
	if err := port.Open(t.Context(), 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close(); _ = far.Close(); <-done; _ = p.Close() })
	return port
}
