package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// TestWorkloadWithADuration cuts off a site with a workload that may be away for a second: it is replaced
// at the other site while its old copy goes on, which stops at the return.
func TestWorkloadWithADuration(t *testing.T) {
	site, other := lab.Sites[0], lab.Sites[1]
	p := &plant{site: site, ns: newNamespace(t, "duration")}
	d, grace := mover(site), int64(1)
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace // the API has the old copy until it has ended
	d.Spec.Template.Annotations = map[string]string{v1alpha1.AutonomyAnnotation: "1s"}
	_, err := lab.Kube.AppsV1().Deployments(p.ns).Create(t.Context(), d, metav1.CreateOptions{})
	must(t, err)
	eventually(t, time.Minute, "the workload runs at "+site.Name, readyOn(p.ns, site.Node))

	p.cut(t)
	cutAt := time.Now()
	before := got[map[string]string](t)(p.running(t.Context()))
	eventually(t, 3*time.Minute, "the workload is replaced at "+other.Name, readyOn(p.ns, other.Node))
	t.Logf("MEASURED cut → a workload with a duration of 1 s is ready at the other site: %s", time.Since(cutAt).Round(time.Second))
	p.stillRunning(t, before)

	must(t, lab.Heal(t.Context(), site))
	took := eventually(t, time.Minute, "the old copy has ended", func(ctx context.Context) error {
		all, err := site.Runtime.Containers(ctx, p.ns)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Running && strings.HasPrefix(c.PodName, moverName) {
				return fmt.Errorf("%s runs", c.PodName)
			}
		}
		return nil
	})
	t.Logf("MEASURED heal → the old copy has ended: %s", took.Round(time.Millisecond))
	must(t, readyOn(p.ns, other.Node)(t.Context()))
}
