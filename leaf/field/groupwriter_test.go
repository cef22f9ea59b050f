package field

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/push"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// plant is a number of devices that store records as the outboxes of devices do: one after
// another, each until it is stored.
type plant struct {
	sink *sink
	// stored is the sequence up to which the records of each device are acknowledged.
	stored   []atomic.Uint64
	failures atomic.Uint64
	ended    sync.WaitGroup
	end      context.CancelFunc
}

func startPlant(t *testing.T, js jetstream.JetStream, size int) *plant {
	t.Helper()
	return startPlantOn(t, newGroupWriter(js, streams.SiteTelemetry), size)
}

func startPlantOn(t *testing.T, records *groupWriter, size int) *plant {
	t.Helper()
	p := &plant{sink: &sink{node: "plant-a-1", js: records.js, telemetry: records, pusher: push.New(push.Config{})}, stored: make([]atomic.Uint64, size)}
	recording, stop := context.WithCancel(context.Background())
	p.ended.Go(func() { records.run(recording) })
	ctx, cancel := context.WithCancel(context.Background())
	var producers sync.WaitGroup
	for d := range size {
		producers.Go(func() { p.produce(ctx, d) })
	}
	p.end = sync.OnceFunc(func() {
		cancel()
		producers.Wait()
		stop()
		p.ended.Wait()
	})
	t.Cleanup(p.end)
	return p
}

func (p *plant) produce(ctx context.Context, device int) {
	for seq := uint64(1); ctx.Err() == nil; seq++ {
		block := &devices.Samples{
			Device: devices.Ref{Namespace: "default", Name: fmt.Sprint("press-", device)}, RecordNumber: devices.RecordNumber{Epoch: 7, Sequence: seq},
			Samples: []devices.Sample{{Property: "pressure", Value: devices.Uint(seq), Quality: devices.Good, Time: int64(seq)}},
		}
		for p.sink.Samples(ctx, block) != nil {
			p.failures.Add(1)
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		p.stored[device].Store(seq)
	}
}

func (p *plant) total() (n uint64) {
	for i := range p.stored {
		n += p.stored[i].Load()
	}
	return n
}

// verify reads SITE_TELEMETRY: the acknowledged records of each device are there, in order,
// without a gap and once. At most one more record is there, which was in progress at the
// end.
func (p *plant) verify(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	stream, err := js.Stream(t.Context(), streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	c, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	found := make([]uint64, len(p.stored))
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := messages.Next(jetstream.NextMaxWait(10 * time.Second))
		if err != nil {
			t.Fatalf("message %d: %v", seq, err)
		}
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream != seq {
			t.Fatalf("message %d: got %+v instead; %v", seq, meta, err)
		}
		var device int
		if _, err := fmt.Sscanf(m.Subject(), "local.telemetry.sample.default.press-%d", &device); err != nil {
			t.Fatalf("subject %q: %v", m.Subject(), err)
		}
		_, sequence := recordNumber(m.Data())
		if sequence != found[device]+1 {
			t.Fatalf("device %d: sequence %d follows %d", device, sequence, found[device])
		}
		found[device] = sequence
	}
	for d := range p.stored {
		if acked := p.stored[d].Load(); found[d] < acked || found[d] > acked+1 {
			t.Errorf("device %d: %d records are stored, %d are acknowledged", d, found[d], acked)
		}
	}
}

// TestRecordsAreStoredOnceDespiteLostConnections cuts the connection to the server repeatedly
// while commits are in progress, so that acknowledgements are lost.
func TestRecordsAreStoredOnceDespiteLostConnections(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	inside := s.streams(t, streams.LeafLimits{})
	line := natstest.NewLine(t, fmt.Sprintf("127.0.0.1:%d", s.port))
	p := startPlant(t, s.connect(t, "nats://"+line.Addr(), nats.ReconnectBufSize(-1)), 40)
	for range 12 {
		before := p.total()
		polltest.Eventually(t, "records after a cut", func() bool { return p.total() > before+200 })
		line.Cut()
		failed := p.failures.Load()
		polltest.Eventually(t, "a failure after a cut", func() bool { return p.failures.Load() > failed })
		line.Heal()
	}
	p.end()
	p.verify(t, inside)
	t.Logf("%d records in %d commits, %d refused attempts", p.total(), p.sink.telemetry.counts.commits.Load(), p.failures.Load())
}

// TestRejectedRecordsAreRetried makes the stream reject records beyond a limit: the devices
// get the error and continue when there is room again.
func TestRejectedRecordsAreRetried(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	js := s.streams(t, streams.LeafLimits{})
	stream, err := js.Stream(t.Context(), streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	limited := stream.CachedInfo().Config
	limited.Discard, limited.MaxBytes = jetstream.DiscardNew, 64<<10
	if _, err := js.UpdateStream(t.Context(), limited); err != nil {
		t.Fatal(err)
	}
	p := startPlant(t, js, 20)
	polltest.Eventually(t, "the limit", func() bool { return p.failures.Load() > 100 })
	full := p.total()
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != full {
		t.Errorf("%d records are stored, %d are acknowledged; %v", info.State.Msgs, full, err)
	}
	limited.MaxBytes = 64 << 20
	if _, err := js.UpdateStream(t.Context(), limited); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "records after the limit", func() bool { return p.total() > full+1000 })
	p.end()
	p.verify(t, js)
}

// TestOneRecordDoesNotBlockOthers stores a record that the stream always rejects among others.
func TestOneRecordDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	js := s.streams(t, streams.LeafLimits{})
	stream, err := js.Stream(t.Context(), streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	limited := stream.CachedInfo().Config
	limited.MaxMsgSize = 4096
	if _, err := js.UpdateStream(t.Context(), limited); err != nil {
		t.Fatal(err)
	}
	p := startPlant(t, js, 10)
	large := &nats.Msg{Subject: streams.LocalTelemetrySubject(kindSample, "default", "large"), Header: nats.Header{}, Data: make([]byte, 5000)}
	for range 20 {
		before := p.total()
		if err := p.sink.telemetry.store(t.Context(), &record{msg: large, epoch: 7, sequence: 1}); !errors.As(err, new(*streams.Refusal)) {
			t.Fatalf("a record beyond the limit: %v, want a refusal", err)
		}
		polltest.Eventually(t, "others", func() bool { return p.total() > before })
	}
	p.end()
	p.verify(t, js)
}

// TestFullDisk fills the disk of the server: no record that is not on disk is acknowledged,
// and after a restart with free space all records are stored, in order and once.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a small file system and needs root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 22<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.Replace(string(text), fmt.Sprintf("store_dir: %q", filepath.Join(filepath.Dir(conf), "js")),
		fmt.Sprintf("max_file_store: 1Gb, store_dir: %q", filepath.Join(dir, "js")), 1)
	if err := os.WriteFile(conf, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, conf)
	s.streams(t, streams.LeafLimits{TelemetryBytes: 256 << 20})
	outside := s.connect(t, fmt.Sprintf("nats://127.0.0.1:%d", s.port), nats.ReconnectBufSize(-1))
	records := newGroupWriter(outside, streams.SiteTelemetry)
	records.wait = 300 * time.Millisecond // it passes twice: a stream that could not write does not answer
	p := startPlantOn(t, records, 20)
	// A stream that could not write answers nobody until its server is started again.
	polltest.Eventually(t, "a full disk", func() bool {
		var disk syscall.Statfs_t
		if err := syscall.Statfs(dir, &disk); err != nil {
			t.Fatal(err)
		}
		return disk.Bavail == 0 && p.failures.Load() >= 20
	})
	full := p.total()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.start(t)
	polltest.Eventually(t, "records after the restart", func() bool { return p.total() > full+1000 })
	p.end()
	p.verify(t, outside)
	t.Logf("%d records before the disk was full, %d at the end", full, p.total())
}

// TestSingleRecordIsOneMessage expects plain messages with the documented content, and one
// commit for each record of a single device.
func TestSingleRecordIsOneMessage(t *testing.T) {
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	js := s.streams(t, streams.LeafLimits{})
	p := startPlant(t, js, 1)
	polltest.Eventually(t, "records", func() bool { return p.total() > 20 })
	p.end()
	p.verify(t, js)
	if c := &p.sink.telemetry.counts; c.commits.Load() != c.records.Load() {
		t.Errorf("%d commits for %d records of one device", c.commits.Load(), c.records.Load())
	}
	stream, err := js.Stream(t.Context(), streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"device":{"namespace":"default","name":"press-0"},"epoch":7,"sequence":1,"samples":[{"property":"pressure","value":1,"quality":"good","time":1}]}`
	if string(m.Data) != want {
		t.Errorf("stored: %s; want %s", m.Data, want)
	}
}

// TestCommitsArePaced stores records that come one after the other, as those of devices do that are read
// at their own times: they share commits although each could be stored at once.
func TestCommitsArePaced(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	records := newGroupWriter(s.streams(t, streams.LeafLimits{}), streams.SiteTelemetry)
	ctx, stop := context.WithCancel(t.Context())
	var running, storing sync.WaitGroup
	running.Go(func() { records.run(ctx) })
	out := &sink{node: "plant-a-1", js: records.js, telemetry: records, pusher: push.New(push.Config{})}
	const size, rounds, every = 100, 10, 200 * time.Millisecond
	for d := range size {
		storing.Go(func() {
			time.Sleep(every / size * time.Duration(d))
			for n := range uint64(rounds) {
				record := &devices.Samples{Device: devices.Ref{Namespace: "default", Name: fmt.Sprint("press-", d)}, RecordNumber: devices.RecordNumber{Epoch: 7, Sequence: n + 1}}
				if err := out.Samples(t.Context(), record); err != nil {
					t.Error(err)
				}
				time.Sleep(every)
			}
		})
	}
	storing.Wait()
	stop()
	running.Wait()
	stored, commits := records.counts.records.Load(), records.counts.commits.Load()
	if stored != size*rounds || commits > stored/2 {
		t.Errorf("%d records in %d commits", stored, commits)
	}
}

// TestStatusesShareCommits reports the status of many devices concurrently. A status has no
// number: the newest of each device is kept.
func TestStatusesShareCommits(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	js := s.streams(t, streams.LeafLimits{})
	stream, err := js.Stream(t.Context(), streams.SiteReported)
	if err != nil {
		t.Fatal(err)
	}
	for _, together := range []bool{false, true} {
		cfg := stream.CachedInfo().Config
		cfg.AllowAtomicPublish = together
		if stream, err = js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		reports := newGroupWriter(js, streams.SiteReported)
		if err := reports.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running, reporting sync.WaitGroup
		running.Go(func() { reports.run(ctx) })
		out := &sink{node: "plant-a-1", js: js, reported: reports}
		const size, rounds = 50, 20
		for d := range size {
			reporting.Go(func() {
				for n := range rounds {
					status := &v1beta1.DeviceStatus{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("press-", d)}}
					status.Status.State = fmt.Sprint(n)
					if err := out.Status(t.Context(), devices.Ref{Namespace: "default", Name: status.Name}, status); err != nil {
						t.Error(err)
					}
				}
			})
		}
		reporting.Wait()
		stop()
		running.Wait()
		records, commits := reports.counts.records.Load(), reports.counts.commits.Load()
		if records != size*rounds || together != (commits < records/2) {
			t.Errorf("together %t: %d reports in %d commits", together, records, commits)
		}
		for d := range size {
			m, err := stream.GetLastMsgForSubject(t.Context(), streams.LocalReportedSubject(streams.Ref{
				Node: "plant-a-1", Group: v1beta1.GroupName, Resource: "devicestatuses", Namespace: "default", Name: fmt.Sprint("press-", d),
			}))
			if err != nil || !strings.Contains(string(m.Data), fmt.Sprintf(`"state":"%d"`, rounds-1)) {
				t.Fatalf("the newest report of device %d: %v", d, err)
			}
			last, err := out.LastStatus(t.Context(), devices.Ref{Namespace: "default", Name: fmt.Sprint("press-", d)})
			if err != nil || last == nil || last.Status.State != fmt.Sprint(rounds-1) {
				t.Fatalf("the last status of device %d: %+v %v", d, last, err)
			}
		}
	}
}

// TestLastStatus reads a status that is stored in parts, and finds none of a device that has
// not reported.
func TestLastStatus(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.LeafConf(t, "plant-a", "127.0.0.1:1"))
	js := s.streams(t, streams.LeafLimits{})
	out := &sink{node: "plant-a-1", js: js}
	ref := devices.Ref{Namespace: "default", Name: "large"}
	if last, err := out.LastStatus(t.Context(), ref); last != nil || err != nil {
		t.Fatal(last, err)
	}
	status := &v1beta1.DeviceStatus{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "large"}}
	status.Status.State = strings.Repeat("x", largeReport)
	if err := out.Status(t.Context(), ref, status); err != nil {
		t.Fatal(err)
	}
	last, err := out.LastStatus(t.Context(), ref)
	if err != nil || last == nil || last.Status.State != status.Status.State {
		t.Fatal(last, err)
	}
}
