package bridgetest

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// TestPresence: what heartbeats, and silence, do.
func TestPresence(t *testing.T) {
	runAll(t, []sharing{
		{"RenewsLeasesOfTheLiving", renewsLeases},
		{"ReportsASilentSite", reportsSilentSite},
		{"TakesInASiteThatComesLate", lateSite},
	})
}

func renewsLeases(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	s.register("a2")
	w.site("plant-b").register("b1")
	renewed := func(node string) time.Time {
		l, err := a.admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(w.ctx, node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return time.Time{}
		}
		w.must(err)
		if *l.Spec.HolderIdentity != node || *l.Spec.LeaseDurationSeconds != 40 || len(l.OwnerReferences) != 1 {
			t.Errorf("lease is %+v", l)
		}
		return l.Spec.RenewTime.Time
	}
	eventually(t, "lease of a1", func() bool {
		s.beat(0, "a1", "b1")
		return !renewed("a1").IsZero()
	})
	first := renewed("a1")
	s.beat(time.Minute, "a2")
	eventually(t, "lease of a1 renewed", func() bool {
		s.beat(0, "a1", "b1")
		return renewed("a1").After(first)
	})
	if !renewed("a2").IsZero() {
		t.Error("the lease of a silent node was renewed")
	}
	if !renewed("b1").IsZero() {
		t.Error("a site renewed another's lease")
	}
}

func reportsSilentSite(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	s.beat(0, "a1")
	is := func(connected bool) func() bool {
		return func() bool {
			n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
			w.must(err)
			c := nodeCondition(n, v1alpha1.SiteConnectedCondition)
			return w.siteStatus("plant-a").Connected == connected && (c == corev1.ConditionTrue) == connected && c != ""
		}
	}
	eventually(t, "connected", is(true))
	// Nothing shortens the time after which silence counts.
	for start := time.Now(); !is(false)(); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > streams.PresenceTimeout+patience {
			t.Fatal("a silent site stays connected")
		}
	}
	since := w.siteStatus("plant-a").Since
	if since == nil || time.Since(since.Time) > 10*time.Second {
		t.Errorf("silent since %v", since)
	}
	s.beat(0, "a1")
	eventually(t, "connected again", is(true))
}

// A site without a Site has no stream: nobody answers, so that its leaf keeps its reports, and they
// are written once there is a Site.
func lateSite(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.must(w.dynamic.Resource(sitesGVR).Delete(w.ctx, "plant-a", metav1.DeleteOptions{}))
	b := w.start("one")
	b.rounds(t, "the site controller", 2, func(c bridge.Counters) uint64 { return c.SiteRounds })
	s := w.site("plant-a")
	subject := streams.ReportedSubject("plant-a", streams.Ref{Node: "a1", Resource: "nodes", Name: "a1"})
	if m, err := s.nc.Request(subject, []byte("{}"), patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("the report of an unknown site is answered %+v, %v", m, err)
	}
	if _, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("node of an unknown site: %v", err)
	}
	w.createSite("plant-a")
	s.reportNode("a1", corev1.ConditionTrue) // its leaf sends it until it is stored
	eventually(t, "node registered once there is a Site", func() bool {
		_, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		return err == nil
	})
}

func oneLeader(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	first := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	second := w.start("two")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published", isPut)
	if n := second.Counters().Published; n != 0 {
		t.Errorf("the second bridge published %d messages", n)
	}
	first.stop()
	w.setConfigMap("settings", "2")
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published by the second bridge", contains(`"v":"2"`))
	// It counts a message after the hub has acknowledged it.
	eventually(t, "counted by the second bridge, which published it", func() bool { return second.Counters().Published > 0 })
}

// TestActsByClassicImpersonation has an API server of its own: who may impersonate in the
// classic way is not asked about the other.
func TestActsByClassicImpersonation(t *testing.T) {
	a := startAPI(t)
	w := newWorld(t, a, "plant-a")
	const name = "petiole-bridge-classic-impersonation"
	_, err := a.admin.RbacV1().ClusterRoleBindings().Create(w.ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "petiole-system", Name: "bridge"}},
	}, metav1.CreateOptions{})
	w.must(err)
	w.startWith("one", w.hubAddr(), w.kubeconfig, bridge.ImpersonationClassic)
	w.site("plant-a").register("a1")
}
