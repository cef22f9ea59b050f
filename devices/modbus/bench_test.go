package modbus

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/modbustest"
)

// BenchmarkTCPFloats reads 1,000 contiguous floats again and again through driver and
// link; the slave, in the same process, is not ours. Every value is checked.
func BenchmarkTCPFloats(b *testing.B) {
	for _, window := range []int{1, 4} {
		b.Run("window="+strconv.Itoa(window), func(b *testing.B) {
			s := benchSlave(b, modbustest.Config{Layout: modbustest.Floats})
			floats(b, s, devices.Settings{"address": s.Addr(), "window": window}, 1000, 2)
		})
	}
}

// BenchmarkTCPSparse reads 200 floats, every tenth register, some holes illegal.
func BenchmarkTCPSparse(b *testing.B) {
	s := benchSlave(b, modbustest.Config{Layout: modbustest.Floats, Illegal: func(_ byte, at uint16) bool { return at%200 == 17 }})
	floats(b, s, devices.Settings{"address": s.Addr()}, 200, 10)
}

func floats(b *testing.B, s *modbustest.Slave, config devices.Settings, n, step int) {
	points := make([]devices.Point, n)
	for i := range points {
		points[i] = benchPoint(i*step, "FLOAT", "float32")
	}
	wrong := 0
	check := func(batch devices.Batch) int {
		for _, r := range batch.Readings {
			f, _ := r.Value.Float64()
			count, ok := modbustest.FloatCount(1, uint16(r.Point*step), f)
			if r.Quality != devices.Good || !ok || modbustest.FloatAge(s.Count(), count) > 256 {
				wrong++
			}
		}
		return len(batch.Readings)
	}
	cpu := processor()
	total := measure(b, n, config, points, check)
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "values/s")
	b.ReportMetric(float64(processor()-cpu)/float64(total), "cpu-ns/value")
	if wrong > 0 && step == 2 {
		b.Errorf("%d wrong values", wrong)
	}
}

// measure runs a device of unit 1 until it has read b.N times n values. It begins with the
// second batch: before the first one the driver listens to a serial line.
func measure(b *testing.B, n int, config devices.Settings, points []devices.Point, count func(devices.Batch) int) int {
	session, problems, err := New(nil).Open(devices.Definition{Config: config, Points: points})
	if err != nil || len(problems) > 0 {
		b.Fatal(err, problems)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	total, opened := 0, false
	_ = session.Run(ctx, func(batch devices.Batch) {
		if !opened {
			opened = true
			b.ResetTimer()
			return
		}
		if total += count(batch); total >= n*b.N {
			cancel()
		}
	})
	b.StopTimer()
	return total
}

func benchPoint(at int, typ v1beta1.PropertyType, data string) devices.Point {
	return devices.Point{
		Name: strconv.Itoa(at), Type: typ, Cycle: time.Microsecond, Writable: true,
		Visitor: devices.Settings{"register": "HoldingRegister", "offset": at, "datatype": data},
	}
}

func benchSlave(t testing.TB, c modbustest.Config) *modbustest.Slave {
	t.Helper()
	s, err := modbustest.NewSlave(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func benchLine(t testing.TB, baud int, dead func(byte) bool) *modbustest.Line {
	t.Helper()
	l, err := modbustest.NewLine(modbustest.LineConfig{Baud: baud, Slave: benchSlave(t, modbustest.Config{}).Addr(), Dead: dead})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// processor is the processor time of the process, slaves included.
func processor() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkRTU reads blocks of 125 registers over lines that take their time; the
// efficiency is that against the wire limit.
func BenchmarkRTU(b *testing.B) {
	for _, baud := range []int{9600, 19200, 38400, 57600, 115200} {
		for _, n := range []int{125, 1} {
			b.Run(fmt.Sprintf("baud=%d/registers=%d", baud, n), func(b *testing.B) {
				l := benchLine(b, baud, nil)
				points := make([]devices.Point, n)
				for i := range points {
					points[i] = benchPoint(i, "INT", "uint16")
				}
				config := devices.Settings{"serialname": l.Path(), "baudrate": baud, "parity": "even"}
				wrong := 0
				total := measure(b, n, config, points, func(batch devices.Batch) int {
					wrong += wrongWords(batch, 1)
					return len(batch.Readings)
				})
				cycles := float64(total) / float64(n)
				b.ReportMetric(100*cycles*l.Ideal(n).Seconds()/b.Elapsed().Seconds(), "%efficiency")
				if wrong > 0 || l.Early() > 0 {
					b.Errorf("%d wrong values, %d early requests", wrong, l.Early())
				}
			})
		}
	}
}

// wrongWords counts what is not the word of its address, or torn across a block.
func wrongWords(batch devices.Batch, unit byte) (wrong int) {
	var first uint16
	for i, r := range batch.Readings {
		f, _ := r.Value.Float64()
		count := modbustest.WordCount(unit, uint16(r.Point), uint16(f))
		if i == 0 {
			first = count
		}
		if r.Quality != devices.Good || count != first {
			wrong++
		}
	}
	return wrong
}

// BenchmarkDeadUnits polls 32 units of one line, none or two of which are dead, as fast
// as it goes. The cycle is that of a living unit, against the sum of the living units'
// wire time.
func BenchmarkDeadUnits(b *testing.B) {
	b.Run("dead=0", func(b *testing.B) { deadUnits(b, func(byte) bool { return false }) })
	b.Run("dead=2", func(b *testing.B) { deadUnits(b, func(unit byte) bool { return unit == 7 || unit == 21 }) })
}

func deadUnits(b *testing.B, dead func(byte) bool) {
	const units, registers = 32, 20
	var probes atomic.Int64
	l := benchLine(b, 19200, func(unit byte) bool {
		if dead(unit) {
			probes.Add(1)
		}
		return dead(unit)
	})
	d := New(nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var polls atomic.Int64
	var wg sync.WaitGroup
	alive := 0
	for unit := 1; unit <= units; unit++ {
		def := devices.Definition{Config: devices.Settings{"serialname": l.Path(), "baudrate": 19200, "parity": "even", "unitid": unit}}
		for i := range registers {
			def.Points = append(def.Points, benchPoint(i, "INT", "uint16"))
		}
		session, _, err := d.Open(def)
		if err != nil {
			b.Fatal(err)
		}
		if !dead(byte(unit)) {
			alive++
		}
		wg.Go(func() {
			_ = session.Run(ctx, func(batch devices.Batch) {
				if batch.Reachable {
					polls.Add(1)
				}
			})
		})
	}
	ideal := time.Duration(alive) * l.Ideal(registers)
	time.Sleep(10 * time.Second) // the dead are known
	b.ResetTimer()
	begin, probed := polls.Load(), probes.Load()
	for polls.Load() < begin+int64(b.N*alive) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	cycles := float64(polls.Load()-begin) / float64(alive)
	b.ReportMetric(b.Elapsed().Seconds()/cycles/ideal.Seconds(), "x-ideal")
	b.ReportMetric(float64(probes.Load()-probed), "probes")
	cancel()
	wg.Wait()
}

// BenchmarkWrites writes ten times a second while 1,000 floats are polled without
// pause. A write is three transactions: read, write, read back.
func BenchmarkWrites(b *testing.B) {
	s := benchSlave(b, modbustest.Config{Layout: modbustest.Floats})
	def := devices.Definition{Config: devices.Settings{"address": s.Addr()}}
	for i := range 1000 {
		def.Points = append(def.Points, benchPoint(2*i, "FLOAT", "float32"))
	}
	session, _, err := New(nil).Open(def)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	started := make(chan struct{})
	var once sync.Once
	wg.Go(func() { _ = session.Run(ctx, func(devices.Batch) { once.Do(func() { close(started) }) }) })
	<-started
	var took []time.Duration
	b.ResetTimer()
	for i := range b.N {
		begin := time.Now()
		if _, err := session.Write(ctx, 500, strconv.Itoa(i)); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		time.Sleep(100*time.Millisecond - time.Since(begin))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
	cancel()
	wg.Wait()
}
