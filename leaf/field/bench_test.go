package field

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/push"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/leaf/field/mqtt"
	"github.com/petiole-io/petiole/streams"
)

// BenchmarkTelemetry measures what a gateway stores durably (sync_interval always): 500
// devices store their next record as soon as the last one is stored. One operation is one
// sample.
func BenchmarkTelemetry(b *testing.B) {
	for _, shape := range []struct {
		name          string
		devices, tags int
		limit         int64
		mqtt          bool
	}{
		{"500 devices, 30 samples a record", 500, 30, 8 << 30, false},
		{"500 devices, 30 samples a record, oldest dropped", 500, 30, 32 << 20, false},
		{"500 devices, 30 samples a record, over MQTT too", 500, 30, 8 << 30, true},
		{"500 devices, 1 sample a record", 500, 1, 8 << 30, false},
		{"1 device, 30 samples a record", 1, 30, 8 << 30, false},
		{"1 device, 1 sample a record", 1, 1, 8 << 30, false},
	} {
		b.Run(shape.name, func(b *testing.B) {
			s := startServer(b, natstest.LeafConf(b, "plant-a", "127.0.0.1:1"))
			js := s.streams(b, streams.LeafLimits{TelemetryBytes: shape.limit})
			records := newGroupWriter(js, streams.SiteTelemetry)
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() { records.run(ctx) })
			defer running.Wait()
			defer cancel()
			out := &sink{node: "plant-a-1", js: js, telemetry: records, pusher: push.New(push.Config{})}
			if shape.mqtt {
				out.mqtt = mqtt.New(mqtt.Config{Node: "plant-a-1", Conn: js.Conn(), Log: zap.NewNop()})
			}
			before := cpuTime(b)
			b.ResetTimer()
			var producers sync.WaitGroup
			each := max(1, b.N/shape.tags/shape.devices)
			for d := range shape.devices {
				producers.Go(func() { produce(b, out, d, each, shape.tags) })
			}
			producers.Wait()
			b.StopTimer()
			samples := float64(each * shape.devices * shape.tags)
			b.ReportMetric(samples/b.Elapsed().Seconds(), "samples/s")
			b.ReportMetric(float64(records.counts.commits.Load())/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(records.counts.bytes.Load())/samples, "payloadB/sample")
			b.ReportMetric(float64(sizeOf(b, filepath.Join(s.store, "jetstream", "$G", "streams", streams.SiteTelemetry, "msgs")))/samples, "diskB/sample")
			b.ReportMetric((cpuTime(b)-before).Seconds()*1e6/samples, "cpu-us/sample")
		})
	}
}

func produce(b *testing.B, s *sink, device, records, tags int) {
	if s.mqtt != nil {
		follow(s, device, tags)
	}
	ref := devices.Ref{Namespace: "default", Name: fmt.Sprintf("press-%03d", device), UID: "6f1b2a9e-6a0e-4a55-9b0e-0c1d2e3f4a5b"}
	epoch := time.Now().UnixMilli()
	for n := range records {
		block := &devices.Samples{Device: ref, Node: "plant-a-1", RecordNumber: devices.RecordNumber{Epoch: epoch, Sequence: uint64(n + 1)}}
		for tag := range tags {
			block.Samples = append(block.Samples, devices.Sample{
				Property: fmt.Sprintf("temperature%02d", tag), Value: devices.Float32(float32(math.Sin(float64(n*tag))) * 100),
				Quality: devices.Good, Time: epoch + int64(n)*1000,
			})
		}
		if err := s.Samples(b.Context(), block); err != nil {
			b.Error(err)
			return
		}
	}
}

// follow adds the device to the MQTT gateway.
func follow(s *sink, device, tags int) {
	d := &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("press-%03d", device)}}
	for tag := range tags {
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: fmt.Sprintf("temperature%02d", tag)})
	}
	s.setDevice(d)
}

func sizeOf(b *testing.B, dir string) (bytes int64) {
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return bytes
}

// cpuTime returns the CPU time of the process, which includes the server.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
