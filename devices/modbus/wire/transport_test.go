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
	go func() { // a unit that is late with its first reply
		defer close(done)
		request := make([]byte, 8)
		for i := uint16(1); ; i++ {
			if _, err := io.ReadFull(far, request); err != nil {
				return
			}
			if i == 1 {
				time.Sleep(150 * time.Millisecond)
			}
			reply, err := rtuUnit{1}.Encode(&modbus.ProtocolDataUnit{FunctionCode: 3, Data: binary.BigEndian.AppendUint16([]byte{2}, i)})
			if err != nil {
				t.Error(err)
			}
			if _, err := far.Write(reply); err != nil {
				return
			}
		}
	}()
	defer func() { _ = far.Close(); <-done; _ = p.Close() }()
	port := New(Endpoint{Mode: RTU, Address: p.A, Serial: serial}, zap.NewNop())
	port.Options = Options{Timeout: 100 * time.Millisecond, MaxTimeout: 100 * time.Millisecond, Grace: 50 * time.Millisecond}
	open := func() {
		t.Helper()
		if err := port.Open(t.Context(), port.Timeout); err != nil {
			t.Fatal(err)
		}
	}
	open()
	defer port.Close()
	if _, err := port.Unit(1).ReadHoldingRegisters(0, 1); !errors.Is(err, ErrTimeout) {
		t.Fatalf("the reply is in time: %v", err)
	}
	port.Close()
	open()
	if got, err := port.Unit(1).ReadHoldingRegisters(0, 1); err != nil || binary.BigEndian.Uint16(got) != 2 {
		t.Errorf("second reply %x, %v", got, err)
	}
}
