package hub

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) *Hub {
	t.Helper()
	h, err := Open(t.Context(), natstest.StartHub(t, "plant-a").Connect(t, "bridge"), streams.HubLimits{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// put stores a message about a ConfigMap in DESIRED.
func put(t *testing.T, h *Hub, name string) (subject string, seq uint64) {
	t.Helper()
	ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}
	subject = streams.DesiredSubject("plant-a", ref)
	seq, err := streams.Put(t.Context(), h.JS, subject, streams.Message{Ref: ref, Op: streams.OpPut, UID: "uid-" + name, Object: []byte(`{"kind":"ConfigMap"}`)})
	if err != nil {
		t.Fatal(err)
	}
	return subject, seq
}

// A stream that was deleted and created again is another one, whatever it is called.
func TestReplacedStreamIsNoticed(t *testing.T) {
	t.Parallel()
	h := open(t)
	if err := h.CheckSame(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := h.Desired.CachedInfo().Config
	if err := h.JS.DeleteStream(t.Context(), streams.Desired); err != nil {
		t.Fatal(err)
	}
	if err := h.CheckSame(t.Context()); !errors.Is(err, ErrReplaced) {
		t.Errorf("without the stream: %v, want %v", err, ErrReplaced)
	}
	if _, err := h.JS.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := h.CheckSame(t.Context()); !errors.Is(err, ErrReplaced) {
		t.Errorf("with another stream of that name: %v, want %v", err, ErrReplaced)
	}
}

// ReadAll reads more messages than one request returns, in order, and leaves no consumer behind.
func TestReadAllFromASequence(t *testing.T) {
	t.Parallel()
	h := open(t)
	var want []uint64
	for i := range 1100 {
		_, seq := put(t, h, strconv.Itoa(i))
		want = append(want, seq)
	}
	for _, from := range []uint64{0, want[0], want[600], want[len(want)-1] + 1} {
		var got []uint64
		err := h.ReadAll(t.Context(), h.Desired, from, streams.DesiredFilter("plant-a"), true, func(msg jetstream.Msg) error {
			meta, err := msg.Metadata()
			if err == nil && len(msg.Data()) > 0 {
				err = errors.New("the message has a body")
			}
			got = append(got, meta.Sequence.Stream)
			return err
		})
		first, _ := slices.BinarySearch(want, from)
		if err != nil || !slices.Equal(got, want[first:]) {
			t.Errorf("from %d: %d messages, want %d: %v", from, len(got), len(want)-first, err)
		}
	}
	stop := errors.New("enough")
	if err := h.ReadAll(t.Context(), h.Desired, 1, ">", false, func(jetstream.Msg) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a read that is ended: %v, want %v", err, stop)
	}
	info, err := h.Desired.Info(t.Context())
	if err != nil || info.State.Consumers != 0 {
		t.Errorf("%d consumers are left: %v", info.State.Consumers, err)
	}
}

func TestLastMessage(t *testing.T) {
	t.Parallel()
	h := open(t)
	m, err := h.LastMessage(t.Context(), streams.Desired, streams.DesiredFilter("plant-a"))
	if m != nil || err != nil {
		t.Errorf("of an empty stream: %+v, %v", m, err)
	}
	put(t, h, "first")
	subject, seq := put(t, h, "second")
	m, err = h.LastMessage(t.Context(), streams.Desired, streams.DesiredFilter("plant-a"))
	if err != nil || m.Subject != subject || m.Seq != seq || m.Header.Get(streams.HeaderUID) != "uid-second" {
		t.Errorf("the last message is %+v, %v, want %s with sequence %d", m, err, subject, seq)
	}
	if _, err := h.LastMessage(t.Context(), "NONE", ">"); err == nil {
		t.Error("a stream that does not exist has a last message")
	}
}

func TestRedacted(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"nats://hub:4222": "nats://hub:4222", "tls://u:secret@hub": "tls://u:xxxxx@hub", "nats://%zz": "nats://%zz",
		"nats://u:se%cret@hub": "xxxxx@hub", "nats://token@hub": "nats://xxxxx@hub",
	} {
		if got := Redacted(value); got != want {
			t.Errorf("%s is shown as %s, want %s", value, got, want)
		}
	}
}

// A hub of an earlier version has one stream with the records of all sites. It stays readable
// with all of them, takes no new ones and no room beyond them, and does not stand in the way of
// the sites' own streams.
func TestSharedTelemetryIsRetired(t *testing.T) {
	t.Parallel()
	nc := natstest.StartHub(t, "plant-a").Connect(t, "bridge")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "TELEMETRY", Subjects: []string{"telemetry.>"}, MaxBytes: 8 << 30, Discard: jetstream.DiscardOld, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	subject := streams.TelemetrySubject("plant-a", "sample", "default", "pump")
	const records = 100
	for range records {
		if _, err := js.Publish(t.Context(), subject, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a bridge that starts again finds it done
		if _, err := Open(t.Context(), nc, streams.HubLimits{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := streams.Ensure(t.Context(), js, streams.SiteStreams("plant-a", streams.SiteLimits{})); err != nil {
		t.Fatal(err)
	}
	if ack, err := js.Publish(t.Context(), subject, nil); err != nil || ack.Stream != streams.Telemetry("plant-a") {
		t.Errorf("a new record is stored in %v, %v", ack, err)
	}
	info, err := shared.Info(t.Context())
	if err != nil || info.State.Msgs != records || info.Config.MaxBytes != int64(info.State.Bytes) {
		t.Errorf("the old stream has %d records and room for %d of %d bytes: %v", info.State.Msgs, info.Config.MaxBytes, info.State.Bytes, err)
	}
	old, err := js.OrderedConsumer(t.Context(), "TELEMETRY", jetstream.OrderedConsumerConfig{FilterSubjects: []string{streams.TelemetryFilter("plant-a")}})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := old.Fetch(records)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range batch.Messages() {
		n++
	}
	if n != records || batch.Error() != nil {
		t.Errorf("%d of %d old records can be read: %v", n, records, batch.Error())
	}
}

// A hub whose messages cannot hold a part of an object is named, before anything is stored.
func TestHubThatIsTooSmall(t *testing.T) {
	t.Parallel()
	nc := natstest.StartHubWith(t, "max_payload: 8KB", "plant-a").Connect(t, "bridge")
	_, err := Open(t.Context(), nc, streams.HubLimits{})
	if err == nil || !strings.Contains(err.Error(), "max_payload of the hub is 8192, at least 16384 is needed") {
		t.Errorf("opened: %v", err)
	}
}
