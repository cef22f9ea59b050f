package wire

import (
	"context"
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
