package bridge

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
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// autonomy prevents Kubernetes from evicting the pods of disconnected sites: it sets the
// tolerations of bound pods. Tolerations can be added to a running pod, and their seconds
// changed, so no webhook is needed.
type autonomy struct {
	clients *kube.Clients
	cache   objectCache
	publish *publisher
	log     *zap.Logger
	outage  *outage
	queue   workqueue.TypedRateLimitingInterface[kube.Key]
}

// changed queues a pod, or all pods of a node.
func (a *autonomy) changed(k kube.Key) {
	switch {
	case k.Group == "" && k.Resource == "pods":
		a.queue.Add(k)
	case k.Group == "" && k.Resource == "nodes":
		for _, p := range a.publish.podsOn(k.Name) {
			a.queue.Add(p)
		}
	}
}

// run works until ctx ends.
func (a *autonomy) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		a.queue.ShutDown()
	})
	wg.Go(func() {
		for k, down := a.queue.Get(); !down; k, down = a.queue.Get() {
			if err := a.setTolerations(ctx, k); err == nil {
				a.queue.Forget(k)
				a.outage.report(nil)
			} else if ctx.Err() == nil {
				a.outage.report(err)
				a.queue.AddRateLimited(k)
			}
			a.queue.Done(k)
		}
	})
	wg.Wait()
}

func (a *autonomy) setTolerations(ctx context.Context, k kube.Key) error {
	o := a.cache.Get(k)
	if o == nil {
		return nil
	}
	node := a.cache.Get(kube.CoreKey("nodes", "", kube.StringAt(o, "spec", "nodeName")))
	if node == nil || node.GetLabels()[v1alpha1.SiteLabel] == "" {
		return nil
	}
	var pod corev1.Pod
	if err := kube.Decode(o, &pod); err != nil {
		return err
	}
	seconds, err := autonomySeconds(pod.Annotations, node.GetAnnotations())
	if err != nil {
		a.log.Warn("invalid autonomy annotation, the pod is never evicted", zap.Stringer("pod", k.Ref("")), zap.Error(err))
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
	_, err = a.clients.Own.CoreV1().Pods(k.Namespace).Patch(ctx, k.Name, types.MergePatchType, patch, metav1.PatchOptions{})
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
// they differ. It removes none, because the API would reject that, and leaves pods alone that
// have ended, are being deleted, or mirror a static pod. It is a pure function.
func tolerationsFor(pod *corev1.Pod, seconds *int64) ([]corev1.Toleration, bool) {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror || terminal(pod.Status.Phase) || pod.DeletionTimestamp != nil {
		return pod.Spec.Tolerations, false
	}
	wanted := slices.Clone(pod.Spec.Tolerations)
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerated := false
		for i, t := range wanted {
			if t.Effect != "" && t.Effect != corev1.TaintEffectNoExecute || t.Operator != corev1.TolerationOpExists {
				continue
			}
			switch t.Key {
			case taint:
				tolerated = true
				if t.Effect == corev1.TaintEffectNoExecute {
					wanted[i].TolerationSeconds = seconds
				}
			case "":
				tolerated = tolerated || t.TolerationSeconds == nil && seconds == nil
			}
		}
		if !tolerated {
			wanted = append(wanted, corev1.Toleration{
				Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds,
			})
		}
	}
	return wanted, !equality.Semantic.DeepEqual(wanted, pod.Spec.Tolerations)
}
