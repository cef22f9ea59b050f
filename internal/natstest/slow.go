package natstest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// SlowLine is a line that is compared in benchmarks.
type SlowLine struct {
	// Rate is of each direction, in bytes per second.
	Rate int
	// Delay is of each direction, Loss the share of segments that are sent again: see Line.Delay.
	Delay time.Duration
	Loss  float64
}

// SlowLines are those of the tables in docs/benchmarks.md: radio, cellular and satellite links. Over
// 9.6 kbit/s with the delay of a satellite nats-server never connects (docs/upstream.md, 27).
func SlowLines() (all []SlowLine) {
	for _, line := range []SlowLine{{Rate: 9_600 / 8}, {Rate: 14_400 / 8, Delay: 300 * time.Millisecond}} {
		for _, rate := range []int{line.Rate, 64_000 / 8, 256_000 / 8} {
			for _, loss := range []float64{0, 0.1} {
				all = append(all, SlowLine{Rate: rate, Delay: line.Delay, Loss: loss})
			}
		}
	}
	return all
}

// String returns the name of a benchmark: rate, round trip and loss.
func (s SlowLine) String() string {
	return fmt.Sprintf("%.1f-kbit/%s/loss-%.0f%%", float64(s.Rate)*8/1000, 2*s.Delay, 100*s.Loss)
}

// Slow makes the line like s. It ends a cut.
func (l *Line) Slow(s SlowLine) {
	l.Delay(s.Delay, s.Loss)
	l.Limit(s.Rate)
	l.Restore()
}

// Plain starts a transfer of so many bytes by TCP alone over a line of its own like s. The returned function
// waits for its end and returns how long it took, without the handshake.
func Plain(t testing.TB, s SlowLine, bytes int) (wait func() (time.Duration, error)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	line := NewLine(t, l.Addr().String())
	line.Slow(s)
	failed := make(chan error, 2)
	var took time.Duration
	go func() {
		defer l.Close()
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write(make([]byte, bytes))
			err = errors.Join(err, c.Close())
		}
		failed <- err
	}()
	go func() {
		c, err := net.Dial("tcp", line.Addr())
		if err != nil {
			failed <- err
			return
		}
		start := time.Now()
		n, err := io.Copy(io.Discard, c)
		took = time.Since(start)
		if err == nil && n != int64(bytes) {
			err = fmt.Errorf("%d of %d bytes arrived", n, bytes)
		}
		failed <- errors.Join(err, c.Close())
	}()
	return func() (time.Duration, error) {
		err := errors.Join(<-failed, <-failed)
		return took, err
	}
}

// Noise returns text that does not compress by more than a quarter.
func Noise(bytes int) string {
	out := make([]byte, bytes*3/4)
	for i := range out {
		out[i] = byte(rand.IntN(256))
	}
	return base64.StdEncoding.EncodeToString(out)
}
