package liveness

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// TolerationsConfig is what Tolerations need.
type TolerationsConfig struct {
	Pods corev1client.PodsGetter
	// Cache holds the last known state of pods and nodes.
	Cache Nodes
	// PodsOn returns the pods bound to a node.
	PodsOn func(node string) []kube.Key
	// Queue holds the pods to check.
	Queue workqueue.TypedRateLimitingInterface[kube.Key]
	Log   *zap.Logger
	// Report is called with the result of each write.
	Report func(error)
}

// fieldManager tells deploy/kubernetes/tolerations-policy.yaml, which keeps the toleration of a pod that
// is updated, that the bridge changes it.
const fieldManager = "petiole-bridge"

// Tolerations prevents Kubernetes from evicting the pods of disconnected sites: it sets the
// toleration of bound pods for nodes that are not heard. Tolerations can be added to a running pod, and their seconds
// changed, so no webhook is needed.
type Tolerations struct{ cfg TolerationsConfig }

// NewTolerations returns a writer of tolerations that has not started.
func NewTolerations(cfg TolerationsConfig) *Tolerations { return &Tolerations{cfg} }

// Close shuts down the queue of a writer that Run was not called for.
func (t *Tolerations) Close() { t.cfg.Queue.ShutDown() }

// Changed queues a pod, or all pods of a node.
func (t *Tolerations) Changed(k kube.Key) {
	switch {
	case k.Group == "" && k.Resource == "pods":
		t.cfg.Queue.Add(k)
	case k.Group == "" && k.Resource == "nodes":
		for _, p := range t.cfg.PodsOn(k.Name) {
			t.cfg.Queue.Add(p)
		}
	}
}

// Run works until ctx ends.
func (t *Tolerations) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		t.cfg.Queue.ShutDown()
	})
	wg.Go(func() {
		for k, down := t.cfg.Queue.Get(); !down; k, down = t.cfg.Queue.Get() {
			if err := t.setTolerations(ctx, k); err == nil {
				t.cfg.Queue.Forget(k)
				t.cfg.Report(nil)
			} else if ctx.Err() == nil {
				t.cfg.Report(err)
				t.cfg.Queue.AddRateLimited(k)
			}
			t.cfg.Queue.Done(k)
		}
	})
	wg.Wait()
}

func (t *Tolerations) setTolerations(ctx context.Context, k kube.Key) error {
	o := t.cfg.Cache.Get(k)
	if o == nil {
		return nil
	}
	node := t.cfg.Cache.Get(kube.CoreKey("nodes", "", kube.StringAt(o, "spec", "nodeName")))
	if node == nil || node.GetLabels()[v1alpha1.SiteLabel] == "" {
		return nil
	}
	var pod corev1.Pod
	if err := kube.Decode(o, &pod); err != nil {
		return err
	}
	seconds, err := autonomySeconds(pod.Annotations, node.GetAnnotations())
	if err != nil {
		t.cfg.Log.Warn("invalid autonomy annotation, the pod is never evicted", zap.Stringer("pod", k.Ref("")), zap.Error(err))
	}
	wanted, change := tolerationsFor(&pod, seconds)
	if !change {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
		"spec":     map[string]any{"tolerations": wanted},
	})
	if err != nil {
		return fmt.Errorf("encode tolerations of %s: %w", k.Ref(""), err)
	}
	_, err = t.cfg.Pods.Pods(k.Namespace).Patch(ctx, k.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // the change or deletion will arrive here
	}
	if err != nil {
		return fmt.Errorf("set tolerations of %s: %w", k.Ref(""), err)
	}
	return nil
}

// autonomySeconds returns the time for which a pod outlives the loss of its site, nil for
// forever. If the annotation is neither "0" nor a positive Go duration, it returns nil and an
// error.
func autonomySeconds(pod, node map[string]string) (*int64, error) {
	value, ok := pod[v1alpha1.AutonomyAnnotation]
	if !ok {
		value, ok = node[v1alpha1.AutonomyAnnotation]
	}
	if !ok || value == "0" {
		return nil, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return nil, fmt.Errorf("%s is %q: %w", v1alpha1.AutonomyAnnotation, value, err)
	}
	if d < 0 {
		return nil, fmt.Errorf("%s is %q: want 0 or a positive duration", v1alpha1.AutonomyAnnotation, value)
	}
	if d == 0 {
		return nil, nil
	}
	seconds := int64(math.Ceil(d.Seconds()))
	return &seconds, nil
}

// tolerationsFor returns the tolerations that a pod on a site's node should have, and whether
// they differ. It sets that of nodes that are not heard alone: a node that is not ready is heard,
// and its pods have a better place elsewhere. It removes none, because the API would reject that, and leaves pods alone that
// have ended, are being deleted, or mirror a static pod. It is a pure function.
func tolerationsFor(pod *corev1.Pod, seconds *int64) ([]corev1.Toleration, bool) {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror || ended || pod.DeletionTimestamp != nil {
		return pod.Spec.Tolerations, false
	}
	wanted := slices.Clone(pod.Spec.Tolerations)
	const taint = corev1.TaintNodeUnreachable
	tolerated := false
	for i, have := range wanted {
		if have.Effect != "" && have.Effect != corev1.TaintEffectNoExecute || have.Operator != corev1.TolerationOpExists {
			continue
		}
		switch have.Key {
		case taint:
			tolerated = true
			if have.Effect == corev1.TaintEffectNoExecute {
				wanted[i].TolerationSeconds = seconds
			}
		case "":
			tolerated = tolerated || have.TolerationSeconds == nil && seconds == nil
		}
	}
	if !tolerated {
		wanted = append(wanted, corev1.Toleration{
			Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds,
		})
	}
	return wanted, !equality.Semantic.DeepEqual(wanted, pod.Spec.Tolerations)
}
