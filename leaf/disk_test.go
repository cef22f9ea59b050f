package leaf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// volume is a small disk. Making one needs root.
type volume struct {
	t                *testing.T
	kind, dir, image string
}

func newVolume(t *testing.T, kind string, megabytes int) *volume {
	t.Helper()
	v := &volume{t: t, kind: kind, dir: t.TempDir()}
	if kind == "ext4" {
		v.image = filepath.Join(t.TempDir(), "image")
		v.run("truncate", "-s", fmt.Sprintf("%dM", megabytes), v.image)
		v.run("mkfs.ext4", "-q", "-m", "0", v.image)
		v.mount()
	} else if err := syscall.Mount("tmpfs", v.dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(v.unmount)
	return v
}

func (v *volume) run(name string, args ...string) {
	v.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		v.t.Fatalf("%s %v (needs root): %v\n%s", name, args, err, out)
	}
}

func (v *volume) mount() { v.t.Helper(); v.run("mount", "-o", "loop", v.image, v.dir) }

// unmount takes the volume from its folder, also while files of it are open: a server whose
// writes failed may keep some, and a program that another test starts has this process's files
// until it runs.
func (v *volume) unmount() {
	v.t.Helper()
	if err := syscall.Unmount(v.dir, syscall.MNT_DETACH); err != nil {
		v.t.Fatalf("unmount %s: %v", v.dir, err)
	}
}

// powerUp mounts what the disk had when its power was cut. It is a copy, because whoever
// still has a file of the dead file system open keeps its device.
func (v *volume) powerUp() {
	v.t.Helper()
	before := v.image
	v.image = filepath.Join(v.t.TempDir(), "image")
	v.run("cp", "--sparse=always", before, v.image)
	v.unmount()
	v.mount()
}

// powerCut takes the disk away from whoever writes: what was not synced is gone, the
// journal's tail with it (EXT4_IOC_SHUTDOWN with NOLOGFLUSH).
func (v *volume) powerCut() {
	v.t.Helper()
	d, err := os.Open(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	defer d.Close()
	const shutdown, noLogFlush = 0x8004587d, 2
	flags := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, d.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		v.t.Fatalf("shut the file system down: %v", errno)
	}
}

// fill leaves no byte free and returns how to empty it again.
func (v *volume) fill() func() {
	v.t.Helper()
	path := filepath.Join(v.dir, "somebody-elses")
	f, err := os.Create(path)
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; size /= 2 {
		for chunk := make([]byte, size); err == nil; {
			_, err = f.Write(chunk)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			v.t.Fatal(err)
		}
		err = f.Sync()
	}
	return func() {
		if err := os.Remove(path); err != nil {
			v.t.Fatal(err)
		}
	}
}

func startOn(t *testing.T, v *volume) (*site, context.Context) {
	t.Helper()
	s, ctx := newSite(t)
	s.cfg.NATS.ConfigFile = natstest.LeafConfIn(t, v.dir, "plant-a", s.line.Addr())
	syscall.Sync() // the configuration is not what is tested
	respond(t, s)
	s.start(t, ctx)
	return s, ctx
}

func (s *site) tryPublish(ctx context.Context, subject string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err := s.js.Publish(ctx, subject, data)
	return err
}

// TestTelemetryYields writes more telemetry than the disk can hold while the link is
// down: it never takes the reserve, and desired state and status go on being stored.
func TestTelemetryYields(t *testing.T) {
	t.Parallel()
	v := newVolume(t, "ext4", 48)
	s, ctx := startOn(t, v)
	for i := range 20 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	polltest.Eventually(t, "objects", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	s.cut(t)
	body := make([]byte, 16<<10)
	const records = 4000 // 64 MB
	acks := make([]jetstream.PubAckFuture, records)
	for i := range records {
		var err error
		if acks[i], err = s.js.PublishAsync(streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Appendf(nil, "%d %s", i, body), jetstream.WithStallWait(20*time.Second)); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if _, err := s.js.Publish(ctx, "local.reported.n._.pods.default.web", nil); err != nil {
				t.Fatalf("after %d records a status is refused: %v", i, err)
			}
		}
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			t.Fatalf("record %d is refused: %v", i, err)
		case <-ctx.Done():
			t.Fatalf("record %d is not answered", i)
		}
	}
	free, ok := s.store.DiskFree()
	reserve := v.size() / 4 // of a small disk
	if t.Logf("%d MB of %d free, reserve %d", free>>20, v.size()>>20, reserve>>20); !ok || free < reserve/2 {
		t.Errorf("telemetry has taken the reserve: %d bytes are free", free)
	}
	if counted(t, s, "petiole_leaf_server_restarts_total") != 0 {
		t.Error("the server was restarted")
	}
	s.line.Heal()
	// How long it takes is the disk's affair, as long as it goes on.
	for done := false; !done; {
		had := count(t, ctx, s.hub, streams.Telemetry("plant-a"))
		polltest.Eventually(t, "account", func() bool {
			done = s.arrived(t, ctx, records-1)
			return done || count(t, ctx, s.hub, streams.Telemetry("plant-a")) > had
		})
	}
	if missing := checkAccount(t, s.stored(t, ctx), records); missing == 0 {
		t.Error("nothing was dropped: the test has proved nothing")
	}
	if !same(t, ctx, s) {
		t.Error("desired state was evicted")
	}
}

// TestDiskFull has somebody else fill the disk: producers get errors, what was
// acknowledged stays, and after the disk has room again everything goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			v := newVolume(t, kind, 64)
			s, ctx := startOn(t, v)
			putDesired(t, ctx, s, "before", 1)
			polltest.Eventually(t, "object", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
			acked, n := []int{}, 0
			publish := func() error {
				err := s.tryPublish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Appendf(nil, "%d %s", n, make([]byte, 4000)))
				if err == nil {
					acked = append(acked, n)
				}
				n++
				return err
			}
			polltest.Eventually(t, "100 records are acknowledged", func() bool { return publish() == nil && len(acked) >= 100 })
			empty := v.fill()
			polltest.Eventually(t, "an error for the producer", func() bool { return publish() != nil })
			reported := "local.reported.n._.pods.default.web"
			// Large, since the reserve file may have made room. A slow disk is an error for the producer, too.
			polltest.Eventually(t, "an error for the status, which cannot be stored", func() bool {
				err := s.tryPublish(ctx, reported, make([]byte, 64<<10))
				return err != nil && (s.host.Health() != nil || counted(t, s, "petiole_leaf_server_restarts_total") > 0)
			})
			putDesired(t, ctx, s, "meanwhile", 1)
			polltest.Eventually(t, "DiskFull", func() bool { return slices.Contains(s.store.Degraded(), streams.DegradedDiskFull) })
			empty()
			polltest.Eventually(t, "telemetry is taken again", func() bool { return publish() == nil })
			polltest.Eventually(t, "status is taken again", func() bool { return s.tryPublish(ctx, reported, nil) == nil })
			polltest.Eventually(t, "not DiskFull", func() bool { return len(s.store.Degraded()) == 0 })
			// An object that was acknowledged and not stored would never come.
			polltest.Eventually(t, "desired state", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
			polltest.Eventually(t, "every acknowledged record", func() bool { return hasAll(s.stored(t, ctx), acked) })
			if counted(t, s, "petiole_leaf_server_restarts_total") == 0 {
				t.Error("the server was never restarted: the test has proved nothing")
			}
		})
	}
}

func hasAll(all []stored, numbers []int) bool {
	have := map[int]bool{}
	for _, one := range all {
		if one.gap == nil {
			have[one.number] = true
		}
	}
	return !slices.ContainsFunc(numbers, func(n int) bool { return !have[n] })
}

func (v *volume) stat() (st syscall.Statfs_t) {
	v.t.Helper()
	if err := syscall.Statfs(v.dir, &st); err != nil {
		v.t.Fatal(err)
	}
	return st
}

// size and free are in bytes.
func (v *volume) size() int64 { st := v.stat(); return int64(st.Blocks) * st.Bsize }
func (v *volume) free() int64 { st := v.stat(); return int64(st.Bavail) * st.Bsize }

// leave fills the disk up to so many bytes and returns how to empty it again.
func (v *volume) leave(bytes int64) func() {
	v.t.Helper()
	path := filepath.Join(v.dir, "somebody-elses")
	if err := os.WriteFile(path, make([]byte, v.free()-bytes), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			v.t.Fatal(err)
		}
	}
}

// TestFullDiskRefusesAtOnce has somebody else take the disk, all of it and nearly all of
// it: within seconds producers are told so at once, desired state still arrives, and with
// room again records are taken.
func TestFullDiskRefusesAtOnce(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(*volume) func(){
		"all":    (*volume).fill,
		"nearly": func(v *volume) func() { return v.leave(3 << 20) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVolume(t, "tmpfs", 64)
			s, ctx := startOn(t, v)
			s.up(t)
			publish := func() (err error, refused bool) {
				err = s.tryPublish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), make([]byte, 4000))
				return err, errors.As(err, new(*jetstream.APIError))
			}
			for range 100 {
				if err, _ := publish(); err != nil {
					t.Fatal(err)
				}
			}
			empty := take(v)
			start := time.Now()
			polltest.Eventually(t, "a refusal", func() bool { _, refused := publish(); return refused })
			t.Logf("refused after %s", time.Since(start).Round(time.Millisecond))
			putDesired(t, ctx, s, "meanwhile", 1)
			for range 20 {
				if err, refused := publish(); !refused {
					t.Fatalf("not refused: %v", err)
				}
			}
			polltest.Eventually(t, "desired state", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
			if n := counted(t, s, "petiole_leaf_server_restarts_total"); name == "nearly" && n != 0 {
				t.Errorf("the server was restarted %v times", n)
			}
			empty()
			polltest.Eventually(t, "records are taken again", func() bool { err, _ := publish(); return err == nil })
		})
	}
}

// TestPowerCut takes the power away while telemetry and desired state are written: what
// was acknowledged is there after it, and the site converges.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	v := newVolume(t, "ext4", 64)
	s, ctx := startOn(t, v)
	s.up(t)
	s.record(t, ctx, 0, 10)
	polltest.Eventually(t, "first record", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == 1 })
	s.cut(t)
	var acked atomic.Int64
	writing, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; writing.Err() == nil; i++ {
			// It waits for the acknowledgement, however long the disk takes.
			if _, err := s.js.Publish(writing, streams.LocalTelemetrySubject("sample", "default", "pump"), fmt.Append(nil, i)); err != nil {
				return
			}
			acked.Store(int64(i))
		}
	}()
	s.line.Heal()
	for i := range 300 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i%40), i)
	}
	polltest.Eventually(t, "records", func() bool { return acked.Load() > 500 })
	// With the power the server goes: what it acknowledges to this process after the cut
	// is an acknowledgement that nobody would have got.
	last := int(acked.Load())
	v.powerCut()
	s.line.Cut()
	end()
	<-done
	s.stop()
	v.powerUp()
	s.start(t, ctx)
	if got := count(t, ctx, s.js, streams.SiteTelemetry); got < uint64(last)+1 {
		t.Errorf("%d records after the power cut, %d were acknowledged", got, last+1)
	}
	s.line.Heal()
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	want := make([]int, last+1)
	for i := range want {
		want[i] = i
	}
	polltest.Eventually(t, "records at the hub", func() bool { return hasAll(s.stored(t, ctx), want) })
}
