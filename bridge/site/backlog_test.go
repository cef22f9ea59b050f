package site

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// The lifetime of a Backlog is measured by the bridge's clock, whatever the API server's is.
func TestBacklogsCountTheirTimeThemselves(t *testing.T) {
	t.Parallel()
	b := NewBacklogs(BacklogsConfig{})
	o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "q", "uid": "1"}}}
	o.SetCreationTimestamp(metav1.NewTime(noon.Add(-time.Hour)))
	if left := b.remaining(o, noon); left != backlogLife {
		t.Errorf("a new question stays for %v", left)
	}
	if left := b.remaining(o, noon.Add(backlogLife)); left != 0 {
		t.Errorf("an old question stays for %v", left)
	}
	o.SetUID("2")
	if left := b.remaining(o, noon.Add(backlogLife)); left != backlogLife {
		t.Errorf("another question of the same name stays for %v", left)
	}
}

// Receiving no message does not mean that there is no backlog.
func TestHubThatSendsNothing(t *testing.T) {
	t.Parallel()
	h, err := hub.Open(t.Context(), natstest.StartHub(t, "plant-a").Connect(t, "bridge"), streams.HubLimits{})
	if err != nil {
		t.Fatal(err)
	}
	ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: "c"}
	if _, err := streams.Put(t.Context(), h.JS, streams.DesiredSubject("plant-a", ref), streams.Message{Ref: ref, Op: streams.OpPut, Object: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]error{streams.DesiredFilter("plant-a"): errHubSentNothing, streams.DesiredFilter("plant-b"): nil} {
		c, err := h.JS.CreateConsumer(t.Context(), streams.Desired, jetstream.ConsumerConfig{FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := confirmEmpty(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", filter, err, want)
		}
	}
}
