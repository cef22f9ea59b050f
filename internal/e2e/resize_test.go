package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestResize changes the processor time and the memory of a running container, which is not restarted.
// What is changed while the site is away is applied after the heal.
func TestResize(t *testing.T) {
	site := lab.Sites[0]
	p := &plant{site: site, ns: newNamespace(t, "resize")}
	pod := sleeperPod(site, "growing", true)
	pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	createPod(t, p.ns, pod)
	eventually(t, time.Minute, "the pod runs", allReady(p.ns, "app=growing", 1))
	before := got[map[string]string](t)(p.running(t.Context()))

	resize := func(cpu, memory string) {
		t.Helper()
		amounts := fmt.Sprintf(`{"cpu":%q,"memory":%q}`, cpu, memory)
		patch := fmt.Sprintf(`{"spec":{"containers":[{"name":"sleeper","resources":{"requests":%s,"limits":%s}}]}}`, amounts, amounts)
		if _, errs, err := kubectl(t.Context(), nil, "-n", p.ns, "patch", "pod", "growing", "--subresource", "resize", "--patch", patch); err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
	}
	// applied holds when the container sees the limits in its cgroup, of either version, and the API says so.
	applied := func(quota, bytes, cpu string) condition {
		return func(ctx context.Context) error {
			out, errs, err := kubectl(ctx, nil, "-n", p.ns, "exec", "growing", "--", "sh", "-c",
				"cd /sys/fs/cgroup; cat cpu.max memory.max 2>/dev/null || cat cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes")
			if err != nil {
				return fmt.Errorf("%w: %s", err, errs)
			}
			if f := strings.Fields(out); len(f) < 2 || f[0] != quota || f[len(f)-1] != bytes {
				return fmt.Errorf("its cgroup has %q, want %s and %s", out, quota, bytes)
			}
			pod, err := p.pod(ctx, "growing")
			if err != nil {
				return err
			}
			r := pod.Status.ContainerStatuses[0].Resources
			if r == nil || r.Limits.Cpu().String() != cpu || podCondition(pod, corev1.PodResizeInProgress) != nil {
				return fmt.Errorf("its status has %+v, conditions %+v", r, pod.Status.Conditions)
			}
			return nil
		}
	}
	resize("200m", "64Mi")
	took := eventually(t, time.Minute, "the container has more", applied("20000", "67108864", "200m"))
	t.Logf("MEASURED kubectl patch --subresource resize → the container has it: %s", took.Round(time.Millisecond))
	p.cut(t)
	resize("300m", "96Mi")
	must(t, lab.Heal(t.Context(), site))
	eventually(t, time.Minute, "the container has what was given while its site was away", applied("30000", "100663296", "300m"))
	p.stillRunning(t, before)
}
