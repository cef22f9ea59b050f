package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// TestKill kills each part with SIGKILL in the middle of a cut with changes, and
// expects the same end as if nothing had happened.
func TestKill(t *testing.T) {
	site := lab.Sites[0]
	victims := []struct {
		name string
		// daemon is the daemon that the lab starts again; empty: it restarts by itself.
		daemon  string
		process func() (rig.Process, error)
		// noticed: the kill comes after everybody has noticed the cut, otherwise while
		// connections still look alive.
		noticed bool
	}{
		{"kubelet", "", site.Kubelet, false},
		{"leaf", site.LeafDaemon(), site.Leaf, true},
		{"bridge", rig.BridgeDaemon, func() (rig.Process, error) { return lab.Daemon(rig.BridgeDaemon) }, false},
		{"hub", rig.HubDaemon, func() (rig.Process, error) { return lab.Daemon(rig.HubDaemon) }, true},
	}
	p := newPlant(t, site, "kill", 2, 0)
	for i, v := range victims {
		t.Run(v.name, func(t *testing.T) {
			p.settle(t)
			dying := p.ensureDoomed(t)
			// Odd rounds scale down again.
			replicas := 3 - i%2
			p.cut(t)
			setConfigMap(t, p.ns, settingsName, map[string]string{"greeting": "before the kill of " + v.name})
			p.deletePod(t, doomed)
			if v.noticed {
				eventually(t, time.Minute, "the Site shows that it is not connected", siteConnected(site, false))
			}

			living := got[map[string]string](t)(p.running(t.Context()))
			was := got[rig.Process](t)(v.process())
			must(t, was.Kill(t.Context()))
			greeting := "after the kill of " + v.name
			setConfigMap(t, p.ns, settingsName, map[string]string{"greeting": greeting})
			p.scale(t, replicas)
			if v.daemon != "" {
				must(t, lab.Restart(t.Context(), v.daemon))
			}
			eventually(t, time.Minute, v.name+" runs again", func(context.Context) error {
				now, err := v.process()
				if err == nil && now.Same(was) {
					err = fmt.Errorf("process %d still runs", was.PID)
				}
				return err
			})
			// The part is back and the link is still cut: nobody's container has died of it.
			p.stillRunning(t, living)

			healAt := time.Now()
			must(t, lab.Heal(t.Context(), site))
			took := timed(t, healAt, convergeLimit, p.convergence(dying, greeting, replicas))
			t.Logf("MEASURED kill of %s while cut, heal → everything converged: %s", v.name, last(took).Round(time.Millisecond))
			gone := append([]string{string(dying.UID)}, p.scaledAway(t, living)...)
			p.stillRunning(t, living, gone...)
		})
	}
}

// ensureDoomed creates the pod that is to be deleted, if the last round has deleted it.
func (p *plant) ensureDoomed(t *testing.T) *corev1.Pod {
	t.Helper()
	if pod, err := p.pod(t.Context(), doomed); err == nil {
		return pod
	}
	_, err := lab.Kube.CoreV1().Pods(p.ns).Create(t.Context(), sleeperPod(p.site, doomed, true), metav1.CreateOptions{})
	must(t, err)
	eventually(t, time.Minute, doomed+" is Ready", allReady(p.ns, "app="+doomed, 1))
	p.settle(t)
	return got[*corev1.Pod](t)(p.pod(t.Context(), doomed))
}

// scaledAway returns the UIDs of the pods that ran and that the API no longer has.
func (p *plant) scaledAway(t *testing.T, before map[string]string) []string {
	t.Helper()
	known := map[string]bool{}
	for _, pod := range got[[]corev1.Pod](t)(podsOf(t.Context(), p.ns, "")) {
		known[string(pod.UID)] = true
	}
	var gone []string
	for key := range before {
		if uid := key[:36]; !known[uid] {
			gone = append(gone, uid)
		}
	}
	return gone
}
