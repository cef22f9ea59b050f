package filestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

const (
	stateBucket = "devices"
	stateStream = "KV_" + stateBucket
	// sequences is how many messages were stored in each stream.
	sequences = 24
	// storeKey is the key of the encrypted stores.
	storeKey = "secret"
)

// makeStore stores messages in the streams of a leaf and in a bucket as the device worker
// has one, encrypted if there is a key, and returns the folder that contains JetStream's.
func makeStore(t testing.TB, key string) string {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	s, nc, err := openStore(dir, key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() }()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, js, leafStreams()); err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: stateBucket, History: 1})
	if err != nil {
		t.Fatal(err)
	}
	consumer := streams.LocalConsumer(streams.ApplyConsumer, "", 16)
	if err := streams.EnsureConsumer(ctx, js, streams.SiteDesired, consumer); err != nil {
		t.Fatal(err)
	}
	publish := func(subject string, i, size int, h nats.Header) {
		data := fmt.Appendf(nil, `{"n":%d,"text":"%s"}`, i, bytes.Repeat([]byte("x"), size))
		if _, err := js.PublishMsg(ctx, &nats.Msg{Subject: subject, Header: h, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	// Some messages are superseded, others are not.
	name := func(i int) string { return strconv.Itoa(i * i % 29) }
	for i := range sequences {
		h := nats.Header{"Petiole-Version": []string{strconv.Itoa(i)}}
		publish("desired.plant-a.configmaps.default."+name(i), i, 20, h)
		h = nats.Header{jetstream.MsgTTLHeader: []string{"24h"}}
		publish("local.reported.pods.default."+name(i), i, 20, h)
		publish("local.telemetry.pump.speed", i, 2500, nil)
		publish("$KV."+stateBucket+".pump-"+name(i), i, 20, nats.Header{"Petiole-Version": []string{strconv.Itoa(i)}})
	}
	return dir
}

// leafStreams are the streams of a leaf, so small that telemetry has several blocks.
func leafStreams() []jetstream.StreamConfig {
	return streams.LeafStreams("plant-a", streams.LeafLimits{TelemetryBytes: 100 << 10})
}

// streamDir is a stream's folder.
func streamDir(dir, stream string) string {
	return filepath.Join(dir, server.JetStreamStoreDir, "$G", "streams", stream)
}

// blockFiles are the blocks of a stream, the last one last.
func blockFiles(t testing.TB, dir, stream string) []string {
	t.Helper()
	m, err := openMessages(filepath.Join(streamDir(dir, stream), messagesDir), storeKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, b := range m.blocks {
		out = append(out, m.path(b))
	}
	return out
}

// readBlock is the content of a block of a stream, decrypted.
func readBlock(t testing.TB, dir, stream, path string) []byte {
	t.Helper()
	m, err := openMessages(filepath.Join(streamDir(dir, stream), messagesDir), storeKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	i := slices.IndexFunc(m.blocks, func(b block) bool { return m.path(b) == path })
	in, err := m.decrypt(m.blocks[i], f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// records are the offsets of the records of a block that is whole.
func records(block []byte) (at []int) {
	for i := 0; i < len(block); i += int(binary.LittleEndian.Uint32(block[i:]) &^ hasHeaders) {
		at = append(at, i)
	}
	return at
}

// place is a record of a stream: of which block, and which of that block.
type place struct {
	name string
	in   func([]string) string
	of   func([]int) int
}

var places = []place{
	{"first", func(b []string) string { return b[0] }, func(r []int) int { return r[0] }},
	{"middle", func(b []string) string { return b[len(b)/2] }, func(r []int) int { return r[len(r)/2] }},
	{"last", func(b []string) string { return b[len(b)-1] }, func(r []int) int { return r[len(r)-1] }},
}

// field is a part of a record, from an offset on.
type field struct {
	name string
	at   func(record []byte) int
	bits []int
}

func fixed(n int) func([]byte) int { return func([]byte) int { return n } }

// body is where what follows the subject begins.
func body(r []byte) int { return recordHeader + int(binary.LittleEndian.Uint16(r[20:])) }

var fields = []field{
	{"length", fixed(0), []int{0, 4, 12, 20, 28, 30, 31}},
	{"sequence", fixed(4), []int{0, 1, 5, 20, 26, 28, 30, 33, 40, 61, 62, 63}},
	{"time", fixed(12), []int{0, 31, 63}},
	{"subject's length", fixed(20), []int{0, 3, 8, 15}},
	{"subject", fixed(recordHeader), []int{1}},
	{"headers' length", body, []int{0, 3, 16, 31}},
	{"body", func(r []byte) int { return len(r) - recordHash - 4 }, []int{0}},
	{"hash", func(r []byte) int { return len(r) - recordHash }, []int{0, 63}},
}

var allStreams = []string{streams.SiteDesired, streams.SiteReported, streams.SiteTelemetry, stateStream}

func flipBit(t testing.TB, path string, offset, bit int) {
	t.Helper()
	if err := flip(path, offset, bit); err != nil {
		t.Fatal(err)
	}
}

// flip flips a bit of a file, counted from an offset on.
func flip(path string, offset, bit int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[offset+bit/8] ^= 1 << (bit % 8)
	return os.WriteFile(path, b, 0o600)
}

// flipRecord flips a bit of a field of a record in every stream. A record without headers
// has no length of them.
func flipRecord(t testing.TB, dir string, p place, f field, bit int) {
	t.Helper()
	for _, stream := range allStreams {
		path := p.in(blockFiles(t, dir, stream))
		b := readBlock(t, dir, stream, path)
		at := p.of(records(b))
		length := binary.LittleEndian.Uint32(b[at:])
		if f.name == "headers' length" && length&hasHeaders == 0 {
			continue
		}
		flipBit(t, path, at+f.at(b[at:at+int(length&^hasHeaders)]), bit)
	}
}

// damageCase is a store that is damaged.
type damageCase struct {
	name string
	do   func(t testing.TB, dir string)
	// keeps: nothing is lost.
	keeps bool
	// server: nats-server itself may not recover the stream that is damaged.
	server bool
}

func damageCases() (out []damageCase) {
	for _, f := range fields {
		for _, bit := range f.bits {
			for _, p := range places {
				for _, index := range []bool{true, false} {
					name := fmt.Sprintf("bit %d of the %s of the %s record", bit, f.name, p.name)
					if !index {
						name += ", no index"
					}
					out = append(out, damageCase{name: name, do: func(t testing.TB, dir string) {
						flipRecord(t, dir, p, f, bit)
						if index {
							return
						}
						// As after a power cut, with the times of expiry that are kept beside it.
						for _, s := range allStreams {
							for _, f := range []string{indexFile, "thw.db"} {
								if err := os.RemoveAll(filepath.Join(streamDir(dir, s), messagesDir, f)); err != nil {
									t.Fatal(err)
								}
							}
						}
					}})
				}
			}
		}
	}
	return append(out, fileCases()...)
}

// keyCases damage the keys of an encrypted store and what they seal.
func keyCases() (out []damageCase) {
	do := map[string]func(testing.TB, string){
		"a bit":    func(t testing.TB, path string) { flipBit(t, path, 20, 3) },
		"nothing":  func(t testing.TB, path string) { must(t, os.Truncate(path, 0)) },
		"10 bytes": func(t testing.TB, path string) { must(t, os.Truncate(path, 10)) },
		"no file":  func(t testing.TB, path string) { must(t, os.Remove(path)) },
	}
	consumer := filepath.Join(consumersDir, "*")
	for _, pattern := range []string{
		"msgs/*.key", filepath.Join(consumer, stateFile), filepath.Join(consumer, metaFile), filepath.Join(consumer, keyFile), keyFile, metaFile,
	} {
		for _, name := range slices.Sorted(maps.Keys(do)) {
			out = append(out, damageCase{name: name + " of " + pattern, server: !strings.HasPrefix(pattern, "msgs"), do: func(t testing.TB, dir string) {
				files, err := filepath.Glob(filepath.Join(streamDir(dir, streams.SiteDesired), pattern))
				must(t, err)
				do[name](t, files[len(files)-1])
			}})
		}
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fileCases damage files as a whole, and what nats-server keeps beside the messages.
func fileCases() (out []damageCase) {
	each := func(name, pattern string, keeps bool, do func(t testing.TB, path string)) {
		out = append(out, damageCase{name: name, keeps: keeps, do: func(t testing.TB, dir string) {
			for _, stream := range allStreams {
				files, err := filepath.Glob(filepath.Join(streamDir(dir, stream), pattern))
				if err != nil {
					t.Fatal(err)
				}
				if len(files) > 0 {
					do(t, files[len(files)-1])
				}
			}
		}})
	}
	size := func(t testing.TB, path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	resize := func(n func(now int64) int64) func(testing.TB, string) {
		return func(t testing.TB, path string) {
			if err := os.Truncate(path, n(size(t, path))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, of := range []int64{0, 10, 25, 40, 50, 60, 75, 90, 100} {
		for _, bit := range []int{0, 7} {
			each(fmt.Sprintf("bit %d of the index, %d %% in", bit, of), "msgs/index.db", true, func(t testing.TB, path string) {
				flipBit(t, path, int((size(t, path)-1)*of/100), bit)
			})
		}
		each(fmt.Sprintf("%d %% of the index", of), "msgs/index.db", true, resize(func(n int64) int64 { return n * of / 100 }))
		each(fmt.Sprintf("%d %% of a block", of), "msgs/*.blk", of == 100, resize(func(n int64) int64 { return n * of / 100 }))
	}
	const gigabyte = 1 << 30 // of zeros that are not on disk
	each("an index of 1 GB", "msgs/index.db", true, resize(func(int64) int64 { return gigabyte }))
	each("a block of 1 GB", "msgs/*.blk", true, resize(func(int64) int64 { return gigabyte }))
	each("a block of 1 GB, no index", "msgs/*.blk", true, func(t testing.TB, path string) {
		resize(func(int64) int64 { return gigabyte })(t, path)
		if err := os.Remove(filepath.Join(filepath.Dir(path), indexFile)); err != nil {
			t.Fatal(err)
		}
	})
	each("a block with a tail of zeros", "msgs/*.blk", true, resize(func(n int64) int64 { return n + 4096 }))
	return out
}

// TestDamageIsBounded damages every field of what nats-server stores, in turn: it opens
// the store within a bound of time and memory, gives out no message that is not what was
// stored, and what is lost is not more than the rest of the block, and can be seen.
func TestDamageIsBounded(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testDamage(t, makeStore(t, ""), "", damageCases()) })
	t.Run("encrypted", func(t *testing.T) {
		testDamage(t, makeStore(t, storeKey), storeKey, append(damageCases(), keyCases()...))
	})
}

// casesOfAChild is how many stores one child opens: what nats-server leaves behind of each would
// count as memory of a later one.
const casesOfAChild = 16

func testDamage(t *testing.T, store, key string, all []damageCase) {
	c := startChild(t)
	whole, err := c.open(order{Dir: copyStore(t, store), Check: true, Sequences: sequences, Key: key})
	c.stop()
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Damaged) > 0 {
		t.Fatalf("%v are called damaged", whole.Damaged)
	}
	t.Logf("undamaged: %s, %d MB", whole.Took, whole.Peak>>20)
	cases := make(chan damageCase)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			c := startChild(t)
			defer func() { c.stop() }()
			dir := t.TempDir()
			done := 0
			for d := range cases {
				if done++; done%casesOfAChild == 0 {
					c.stop()
					c = startChild(t)
				}
				if err := os.RemoveAll(filepath.Join(dir, server.JetStreamStoreDir)); err != nil {
					t.Error(err)
				}
				if err := os.CopyFS(dir, os.DirFS(store)); err != nil {
					t.Error(err)
				}
				d.do(t, dir)
				got, err := c.open(order{Dir: dir, Check: true, Sequences: sequences, Key: key})
				if err != nil {
					t.Errorf("%s: %v", d.name, err)
					c.stop()
					c = startChild(t)
					continue
				}
				judge(t, d, whole, got)
			}
		})
	}
	for _, d := range all {
		cases <- d
	}
	close(cases)
	wg.Wait()
}

func copyStore(t testing.TB, store string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func judge(t testing.TB, d damageCase, whole, got opened) {
	t.Helper()
	for name, want := range whole.Streams {
		have, ok := got.Streams[name]
		if !ok {
			if !d.server || name != streams.SiteDesired {
				t.Errorf("%s: %s is not there", d.name, name)
			}
			continue
		}
		known := slices.ContainsFunc(got.Damaged, func(d Damaged) bool { return d.Stream == name })
		var gone []uint64
		for seq, digest := range want.Messages {
			switch h, ok := have.Messages[seq]; {
			case !ok:
				gone = append(gone, seq)
			case h != digest && have.Readable[seq]:
				t.Errorf("%s: message %d of %s is not what was stored", d.name, seq, name)
			}
		}
		slices.Sort(gone)
		if len(gone) == 0 {
			continue
		}
		if d.keeps {
			t.Errorf("%s: messages %v of %s are gone", d.name, gone, name)
		}
		// The forwarder reports what is missing within telemetry, and the leaf that a stream
		// has less than it had.
		if !known && name != streams.SiteTelemetry && have.Last >= want.Last && len(have.Errors) == 0 {
			t.Errorf("%s: messages %v of %s are gone, and nothing shows it", d.name, gone, name)
		}
	}
}

// TestDamageWhileTheServerRuns flips a sequence of a block that nats-server reads later: it
// takes what memory there is and is killed, and does not do so again after the next start.
func TestDamageWhileTheServerRuns(t *testing.T) {
	// nats-server reads only its last block, of four, before somebody asks.
	const late, window = "LATE", 100 * time.Millisecond
	message := fmt.Appendf(nil, "%q", strings.Repeat("x", 4000))
	dir := t.TempDir()
	s, nc, err := openStore(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err == nil {
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: late, Subjects: []string{"late"}, MaxBytes: 100_000, Duplicates: window})
	}
	for i := 0; err == nil && i < sequences; i++ {
		_, err = js.Publish(t.Context(), "late", message)
	}
	nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(window) // it reads later messages, too, to know duplicates
	block := blockFiles(t, dir, late)[0]
	c := startChild(t)
	_, err = c.open(order{Dir: dir, Check: true, Sequences: sequences, FlipFile: block, FlipOffset: lastSequenceOf(t, block), FlipBit: 26})
	if err == nil {
		t.Fatal("nats-server was not killed; docs/upstream.md can be shortened")
	}
	t.Log(err)
	c.stop()
	c = startChild(t)
	defer c.stop()
	got, err := c.open(order{Dir: dir, Check: true, Sequences: sequences})
	if err != nil {
		t.Fatal(err)
	}
	if want := []Damaged{{"$G", late, true}}; !slices.Equal(got.Damaged, want) {
		t.Errorf("damaged: %v, want %v", got.Damaged, want)
	}
}

// lastSequence is where the sequence of a stream's last record is.
func lastSequence(t testing.TB, dir, stream string) (file string, offset int) {
	t.Helper()
	blocks := blockFiles(t, dir, stream)
	file = blocks[len(blocks)-1]
	return file, lastSequenceOf(t, file)
}

// lastSequenceOf is where the sequence of a block's last record is.
func lastSequenceOf(t testing.TB, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := records(b)
	return r[len(r)-1] + 4
}

// TestDescriptionsAreBounded makes files that nats-server reads whole as long as 1 GB: it
// starts, with the other streams.
func TestDescriptionsAreBounded(t *testing.T) {
	store := makeStore(t, "")
	consumer := filepath.Join(consumersDir, streams.ApplyConsumer)
	for _, file := range []string{"meta.inf", "meta.sum", filepath.Join(consumer, "meta.inf"), filepath.Join(consumer, stateFile)} {
		t.Run(file, func(t *testing.T) {
			dir := copyStore(t, store)
			if err := os.Truncate(filepath.Join(streamDir(dir, streams.SiteDesired), file), 1<<30); err != nil {
				t.Fatal(err)
			}
			c := startChild(t)
			defer c.stop()
			got, err := c.open(order{Dir: dir, Check: true, Sequences: sequences})
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := got.Streams[streams.SiteTelemetry]; !ok {
				t.Error("another stream is not there")
			}
		})
	}
}
