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
// takes since the line is back, which share of the line the objects have while the link is up, and of
// what TCP alone carries over such a line, and how long a pod that is created beside them takes.
// BenchmarkKubeletLine in bridge/bridgetest has the same job for a stock kubelet.
func BenchmarkLine(b *testing.B) {
	for _, line := range natstest.SlowLines() {
		b.Run(line.String(), func(b *testing.B) { benchLine(b, line) })
	}
}

func benchLine(b *testing.B, line natstest.SlowLine) {
	s, ctx := newSite(b)
	s.start(b, ctx)
	respond(b, s)
	s.up(b)
	s.cut(b)
	const objects = 40
	size := 40 * line.Rate / objects // 40 s of the line
	for i := range objects {
		putDesired(b, ctx, s, fmt.Sprintf("cm-%d", i), noise(size))
	}
	changes, moved := gather(b, s, "petiole_leaf_link_changes_total"), s.line.Moved(natstest.Downward)
	plain := natstest.Plain(b, line, objects*size)
	back := time.Now()
	s.line.Slow(line)
	polltest.Within(b, 60*time.Second, "link up", func() bool { up, _, _ := s.link.State(); return up })
	start := time.Now()
	polltest.Within(b, 3*time.Minute, "the backlog is under way", func() bool { return backlog(b, ctx, s) < objects*3/4 || time.Since(start) > 10*time.Second })
	late := pod("late", 2)
	put(b, ctx, s, late)
	created := time.Now()
	polltest.Within(b, 3*time.Minute, "the pod", func() bool { return versionAt(b, ctx, s, late) == "put 2" })
	urgent := time.Since(created)
	polltest.Within(b, 10*time.Minute, "the backlog has arrived", func() bool { return backlog(b, ctx, s) == 0 })
	took := time.Since(start)
	alone, err := plain()
	if err != nil {
		b.Fatal(err)
	}
	ideal := float64(objects*size) / float64(line.Rate)
	b.ReportMetric(time.Since(back).Seconds(), "s")
	b.ReportMetric(100*ideal/took.Seconds(), "%line")
	b.ReportMetric(100*ideal/alone.Seconds(), "%line-of-tcp")
	b.ReportMetric(100*alone.Seconds()/took.Seconds(), "%tcp")
	b.ReportMetric(100*float64(s.line.Moved(natstest.Downward)-moved)/float64(objects*size)-100, "%overhead")
	b.ReportMetric(urgent.Seconds(), "urgent-s")
	b.ReportMetric(gather(b, s, "petiole_leaf_link_changes_total")-changes-1, "drops")
}

// BenchmarkIdle measures what an idle leaf without a kubelet and without TLS sends and receives in a
// day, with the headers of IP and TCP, and how much of it are messages of which kind, before compression.
func BenchmarkIdle(b *testing.B) {
	for _, profile := range []string{profileDefault, profileMetered} {
		b.Run(profile, func(b *testing.B) {
			s, _ := newSiteAt(b, `ping_interval: "2m"`)
			s.cfg.Link.Profile = profile
			respond(b, s)
			w := startWhole(b, b.Context(), s) // a site's own ends before the time is over
			polltest.Eventually(b, "the link is up", func() bool { return linkBytes(b, w)["wire"] > 0 })
			time.Sleep(20 * time.Second) // until the session has begun
			before, start := linkBytes(b, w), time.Now()
			time.Sleep(idleTime)
			after := linkBytes(b, w)
			if after["wire"] <= before["wire"] {
				b.Fatalf("the link has carried nothing in %v: %v before, %v after", idleTime, before, after)
			}
			for kind, n := range after {
				b.ReportMetric((n-before[kind])/time.Since(start).Seconds()*86400/1e6, kind+"-MB/day")
			}
		})
	}
}

// idleTime has several heartbeats of each kind. What the metered profile repeats after half an hour or
// six may be missing.
const idleTime = 10 * time.Minute

// linkBytes returns what the link has carried: by the kernel's count ("wire"), and the messages by kind.
func linkBytes(b *testing.B, w *whole) map[string]float64 {
	b.Helper()
	out := map[string]float64{}
	_, text := w.get(b, "/metrics")
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		kind := "wire"
		if _, labels, ok := strings.Cut(name, `petiole_leaf_link_bytes_total{`); ok {
			_, kind, _ = strings.Cut(labels, `kind="`)
			kind = strings.TrimSuffix(kind, `"`)
		} else if !strings.HasPrefix(name, "petiole_leaf_link_wire_bytes_total{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			b.Fatal(err)
		}
		out[kind] += n
	}
	return out
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
