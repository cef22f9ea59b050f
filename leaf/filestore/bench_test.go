package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
)

// BenchmarkOpen opens a telemetry stream of records of 150 bytes that are not in the page
// cache: what the check costs, what opening costs with the index, and without it. Its
// figures are in docs/decisions. PETIOLE_STORE_MIB is the size, 64 MiB by default.
func BenchmarkOpen(b *testing.B) {
	size := int64(64)
	if s := os.Getenv("PETIOLE_STORE_MIB"); s != "" {
		if _, err := fmt.Sscan(s, &size); err != nil {
			b.Fatal(err)
		}
	}
	dir := fillStore(b, size<<20)
	index := filepath.Join(streamDir(dir, "T"), messagesDir, indexFile)
	kept, err := os.ReadFile(index)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		order order
		index bool
	}{
		{"index", order{Dir: dir}, true},
		{"index,checked", order{Dir: dir, Check: true}, true},
		{"no_index", order{Dir: dir}, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				err := os.WriteFile(index, kept, 0o600)
				if !c.index {
					err = os.Remove(index)
				}
				if err != nil {
					b.Fatal(err)
				}
				forget(b, dir)
				child := startChild(b)
				c.order.Unlimited = true
				b.StartTimer()
				got, err := child.open(c.order)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				child.stop()
				b.ReportMetric(float64(got.Took.Milliseconds()), "ms")
				b.ReportMetric(float64(got.Peak>>20), "peak-MB")
			}
		})
	}
	b.Run("check", func(b *testing.B) {
		forget(b, dir)
		b.SetBytes(size << 20)
		for range b.N {
			bad, err := Check(context.Background(), filepath.Join(dir, server.JetStreamStoreDir), "", nil, zaptest.NewLogger(b))
			if err != nil || len(bad) > 0 {
				b.Fatal(bad, err)
			}
		}
	})
}

// fillStore makes a stream of so many bytes.
func fillStore(b *testing.B, size int64) string {
	b.Helper()
	ctx := context.Background()
	dir := b.TempDir()
	s, nc, err := openStore(dir, "")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() }()
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	st, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "T", Subjects: []string{"t.>"}, MaxBytes: 16 << 30, Duplicates: 100 * time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	for i, filled := 0, int64(0); filled < size; i++ {
		subject := fmt.Sprintf("t.device-%d.temperature", i%100)
		if _, err := js.PublishAsync(subject, fmt.Appendf(nil, `{"value":%d.5,"time":"2026-01-02T03:04:05.678Z","quality":"good","n":%010d}`, i%100, i)); err != nil {
			b.Fatal(err)
		}
		filled += 150
		if i%1000 == 0 {
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
	info, err := st.Info(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d records, %d MiB", info.State.Msgs, info.State.Bytes>>20)
	return dir
}

// forget drops a folder's files from the page cache.
func forget(b *testing.B, dir string) {
	b.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	if err != nil && !errors.Is(err, io.EOF) {
		b.Fatal(err)
	}
}

// BenchmarkPublish stores messages of 500 bytes, one after the other, on disk, in a plain store
// and in an encrypted one. Its figures are in docs/decisions.
func BenchmarkPublish(b *testing.B) {
	for name, key := range map[string]string{"plain": "", "encrypted": storeKey} {
		b.Run(name, func(b *testing.B) {
			s, nc, err := openStore(b.TempDir(), key)
			must(b, err)
			defer func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() }()
			js, err := jetstream.New(nc)
			must(b, err)
			_, err = js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "T", Subjects: []string{"t"}})
			must(b, err)
			data := make([]byte, 500)
			var before, after unix.Rusage
			must(b, unix.Getrusage(unix.RUSAGE_SELF, &before))
			b.ResetTimer()
			for range b.N {
				_, err := js.Publish(b.Context(), "t", data)
				must(b, err)
			}
			b.StopTimer()
			must(b, unix.Getrusage(unix.RUSAGE_SELF, &after))
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(b.N)/1000, "cpu-µs/op")
		})
	}
}
