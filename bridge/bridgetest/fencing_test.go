package bridgetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/streams"
)

// TestLeadership: one bridge writes, whatever becomes of the others.
func TestLeadership(t *testing.T) {
	runAll(t, []sharing{
		{"HasOneLeader", oneLeader},
		{"LeaderFlaps", leaderFlaps},
		{"StoppedLeaderReturns", stoppedLeaderReturns},
		{"TakesOverWithin15s", takesOver},
		{"SaysWhyItCannotLead", saysWhyItCannotLead},
		{"LateWritesAreRefused", lateWritesAreRefused},
		{"FindsMessagesOfOtherBridges", foreignMessagesAreFound},
	})
}

func (w *world) electionLease() *coordinationv1.Lease {
	w.t.Helper()
	l, err := w.admin.CoordinationV1().Leases("petiole-system").Get(w.ctx, "bridge", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	return l
}

func (w *world) awaitLeader(identity string, within time.Duration) time.Duration {
	w.t.Helper()
	start := time.Now()
	for {
		l := w.electionLease()
		if l != nil && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == identity {
			return time.Since(start)
		}
		if time.Since(start) > within {
			w.t.Fatalf("%s does not lead after %v", identity, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stored are the messages that DESIRED took, in its order, since recorder was called:
// also those that were replaced soon after.
type stored struct {
	mu   sync.Mutex
	msgs []kept
}

func (w *world) recorder() *stored {
	w.t.Helper()
	r := &stored{}
	var cons jetstream.Consumer
	eventually(w.t, "the stream "+streams.Desired, func() bool {
		var err error
		cons, err = w.js.OrderedConsumer(w.ctx, streams.Desired, jetstream.OrderedConsumerConfig{HeadersOnly: true})
		return err == nil
	})
	consuming, err := cons.Consume(func(m jetstream.Msg) {
		r.mu.Lock()
		defer r.mu.Unlock()
		h := m.Headers()
		r.msgs = append(r.msgs, kept{m.Subject(), streams.Op(h.Get(streams.HeaderOp)), h.Get(streams.HeaderUID), h.Get(streams.HeaderHash), h.Get(streams.HeaderVersion), h.Get(streams.HeaderEpoch), streams.TermOf(h)})
	})
	w.must(err)
	w.t.Cleanup(func() { consuming.Stop(); <-consuming.Closed() })
	return r
}

// check fails the test if content was published twice, or by a former leader after a
// later one, and returns the terms.
func (r *stored) check(t *testing.T) (terms []uint64) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]int{}
	for i, m := range r.msgs {
		if m.op == streams.OpPut {
			seen[m.subject+" "+m.uid+" "+m.hash]++
		}
		if len(terms) == 0 || m.term > terms[len(terms)-1] {
			terms = append(terms, m.term)
		} else if m.term < terms[len(terms)-1] {
			t.Errorf("message %d, %s, has term %d after %d", i, m.subject, m.term, terms[len(terms)-1])
		}
	}
	for what, n := range seen {
		if n > 1 {
			t.Errorf("published %d times: %s", n, what)
		}
	}
	return terms
}

// Leadership that goes to and fro: nothing is published twice, or by a former leader
// after a later one, and nothing is missed.
func leaderFlaps(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	rec := make(chan *stored, 1)
	b := w.start("bridge-0")
	rec <- w.recorder()
	s := w.site("plant-a")
	s.register("a1")
	for i := range 5 {
		w.configMap(fmt.Sprint("settings-", i), "0")
	}
	w.podWith("web", "a1", "settings-0", "settings-1", "settings-2", "settings-3", "settings-4")
	w.settled("plant-a", "web", "a1")
	const rounds = 6
	for round := 1; round <= rounds; round++ {
		next := w.start(fmt.Sprint("bridge-", round))
		for i := range 5 {
			w.setConfigMap(fmt.Sprint("settings-", i), fmt.Sprintf("%d-a", round))
		}
		b.stop()
		for i := range 5 {
			w.setConfigMap(fmt.Sprint("settings-", i), fmt.Sprintf("%d-b", round))
		}
		w.awaitLeader(fmt.Sprint("bridge-", round), patience)
		if round%2 == 0 { // otherwise it is stopped before it has begun
			w.awaitDesired("plant-a", w.configMapRef("settings-4"), "newest", contains(fmt.Sprintf(`"v":"%d-b"`, round)))
		}
		b = next
	}
	for i := range 5 {
		w.awaitDesired("plant-a", w.configMapRef(fmt.Sprint("settings-", i)), "newest", contains(fmt.Sprintf(`"v":"%d-b"`, rounds)))
	}
	l := s.leaf()
	l.equal()
	terms := (<-rec).check(t)
	if len(terms) < 3 {
		t.Errorf("terms %v: leadership did not change hands", terms)
	}
	t.Logf("terms %v", terms)
}

// A leader that stands still for longer than its lease and returns: the real process
// gets a real SIGSTOP while it has work.
func stoppedLeaderReturns(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	front1, front2 := newFront(t, a.config), newFront(t, a.config)
	first := w.run("first", front1.kubeconfig(a))
	w.awaitLeader("first", patience)
	rec := w.recorder()
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "0")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	work := func(round int) {
		w.setConfigMap("settings", fmt.Sprint("v", round))
		p := reported(pod, corev1.PodRunning, corev1.ConditionTrue)
		p.Status.Message = fmt.Sprint("m", round)
		s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), p)
		s.beat(0, "a1")
	}
	for i := range 5 {
		work(i)
	}
	second := w.run("second", front2.kubeconfig(a))
	first.signal(syscall.SIGSTOP)
	work(5)
	took := w.awaitLeader("second", patience)
	t.Logf("the second leads %v after the first stood still", took.Round(10*time.Millisecond))
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published by the second", contains(`"v":"v5"`))
	eventually(t, "report written by the second", func() bool { s.beat(0, "a1"); return w.getPod("web").Status.Message == "m5" })
	work(6)
	eventually(t, "next report written", func() bool { return w.getPod("web").Status.Message == "m6" })

	before := len(front1.written())
	first.signal(syscall.SIGCONT)
	for i := 7; i < 30; i++ {
		work(i)
		time.Sleep(50 * time.Millisecond)
	}
	eventually(t, "newest report written", func() bool { return w.getPod("web").Status.Message == "m29" })
	w.awaitDesired("plant-a", w.configMapRef("settings"), "newest", contains(`"v":"v29"`))
	for _, late := range front1.written()[before:] {
		if late.status < 300 && !strings.Contains(late.path, "/leases/bridge") {
			t.Errorf("the former leader wrote after it returned: %+v", late)
		}
	}
	rec.check(t)
	if terms := rec.check(t); len(terms) < 2 {
		t.Errorf("terms %v: the second published nothing", terms)
	}

	// It is ready to lead again.
	second.kill()
	took = w.awaitLeader("first", patience)
	work(30)
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published by the first again", contains(`"v":"v30"`))
	rec.check(t)
	t.Logf("the first leads again %v after the second was killed", took.Round(10*time.Millisecond))
}

// The time from the death of a leader to the first message of the next, with the lease
// that is the default.
func takesOver(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.lease = bridge.DefaultConfig().LeaderElection.LeaseDuration.Duration
	p := w.run("leader-0", a.kubeconfig)
	w.awaitLeader("leader-0", patience)
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "0")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	for round := 1; round <= 2; round++ {
		next := w.run(fmt.Sprint("leader-", round), a.kubeconfig)
		time.Sleep(time.Duration(round) * 700 * time.Millisecond) // it waits, at another moment of the renewals each time
		p.kill()
		died := time.Now()
		w.setConfigMap("settings", fmt.Sprint(round))
		for {
			m, _ := w.desired("plant-a", w.configMapRef("settings"))
			if m != nil && contains(fmt.Sprintf(`"v":"%d"`, round))(m) {
				break
			}
			if time.Since(died) > 30*time.Second {
				t.Fatal("nobody took over")
			}
			time.Sleep(20 * time.Millisecond)
		}
		took := time.Since(died)
		t.Logf("take-over %d: %v", round, took.Round(10*time.Millisecond))
		if took > 15*time.Second {
			t.Errorf("take-over took %v, want 15 s at most", took)
		}
		p = next
	}
}

// A write of a former leader that was under way when it stood still arrives after the
// next leader has written: the API server refuses it.
func lateWritesAreRefused(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	f := newFront(t, a.config)
	b := w.startWith("one", w.hubAddr(), f.kubeconfig(a), bridge.ImpersonationConstrained)
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "0")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	say := func(message string) {
		p := reported(pod, corev1.PodRunning, corev1.ConditionTrue)
		p.Status.Message = message
		s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), p)
	}
	say("first")
	eventually(t, "first report", func() bool { return w.getPod("web").Status.Message == "first" })

	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.inject(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/pods/web/status") {
			once.Do(func() { close(held) })
			<-release
		}
		return false
	})
	say("older")
	<-held
	f.lists()
	// Another bridge writes something newer in between, as the node does.
	node := []byte(`{"status":{"message":"newer"}}`)
	_, err := a.admin.CoreV1().Pods(w.namespace).Patch(w.ctx, "web", "application/merge-patch+json", node, metav1.PatchOptions{}, "status")
	w.must(err)
	conflicts := b.Counters().Conflicts
	close(release)
	eventually(t, "late write refused", func() bool { return b.Counters().Conflicts > conflicts })
	for _, write := range f.written() {
		if strings.HasSuffix(write.path, "/pods/web/status") && write.status == http.StatusConflict {
			return
		}
	}
	t.Error("the API server has seen no conflict")
}

// What a former leader wrote to DESIRED late is found and put right; what a later one
// wrote deposes this bridge, which then stands for election again.
func foreignMessagesAreFound(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	before := w.start("zero") // so that there is a term before that of the next
	w.awaitLeader("zero", patience)
	before.stop()
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	m, _ := w.desired("plant-a", w.configMapRef("settings"))
	late := *m
	late.Term, late.Hash, late.Object = m.Term-1, "late", []byte(strings.Replace(string(m.Object), `"v":"1"`, `"v":"0"`, 1))
	if late.Term == 0 {
		t.Fatalf("the bridge leads with term %d, want more than 1", m.Term)
	}
	put := func(m streams.Message) {
		_, err := streams.Put(w.ctx, w.js, streams.DesiredSubject("plant-a", m.Ref), m)
		w.must(err)
	}
	put(late)
	ghost := late
	ghost.Name, ghost.UID, ghost.Object = "ghost", "00000000-0000-0000-0000-000000000001", []byte(`{"metadata":{"name":"ghost"}}`)
	put(ghost)
	w.awaitDesired("plant-a", w.configMapRef("settings"), "put right", contains(`"v":"1"`))
	w.awaitDesired("plant-a", w.configMapRef("ghost"), "taken away", tombstoneOf(ghost.UID))
	if n := b.Counters().ExternalWrites; n != 2 {
		t.Errorf("%d foreign messages found, want 2", n)
	}

	later := *m
	later.Term, later.Hash = m.Term+10, "later"
	put(later)
	eventually(t, "leading again with a higher term", func() bool {
		m, _ := w.desired("plant-a", w.configMapRef("settings"))
		return m != nil && m.Hash != "later" && m.Term > later.Term
	})
}

// saysWhyItCannotLead: a bridge that the API server does not let compete for the lease says so, and is
// not ready; as soon as it may, it leads.
func saysWhyItCannotLead(t *testing.T, a *api) {
	w := newWorld(t, a)
	nobody := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "nobody", Namespace: "petiole-system"}}
	_, err := w.admin.CoreV1().ServiceAccounts("petiole-system").Create(w.ctx, nobody, metav1.CreateOptions{})
	w.must(err)
	t.Cleanup(func() {
		w.must(w.admin.CoreV1().ServiceAccounts("petiole-system").Delete(context.Background(), "nobody", metav1.DeleteOptions{}))
	})
	bridgeWith := func(change func(*bridge.Config)) (b *running, ready func() (code int, body string)) {
		cfg := w.config("a", w.hubAddr(), w.kubeconfig, bridge.ImpersonationConstrained)
		cfg.Metrics.Listen = porttest.Addr(t)
		change(&cfg)
		return w.startConfig(cfg), func() (int, string) {
			code, body, err := get(t, "http://"+cfg.Metrics.Listen+"/readyz")
			if err != nil {
				return 0, err.Error()
			}
			return code, body
		}
	}
	refused := func(what string, ready func() (int, string), want string) {
		t.Helper()
		eventually(t, what+": the bridge is not ready and says why", func() bool {
			code, body := ready()
			return code == http.StatusServiceUnavailable && strings.Contains(body, want) && strings.Contains(body, "forbidden")
		})
	}

	b, ready := bridgeWith(func(cfg *bridge.Config) {
		cfg.Kubernetes.Kubeconfig = a.accountKubeconfig(t, a.config, "nobody", t.TempDir())
	})
	refused("no rights", ready, `leader election: lease petiole-system/bridge: leases.coordination.k8s.io "bridge" is forbidden: User "system:serviceaccount:petiole-system:nobody"`)
	b.stop()

	b, ready = bridgeWith(func(cfg *bridge.Config) { cfg.LeaderElection.Name = "other" })
	refused("another lease", ready, `leader election: lease petiole-system/other: leases.coordination.k8s.io "other" is forbidden`)
	w.allowLease("other")
	eventually(t, "the bridge leads and is ready", func() bool { code, _ := ready(); return code == http.StatusOK })
	b.stop()
}

// allowLease lets the bridge compete for another lease until the test ends.
func (w *world) allowLease(name string) {
	w.t.Helper()
	rbac := w.admin.RbacV1()
	meta := metav1.ObjectMeta{Name: "lease-" + name, Namespace: "petiole-system"}
	_, err := rbac.Roles(meta.Namespace).Create(w.ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{name}, Verbs: []string{"get", "update"}},
	}}, metav1.CreateOptions{})
	w.must(err)
	_, err = rbac.RoleBindings(meta.Namespace).Create(w.ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "bridge", Namespace: meta.Namespace}},
	}, metav1.CreateOptions{})
	w.must(err)
	w.t.Cleanup(func() {
		ctx := context.Background()
		w.must(errors.Join(rbac.RoleBindings(meta.Namespace).Delete(ctx, meta.Name, metav1.DeleteOptions{}), rbac.Roles(meta.Namespace).Delete(ctx, meta.Name, metav1.DeleteOptions{}),
			w.admin.CoordinationV1().Leases(meta.Namespace).Delete(ctx, name, metav1.DeleteOptions{})))
	})
}
