package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// rebootGoal is from the leaf's start to all pods running.
const rebootGoal = 5 * time.Second

// TestRebootWhileCut power-cycles a site that has no link: its pods come back by
// themselves, with ConfigMaps, Secrets and tokens. KubeEdge never restarts a pod with a
// token here.
func TestRebootWhileCut(t *testing.T) {
	site := lab.Sites[0]
	p := newPlant(t, site, "reboot", 3, 40)
	p.settle(t)
	before := got[map[string]string](t)(p.running(t.Context()))
	pods := got[[]corev1.Pod](t)(podsOf(t.Context(), p.ns, ""))
	oldLeaf := got[rig.Process](t)(site.Leaf())
	p.cut(t)
	must(t, lab.Reboot(t.Context(), site))
	var leaf rig.Process
	eventually(t, time.Minute, "a new leaf runs", func(context.Context) (err error) {
		if leaf, err = site.Leaf(); err == nil && leaf.Same(oldLeaf) {
			err = errors.New("the old one still runs")
		}
		return err
	})

	var started time.Time
	eventually(t, 2*time.Minute, "all pods of the site run again", func(ctx context.Context) error {
		all, err := site.Runtime.Containers(ctx, p.ns)
		if err != nil {
			return err
		}
		back := map[string]bool{}
		for _, c := range all {
			key := c.PodUID + "/" + c.Name
			if !c.Running || before[key] == c.ID {
				continue
			}
			back[key] = true
			if c.StartedAt.After(started) {
				started = c.StartedAt
			}
		}
		if len(back) != len(before) {
			return fmt.Errorf("%d of %d containers run", len(back), len(before))
		}
		return nil
	})
	measuredBetween(t, fmt.Sprintf("reboot while cut: leaf start → last of %d pods running", len(before)), leaf.Started, started, rebootGoal)

	for _, pod := range pods {
		if pod.Labels["app"] != "web" {
			continue
		}
		uid := string(pod.UID)
		eventually(t, 20*time.Second, "its ConfigMap", fileIs(site, uid, settingsDir+"greeting", "start"))
		eventually(t, 5*time.Second, "its Secret", fileIs(site, uid, passwordFile, "hunter2"))
		for _, path := range []string{tokenFile, defaultToken} {
			claims := got[tokenClaims](t)(parseToken(got[string](t)(readFile(t.Context(), site, uid, path))))
			if claims.Kubernetes.Pod.UID != uid || time.Unix(claims.Expiry, 0).Before(time.Now()) {
				t.Errorf("token %s of pod %s is for pod %q and valid until %s", path, pod.Name, claims.Kubernetes.Pod.UID, time.Unix(claims.Expiry, 0))
			}
		}
	}

	living := got[map[string]string](t)(p.running(t.Context()))
	healAt := time.Now()
	must(t, lab.Heal(t.Context(), site))
	took := timed(t, healAt, convergeLimit, map[string]condition{
		"node Ready in the API":                   nodeReady(site.Node),
		"site stream equals the API":              converged(site),
		"API status equals the truth at the site": p.truthful,
		"the same pods as before":                 samePods(p.ns, pods),
	})
	measured(t, "heal after a reboot → everything converged", last(took), convergeGoal)
	p.stillRunning(t, living)
}

func samePods(ns string, want []corev1.Pod) condition {
	return func(ctx context.Context) error {
		now, err := podsOf(ctx, ns, "")
		if err != nil {
			return err
		}
		if len(now) != len(want) {
			return fmt.Errorf("the API has %d pods, before %d", len(now), len(want))
		}
		for i := range now { // lists are ordered by name
			if now[i].UID != want[i].UID {
				return fmt.Errorf("pod %s is %s, before %s", now[i].Name, now[i].UID, want[i].UID)
			}
		}
		return nil
	}
}
