package leaf

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// BenchmarkSamples measures what a sample costs on the wire, TCP's payload in both directions:
// records of one device with so many properties, made while the link was down. A record has one sample
// of each, or the samples of ten seconds, as with devices.gather.
func BenchmarkSamples(b *testing.B) {
	for _, profile := range []string{profileDefault, profileMetered} {
		for _, c := range []struct{ properties, gathered int }{{1, 1}, {2, 1}, {10, 1}, {1, 10}, {2, 10}} {
			b.Run(fmt.Sprintf("%s/%d-properties/%d-s", profile, c.properties, c.gathered), func(b *testing.B) {
				s, ctx := newSite(b)
				s.cfg.Link.Profile = profile
				s.start(b, ctx)
				s.up(b)
				s.cut(b)
				const records = 2048
				for i := range records {
					if _, err := s.js.PublishAsync(streams.LocalTelemetrySubject("sample", "default", "pump"), samples(i, c.properties, c.gathered), jetstream.WithStallWait(10*time.Second)); err != nil {
						b.Fatal(err)
					}
				}
				<-s.js.PublishAsyncComplete()
				before := s.line.Moved(natstest.Upward) + s.line.Moved(natstest.Downward)
				s.line.Heal()
				polltest.Eventually(b, "the records are at the hub", func() bool { return arrived(b, ctx, s) >= records })
				wire := s.line.Moved(natstest.Upward) + s.line.Moved(natstest.Downward) - before
				each := float64(c.properties * c.gathered)
				b.ReportMetric(float64(wire)/(records*each), "wire-B/sample")
				b.ReportMetric(float64(len(samples(0, c.properties, c.gathered)))/each, "json-B/sample")
			})
		}
	}
}

// BenchmarkLine measures a backlog on slow lines, TestSlowLineBringsABacklog as a table: how long it
// takes, which share of the line the objects have, and how long a pod that is created beside them
// takes.
func BenchmarkLine(b *testing.B) {
	for _, rate := range []int{96 * kbit / 10, 64 * kbit, 256 * kbit} {
		for _, delay := range []time.Duration{0, 300 * time.Millisecond} {
			for _, loss := range []float64{0, 0.1} {
				b.Run(fmt.Sprintf("%.1f-kbit/%s/loss-%.0f%%", float64(rate)*8/1000, 2*delay, 100*loss), func(b *testing.B) { benchLine(b, rate, delay, loss) })
			}
		}
	}
}

func benchLine(b *testing.B, rate int, delay time.Duration, loss float64) {
	s, ctx := newSite(b)
	s.start(b, ctx)
	respond(b, s)
	s.up(b)
	s.cut(b)
	const objects = 40
	size := 40 * rate / objects // 40 s of the line
	for i := range objects {
		putDesired(b, ctx, s, fmt.Sprintf("cm-%d", i), noise(size))
	}
	s.line.Delay(delay, loss)
	changes := gather(b, s, "petiole_leaf_link_changes_total")
	s.slow(b, rate)
	start, urgent := time.Now(), make(chan time.Duration, 1)
	polltest.Within(b, 3*time.Minute, "the backlog is under way", func() bool { return backlog(b, ctx, s) < objects*3/4 || time.Since(start) > 10*time.Second })
	late := pod("late", 2)
	put(b, ctx, s, late)
	created := time.Now()
	polltest.Within(b, 3*time.Minute, "the pod", func() bool {
		if len(urgent) == 0 && versionAt(b, ctx, s, late) == "put 2" {
			urgent <- time.Since(created)
		}
		return len(urgent) > 0
	})
	polltest.Within(b, 10*time.Minute, "the backlog has arrived", func() bool { return backlog(b, ctx, s) == 0 })
	took := time.Since(start)
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(100*float64(objects*size)/float64(rate)/took.Seconds(), "%goodput")
	b.ReportMetric((<-urgent).Seconds(), "urgent-s")
	b.ReportMetric(gather(b, s, "petiole_leaf_link_changes_total")-changes-1, "drops")
}

// BenchmarkIdle measures what an idle leaf without a kubelet and without TLS sends and receives in a
// day, with the headers of IP and TCP.
func BenchmarkIdle(b *testing.B) {
	for _, profile := range []string{profileDefault, profileMetered} {
		b.Run(profile, func(b *testing.B) {
			s, ctx := newSiteAt(b, `ping_interval: "2m"`)
			s.cfg.Link.Profile = profile
			respond(b, s)
			w := startWhole(b, ctx, s)
			bytes := func() (sum float64) {
				_, text := w.get(b, "/metrics")
				for line := range strings.Lines(text) {
					if rest, ok := strings.CutPrefix(line, "petiole_leaf_link_wire_bytes_total{"); ok {
						n, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.Index(rest, "}")+1:]), 64)
						if err != nil {
							b.Fatal(err)
						}
						sum += n
					}
				}
				return sum
			}
			polltest.Eventually(b, "the link is up", func() bool { return bytes() > 0 })
			time.Sleep(20 * time.Second) // until the session has begun
			before, start := bytes(), time.Now()
			time.Sleep(4 * time.Minute)
			b.ReportMetric((bytes()-before)/time.Since(start).Seconds()*86400/1e6, "MB/day")
		})
	}
}

// samples is what the device worker stores for so many cycles of a second.
func samples(i, properties, cycles int) []byte {
	out := devices.Samples{
		Device: devices.Ref{Namespace: "default", Name: "pump", UID: "6b1f2c1e-7a51-4d0e-9f86-0c1d2e3f4a5b"}, Node: "plant-a-1",
		RecordNumber: devices.RecordNumber{Epoch: 1_795_700_000_000, Sequence: uint64(i + 1)},
	}
	for n := range properties * cycles {
		out.Samples = append(out.Samples, devices.Sample{
			Property: fmt.Sprint("p", n%properties), Value: devices.Float(math.Round(200+50*rand.Float64()) / 10), Quality: devices.Good,
			Time: 1_795_700_000_000 + int64(i*cycles+n/properties)*1000 + int64(rand.IntN(20)),
		})
	}
	data, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	return data
}
