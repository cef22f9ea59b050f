package bridgetest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/streams"
)

// runHub is a nats-server until it is killed.
func runHub(conf string) int {
	opts, err := server.ProcessConfigFile(conf)
	if err == nil {
		opts.NoSigs = true
		var s *server.Server
		if s, err = server.NewServer(opts); err == nil {
			s.Start()
			s.WaitForShutdown()
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// hubProcess is the hub of a world in a process of its own, which can be killed.
type hubProcess struct {
	w    *world
	conf string
	cmd  *exec.Cmd
}

// hubProcess replaces the hub by a process on the same store and port.
func (w *world) hubProcess() *hubProcess {
	w.t.Helper()
	dir := filepath.Dir(filepath.Dir(w.hub.Server.JetStreamConfig().StoreDir))
	w.hub.Stop()
	data, err := os.ReadFile(filepath.Join(dir, "hub.conf"))
	w.must(err)
	_, port, err := net.SplitHostPort(w.hubAddr())
	w.must(err)
	fixed := strings.Replace(string(data), `listen: "127.0.0.1:-1"`, `listen: "127.0.0.1:`+port+`"`, 1)
	if fixed == string(data) {
		w.t.Fatalf("the hub's configuration has no random port:\n%s", data)
	}
	p := &hubProcess{w: w, conf: filepath.Join(dir, "process.conf")}
	w.must(os.WriteFile(p.conf, []byte(fixed), 0o600))
	p.start()
	w.t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() }) // killed: always an error
	return p
}

func (p *hubProcess) start() {
	p.w.t.Helper()
	self, err := os.Executable()
	p.w.must(err)
	p.cmd = exec.Command(self)
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), childHub+"="+p.conf), os.Stderr
	p.w.must(p.cmd.Start())
	eventually(p.w.t, "the hub answers", func() bool { _, err := p.w.js.AccountInfo(p.w.ctx); return err == nil })
}

// killed ends the hub with SIGKILL and starts it again.
func (p *hubProcess) killed() {
	p.w.t.Helper()
	p.w.must(p.cmd.Process.Kill())
	_ = p.cmd.Wait() // killed: always an error
	p.start()
}

// inReported is the sequence at which the site's stream has something about an object, 0 for nothing.
func (s *site) inReported(r streams.Ref) (seq uint64) {
	s.t.Helper()
	stream, err := s.js.Stream(s.ctx, streams.Reported(s.name))
	s.must(err)
	m, err := stream.GetLastMsgForSubject(s.ctx, streams.ReportedSubject(s.name, r))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0
	}
	s.must(err)
	return m.Sequence
}

// history is a site that reports an event and its CSINode, one after the other.
type history struct {
	*site
	event, csi streams.Ref
}

func (h *history) reportEvent(count int32) {
	h.t.Helper()
	h.report(streams.OpPut, h.event, "", corev1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Name: h.event.Name, Namespace: h.namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: h.namespace, Name: "web"}, Reason: "Started", Count: count, Type: "Normal",
		Source: corev1.EventSource{Component: "kubelet", Host: "a1"},
	})
}

func (h *history) reportCSINode(drivers ...string) {
	h.t.Helper()
	n := storagev1.CSINode{TypeMeta: metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "CSINode"}, ObjectMeta: metav1.ObjectMeta{Name: "a1"}}
	for _, d := range drivers {
		n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: d, NodeID: "a1"})
	}
	h.report(streams.OpPut, h.csi, "", n)
}

// written is what the API says: the event's count and how many drivers the CSINode has,
// each -1 without the object.
func (h *history) written() [2]int {
	got := [2]int{-1, -1}
	if e, err := h.admin.CoreV1().Events(h.namespace).Get(h.ctx, h.event.Name, metav1.GetOptions{}); err == nil {
		got[0] = int(e.Count)
	}
	if n, err := h.admin.StorageV1().CSINodes().Get(h.ctx, "a1", metav1.GetOptions{}); err == nil {
		got[1] = len(n.Spec.Drivers)
	}
	return got
}

// noted has a report of the node written, so that all before it have been taken in.
func (h *history) noted(ready corev1.ConditionStatus) {
	h.t.Helper()
	h.reportNode("a1", ready)
	eventually(h.t, "report of the node written", func() bool {
		n, err := h.admin.CoreV1().Nodes().Get(h.ctx, "a1", metav1.GetOptions{})
		h.must(err)
		return nodeCondition(n, corev1.NodeReady) == ready
	})
}

// trimmed waits until the stream has no such event; the site's last report is kept always.
func (h *history) trimmed() {
	h.t.Helper()
	h.reportNode("a1", corev1.ConditionTrue)
	eventually(h.t, "event trimmed", func() bool { return h.inReported(h.event) == 0 })
}

// TestKilledHubBringsNoOlderReportBack: a hub that is killed brings back what a removed
// message had superseded: events and states of nodes that are older than what the API says.
// They are not written.
func TestKilledHubBringsNoOlderReportBack(t *testing.T) {
	w := newWorld(t, sharedAPI(t), "plant-a")
	hub := w.hubProcess()
	b := w.start("one")
	h := &history{
		site:  w.site("plant-a"),
		event: streams.Ref{Node: "a1", Resource: "events", Namespace: w.namespace, Name: "web.1"},
		csi:   streams.Ref{Node: "a1", Group: "storage.k8s.io", Resource: "csinodes", Name: "a1"},
	}
	h.register("a1")
	want := [2]int{3, 1}
	check := func(when string) {
		t.Helper()
		h.noted(corev1.ConditionFalse)
		h.noted(corev1.ConditionTrue)
		if got := h.written(); got != want {
			t.Errorf("%s event and CSINode are %d, want %d", when, got, want)
		}
	}

	// While a report of before waits, the next bridge begins there.
	h.report(streams.OpPut, w.podRef("nowhere", "a9"), "u", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "nowhere", Namespace: w.namespace}})
	h.reportEvent(1)
	h.reportCSINode()
	eventually(t, "first event and CSINode", func() bool { return h.written() == [2]int{1, 0} })
	h.reportEvent(3)
	h.reportCSINode("nfs")
	eventually(t, "second event and CSINode", func() bool { return h.written() == want })
	h.noted(corev1.ConditionTrue)
	b.rounds(t, "garbage collection", 2, func(c bridge.Counters) uint64 { return c.GCRounds }) // the second knows what the hub had on disk in the first
	b.stop()
	hub.killed()
	b = w.start("two")
	check("after a kill while a report waited")

	// When nothing from before waits any longer, the event goes.
	h.register("a9")
	newest := h.inReported(h.event)
	h.trimmed()
	b.stop()
	hub.killed()
	if seq := h.inReported(h.event); seq == 0 || seq >= newest {
		t.Fatalf("the hub has brought back %d, want what was superseded by %d: nothing is tested", seq, newest)
	}
	w.start("three")
	check("after the older event was brought back")
	h.trimmed()
}
