package replicate

import (
	"context"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
)

// interrupted is a Desired during whose erasure the session ends.
type interrupted struct {
	sync.Mutex
	end    func()
	erased []string
}

func (d *interrupted) MarkComplete(context.Context) {}
func (d *interrupted) ReportUnreadable()            {}
func (d *interrupted) Erase(ctx context.Context, subjects []string) error {
	d.end()
	d.erased = subjects
	return ctx.Err()
}

// TestTombstonesOfErasedSecretsAreStored ends the session while Secrets are erased: their tombstones
// are stored all the same.
func TestTombstonesOfErasedSecretsAreStored(t *testing.T) {
	t.Parallel()
	server, err := natsd.Start(t.Context(), natsd.Config{Site: "plant-a", File: natstest.LeafConf(t, "plant-a", "127.0.0.1:1"), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(t.Context(), js, streams.LeafStreams("plant-a", streams.LeafLimits{})); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	desired := &interrupted{end: end}
	r := New(Config{Site: "plant-a", JS: js, Desired: desired})
	r.tombstones = &tombstoneIndex{bySubject: map[string]tombstone{}}
	var batch []*nats.Msg
	for _, resource := range []string{"configmaps", "secrets"} {
		ref := streams.Ref{Resource: resource, Namespace: "default", Name: "gone"}
		batch = append(batch, streams.Message{Ref: ref, Op: streams.OpDelete, UID: "u", Version: "2"}.Encode(streams.DesiredSubject("plant-a", ref)))
	}
	if err := r.put(ctx, batch); err != nil {
		t.Fatal(err)
	}
	if len(desired.erased) != 1 || desired.erased[0] != batch[1].Subject {
		t.Errorf("erased %v, want the Secret", desired.erased)
	}
	s, err := js.Stream(t.Context(), streams.SiteDesired)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d messages are stored, want both tombstones", n)
	}
}
