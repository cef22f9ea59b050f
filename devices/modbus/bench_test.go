package modbus

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// BenchmarkTCPFloats reads 1,000 contiguous floats again and again through driver and
// link; the slave, in the same process, is not ours.
func BenchmarkTCPFloats(b *testing.B) {
	s := newSlave(b)
	def := devices.Definition{Config: devices.Settings{"address": s.addr}}
	for i := range 1000 {
		def.Points = append(def.Points, devices.Point{Name: strconv.Itoa(i), Type: "FLOAT", Cycle: time.Millisecond,
			Visitor: devices.Settings{"register": "HoldingRegister", "offset": 2 * i, "dataType": "float32"}})
	}
	session, problems, err := New(nil).Open(def)
	if err != nil || len(problems) > 0 {
		b.Fatal(err, problems)
	}
	ctx, cancel := context.WithCancel(context.Background())
	values, done := 0, make(chan struct{})
	b.ResetTimer()
	go func() {
		defer close(done)
		_ = session.Run(ctx, func(batch devices.Batch) {
			if values += len(batch.Readings); values >= 1000*b.N {
				cancel()
			}
		})
	}()
	<-done
	b.ReportMetric(float64(values)/b.Elapsed().Seconds(), "values/s")
}
