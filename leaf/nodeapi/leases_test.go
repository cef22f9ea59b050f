package nodeapi

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

func TestLeasesAreNotReported(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	leases := r.proto().CoordinationV1().Leases(nodeLeases)
	holder := node
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}
	before := time.Now()
	lease, err := leases.Create(t.Context(), lease, metav1.CreateOptions{})
	must(t, err)
	renew := func() {
		t.Helper()
		now := metav1.NowMicro()
		lease.Spec.RenewTime = &now
		lease, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
		must(t, err)
	}
	renew()
	if p := r.Leases(); len(p) != 1 || p[0].Name != node || p[0].Renewed.Before(before) {
		t.Errorf("Leases = %+v", p)
	}
	s, err := l.js.Stream(t.Context(), streams.SiteReported)
	must(t, err)
	if info, err := s.Info(t.Context()); err != nil || info.State.Msgs != 0 {
		t.Errorf("leases were reported: %+v, %v", info, err)
	}
	// A restart loses the lease; the kubelet keeps renewing it.
	r.stop()
	r = l.start(dir)
	leases = r.proto().CoordinationV1().Leases(nodeLeases)
	renew()
	renew()
	if p := r.Leases(); len(p) != 1 {
		t.Errorf("Leases after a restart = %+v", p)
	}
	must(t, leases.Delete(t.Context(), node, metav1.DeleteOptions{}))
}
