package breaker

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/breaker/check"
)

const (
	nodeStep       = time.Second
	leaseInterval  = 8 * time.Second
	statusInterval = 15 * time.Second
	// endAfter is the number of reports after which a pod ends, if it is one that ends.
	endAfter = 12
)

// node is a client of the node API that behaves as a kubelet without containers: it registers the
// node, renews its lease, reports each pod's status with a number that grows, and
// confirms deletions.
type node struct {
	*siteView
	rng *rand.Rand
	n   int64
	// quiet suppresses changes that nothing asks for.
	quiet *atomic.Bool

	renewed, posted time.Time
	// tried is the newest status of each pod, by UID, that was written with or without an answer: no
	// kubelet takes back a restart or the end of a pod.
	tried map[string]podReport

	mu       sync.Mutex
	reported map[string]podReport // by UID
}

// podReport is the newest status that the node API has acknowledged.
type podReport struct {
	n        int64
	restarts int32
	phase    corev1.PodPhase
	message  string
}

func newNode(v *siteView, seed uint64) *node {
	return &node{siteView: v, rng: rand.New(rand.NewPCG(seed, uint64(v.site.Number))), tried: map[string]podReport{}, reported: map[string]podReport{}}
}

// run runs until ctx ends. Errors mean that the leaf is down or its disk is full, and
// are retried.
func (k *node) run(ctx context.Context) {
	for sleep(ctx, nodeStep) {
		k.do(ctx, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
			defer cancel()
			cfg, err := k.site.NodeAPI()
			if err != nil {
				return
			}
			c, err := kubernetes.NewForConfig(cfg)
			if err != nil {
				return
			}
			if err := k.heartbeat(ctx, c); err != nil {
				return
			}
			for _, p := range k.pods() {
				k.syncPod(ctx, c, p)
			}
		})
	}
}

// heartbeat keeps node and lease.
func (k *node) heartbeat(ctx context.Context, c kubernetes.Interface) error {
	if time.Since(k.posted) > statusInterval {
		if err := k.syncNode(ctx, c); err != nil {
			return err
		}
		k.posted = time.Now()
	}
	if time.Since(k.renewed) < leaseInterval {
		return nil
	}
	now := metav1.NowMicro()
	name, duration := k.site.Node(), int32(40)
	_, err := c.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &duration, RenewTime: &now},
	}, metav1.UpdateOptions{})
	if err == nil {
		k.renewed = time.Now()
	}
	return err
}

// syncNode registers the node or updates its status.
func (k *node) syncNode(ctx context.Context, c kubernetes.Interface) error {
	now := metav1.Now()
	status := corev1.NodeStatus{
		Capacity:    corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		Allocatable: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "a light site", LastHeartbeatTime: now, LastTransitionTime: now}},
	}
	nodes := c.CoreV1().Nodes()
	_, err := nodes.Get(ctx, k.site.Node(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.site.Node()}, Status: status}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": status.Conditions}})
	if err != nil {
		return err
	}
	_, err = nodes.Patch(ctx, k.site.Node(), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// syncPod confirms a pod's deletion, ends it, or now and then reports a new status.
func (k *node) syncPod(ctx context.Context, c kubernetes.Interface, p *unstructured.Unstructured) {
	pods := c.CoreV1().Pods(p.GetNamespace())
	uid := p.GetUID()
	if p.GetDeletionTimestamp() != nil {
		grace := int64(0)
		// A rejected write is retried in the next step.
		_ = pods.Delete(ctx, p.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}})
		return
	}
	last, known := k.report(string(uid))
	if known && (k.quiet.Load() || k.rng.IntN(5) > 0 || last.phase == corev1.PodSucceeded) {
		if shown, _, err := unstructured.NestedString(p.Object, "status", "message"); err == nil && shown == last.message {
			return
		}
	}
	tried := k.tried[string(uid)]
	next := podReport{n: k.n + 1, phase: corev1.PodRunning, restarts: tried.restarts}
	k.n++
	if k.rng.IntN(4) == 0 {
		next.restarts++
	}
	if tried.phase == corev1.PodSucceeded || strings.HasSuffix(p.GetName(), "-0") && k.n%endAfter == 0 {
		next.phase = corev1.PodSucceeded
	}
	next.message = string(uid) + "/" + strconv.FormatInt(next.n, 10)
	k.tried[string(uid)] = next
	if err := k.patch(ctx, c, p, next); err != nil {
		return
	}
	k.mu.Lock()
	k.reported[string(uid)] = next
	k.mu.Unlock()
	k.record.add(check.Event{
		Kind: check.Reported, Site: k.site.Name, Object: objectName("pods", p.GetNamespace(), p.GetName()), UID: string(uid), N: next.n, Phase: string(next.phase),
	})
}

func (k *node) patch(ctx context.Context, c kubernetes.Interface, p *unstructured.Unstructured, r podReport) error {
	ready := corev1.ConditionTrue
	if r.phase == corev1.PodSucceeded {
		ready = corev1.ConditionFalse
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.GetUID()},
		"status": corev1.PodStatus{
			Phase: r.phase, Message: r.message, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "c", Image: "none", RestartCount: r.restarts}},
		},
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = c.CoreV1().Pods(p.GetNamespace()).Patch(ctx, p.GetName(), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func (k *node) report(uid string) (podReport, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.reported[uid]
	return r, ok
}
