package breaker

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/oracle"
)

// containersAgree returns nil when the full site runs exactly one container for each of
// its pods (I17), and the API shows of each pod what the site shows (I15).
func (r *run) containersAgree(ctx context.Context, api oracle.API, local []unstructured.Unstructured, site *world.Site) error {
	runtime, err := rig.OpenRuntime(site.Runtime.Socket())
	if err != nil {
		return err
	}
	defer runtime.Close() //nolint:errcheck // it was only read
	containers, err := runtime.Containers(ctx, site.Objects())
	if err != nil {
		return err
	}
	running := map[string]string{} // pod UID → container
	for _, c := range containers {
		if !c.Running {
			continue
		}
		if other, twice := running[c.PodUID]; twice {
			return fmt.Errorf("pod %s has the containers %s and %s", c.PodName, other, c.ID)
		}
		running[c.PodUID] = c.ID
	}
	shown := map[string]string{}
	for _, p := range local {
		shown[string(p.GetUID())] = containerOf(p)
	}
	for _, p := range api[oracle.Core("pods")] {
		if p.GetNamespace() != site.Objects() {
			continue
		}
		uid := string(p.GetUID())
		id, ok := running[uid]
		delete(running, uid)
		switch {
		case !ok:
			return fmt.Errorf("pod %s has no container", p.GetName())
		case containerOf(p) != id, shown[uid] != id:
			return fmt.Errorf("pod %s runs in container %.12s, the site shows %.30q, the API %.30q", p.GetName(), id, shown[uid], containerOf(p))
		}
		if p.GetName() == anchor {
			r.record.add(check.Event{Kind: check.Runs, Site: site.Name, Object: objectName("pods", p.GetNamespace(), anchor), UID: uid, Digest: id})
		}
	}
	if len(running) > 0 {
		return fmt.Errorf("containers of pods that are not there: %v", slices.Sorted(maps.Keys(running)))
	}
	return nil
}

// containerOf returns the container that a pod's status names.
func containerOf(p unstructured.Unstructured) string {
	statuses, _, err := unstructured.NestedSlice(p.Object, "status", "containerStatuses")
	if err != nil || len(statuses) != 1 {
		return ""
	}
	id, _ := statuses[0].(map[string]any)["containerID"].(string)
	const scheme = "cri-o://"
	return id[min(len(id), len(scheme)):]
}
