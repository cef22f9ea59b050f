package filestore

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// consumerDir is where the files of the only consumer of a store of makeStore are, in its stream.
var consumerDir = filepath.Join(consumersDir, streams.ApplyConsumer)

// keepFile returns what puts a file back as it is now.
func keepFile(t testing.TB, path string) (restore func()) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return func() { must(t, os.WriteFile(path, data, 0o600)) }
}

// updateStreams has a server change the configuration of every stream, and of the consumer.
func updateStreams(t testing.TB, dir, key string) {
	t.Helper()
	s, nc, err := openStore(dir, key)
	must(t, err)
	defer func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() }()
	js, err := jetstream.New(nc)
	must(t, err)
	for _, name := range allStreams {
		st, err := js.Stream(t.Context(), name)
		must(t, err)
		cfg := st.CachedInfo().Config
		cfg.Description = "changed"
		_, err = js.UpdateStream(t.Context(), cfg)
		must(t, err)
	}
	c := streams.LocalConsumer(streams.ApplyConsumer, "changed", 16)
	must(t, streams.EnsureConsumer(t.Context(), js, streams.SiteDesired, c))
}

// updatePartly leaves one file of each description as before a change, as a kill or a full disk
// does.
func updatePartly(file string) func(testing.TB, string, string) {
	return func(t testing.TB, dir, key string) {
		t.Helper()
		var restore []func()
		for _, name := range allStreams {
			restore = append(restore, keepFile(t, filepath.Join(streamDir(dir, name), file)))
		}
		restore = append(restore, keepFile(t, filepath.Join(streamDir(dir, streams.SiteDesired), consumerDir, file)))
		updateStreams(t, dir, key)
		for _, f := range restore {
			f()
		}
	}
}

// eachDescription damages a file of the description of each stream, and of the consumer.
func eachDescription(file string, do func(testing.TB, string)) func(testing.TB, string, string) {
	return func(t testing.TB, dir, _ string) {
		t.Helper()
		for _, name := range allStreams {
			do(t, filepath.Join(streamDir(dir, name), file))
		}
		do(t, filepath.Join(streamDir(dir, streams.SiteDesired), consumerDir, file))
	}
}

func empty(t testing.TB, path string) { t.Helper(); must(t, os.Truncate(path, 0)) }
func half(t testing.TB, path string) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Truncate(path, info.Size()/2))
}
func missing(t testing.TB, path string) { t.Helper(); must(t, os.Remove(path)) }

// TestDescriptionsAreRepaired damages the descriptions of all streams and of a consumer: the
// messages stay. A consumer whose configuration cannot be read is created again by the leaf, and
// the bucket of the device worker's state by the leaf as well.
func TestDescriptionsAreRepaired(t *testing.T) {
	cases := map[string]struct {
		do func(t testing.TB, dir, key string)
		// readable: each configuration can be read.
		readable bool
	}{
		"a new configuration, an old checksum": {updatePartly(sumFile), true},
		"an old configuration, a new checksum": {updatePartly(metaFile), true},
		"an empty checksum":                    {eachDescription(sumFile, empty), true},
		"half a checksum":                      {eachDescription(sumFile, half), true},
		"no checksum":                          {eachDescription(sumFile, missing), true},
		"an empty configuration":               {eachDescription(metaFile, empty), false},
		"half a configuration":                 {eachDescription(metaFile, half), false},
		"no configuration":                     {eachDescription(metaFile, missing), false},
	}
	for kind, key := range map[string]string{"plain": "", "encrypted": storeKey} {
		store := makeStore(t, key)
		c := startChild(t)
		want, err := c.open(order{Dir: copyStore(t, store), Check: true, Sequences: sequences, Key: key})
		c.stop()
		must(t, err)
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			test := cases[name]
			t.Run(kind+"/"+name, func(t *testing.T) {
				dir := copyStore(t, store)
				test.do(t, dir, key)
				c := startChild(t)
				defer c.stop()
				got, err := c.open(order{Dir: dir, Check: true, Sequences: sequences, Key: key})
				must(t, err)
				if len(got.Damaged) > 0 {
					t.Errorf("damaged: %v", got.Damaged)
				}
				for stream, was := range want.Streams {
					if !test.readable && stream == stateStream {
						continue
					}
					is, ok := got.Streams[stream]
					if !ok || !reflect.DeepEqual(is.Messages, was.Messages) {
						t.Errorf("%s (found %t) has messages %v, want %v", stream, ok, slices.Sorted(maps.Keys(is.Messages)), slices.Sorted(maps.Keys(was.Messages)))
					}
					if test.readable && !slices.Equal(is.Consumers, was.Consumers) {
						t.Errorf("%s has consumers %v, want %v", stream, is.Consumers, was.Consumers)
					}
				}
			})
		}
	}
}

// TestOtherDescriptionsStay: a description whose checksum matches is not touched, whatever it
// says, and one of another name is not made valid. The bucket's name is none of a leaf's streams.
func TestOtherDescriptionsStay(t *testing.T) {
	store := makeStore(t, "")
	bucket, telemetry := streamDir(store, stateStream), streamDir(store, streams.SiteTelemetry)
	another, err := os.ReadFile(filepath.Join(telemetry, metaFile))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bucket, metaFile), another, 0o600))
	newer := []byte(`{"name":"SITE_TELEMETRY","of":"a newer nats-server"}`)
	d := description{dir: telemetry, hashName: streams.SiteTelemetry}
	sum, err := d.sumOf(newer)
	must(t, err)
	must(t, os.WriteFile(d.path(metaFile), newer, 0o600))
	must(t, os.WriteFile(d.path(sumFile), sum, 0o600))
	before, err := os.ReadFile(filepath.Join(bucket, sumFile))
	must(t, err)
	_, err = Check(t.Context(), filepath.Join(store, server.JetStreamStoreDir), "", leafStreams(), zap.NewNop())
	must(t, err)
	for path, want := range map[string][]byte{d.path(metaFile): newer, d.path(sumFile): sum, filepath.Join(bucket, metaFile): another, filepath.Join(bucket, sumFile): before} {
		if got, err := os.ReadFile(path); err != nil || string(got) != string(want) {
			t.Errorf("%s is %q (%v), want %q", path, got, err, want)
		}
	}
}
