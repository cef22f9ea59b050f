package bridgetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// stall is several times the number of a site's reports that may wait.
const stall = 1100

// TestOneSiteStallsNobody has one site send what cannot be written: another site's report
// is written all the same, also after a restart of the bridge, and what was sent is set
// aside and removed.
func TestOneSiteStallsNobody(t *testing.T) {
	for _, test := range []struct {
		name string
		// message is the n-th that the site sends.
		message func(w *world, n int) *nats.Msg
	}{
		{"PartsThatNeverCome", func(w *world, n int) *nats.Msg {
			m := stallMessage(streams.ReportedSubject("plant-b", w.podRef(fmt.Sprint("p", n), "b1")), "")
			m.Header.Set(streams.HeaderParts, "1")
			return m
		}},
		{"Unreadable", func(_ *world, n int) *nats.Msg {
			return stallMessage(fmt.Sprint("reported.plant-b.nonsense.", n), "{}")
		}},
		{"ImpossibleNodes", func(_ *world, n int) *nats.Msg {
			ref := streams.Ref{Node: fmt.Sprint("b1\n", n), Resource: "nodes", Name: fmt.Sprint("b1\n", n)}
			return stallMessage(streams.ReportedSubject("plant-b", ref), fmt.Sprintf(`{"metadata":{"name":%q}}`, ref.Name))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := sharedAPI(t)
			w := newWorld(t, a, "plant-a", "plant-b")
			b := w.start("one")
			s, flooding := w.site("plant-a"), w.site("plant-b")
			s.register("a1")
			flooding.register("b1")
			w.configMap("settings", "1")
			pod := w.pod("web", "a1", "settings")
			w.settled("plant-a", "web", "a1")
			written := func(message, what string) {
				t.Helper()
				p := reported(pod, corev1.PodRunning, corev1.ConditionTrue)
				p.Status.Message = message
				start := time.Now()
				s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), p)
				eventually(t, what, func() bool { s.beat(0, "a1"); return w.getPod("web").Status.Message == message })
				t.Logf("%s after %v", what, time.Since(start).Round(time.Millisecond))
			}
			written("before", "another site's report written before")
			for n := range stall {
				w.must(flooding.nc.PublishMsg(test.message(w, n)))
			}
			w.must(flooding.nc.Flush())
			written("during", "another site's report written meanwhile")
			b.stop()
			w.start("two")
			written("after", "another site's report written by the next bridge")
			flooding.reportNode("b1", corev1.ConditionFalse)
			r, err := w.js.Stream(w.ctx, streams.Reported("plant-b"))
			w.must(err)
			for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
				info, err := r.Info(w.ctx, jetstream.WithSubjectFilter("reported.plant-b.>"))
				w.must(err)
				if len(info.State.Subjects) == 1 {
					break
				}
				if time.Since(start) > time.Minute+patience {
					t.Fatalf("%d messages of the site are left", len(info.State.Subjects))
				}
			}
			for _, reason := range w.quarantined("plant-b") {
				if reason == "" {
					t.Error("a message was set aside without a reason")
				}
			}
			if n := len(w.quarantined("plant-b")); n < stall {
				t.Errorf("%d messages are in quarantine, want at least %d", n, stall)
			}
			eventually(t, "the site's own report written", func() bool {
				flooding.beat(0, "b1") // the flood took its time; a node that nobody hears is not written
				n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "b1", metav1.GetOptions{})
				w.must(err)
				return nodeCondition(n, corev1.NodeReady) == corev1.ConditionFalse
			})
			w.dealtWith("plant-a")
			w.dealtWith("plant-b")
		})
	}
}

func stallMessage(subject, data string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set(streams.HeaderOp, string(streams.OpPut))
	m.Header.Set(streams.HeaderUID, strings.Repeat("u", 8))
	m.Data = []byte(data)
	return m
}
