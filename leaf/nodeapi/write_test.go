package nodeapi

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/streams"
)

// patchStatus patches the status as the kubelet's status manager does: with a strategic merge
// patch that contains the pod's UID.
func patchStatus(t *testing.T, c kubernetes.Interface, old *corev1.Pod, uid string, change func(*corev1.PodStatus)) (*corev1.Pod, error) {
	t.Helper()
	next := old.DeepCopy()
	change(&next.Status)
	a, err := json.Marshal(corev1.Pod{Status: old.Status})
	must(t, err)
	b, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Status: next.Status})
	must(t, err)
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, corev1.Pod{})
	must(t, err)
	return c.CoreV1().Pods(old.Namespace).Patch(t.Context(), old.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

func running1(s *corev1.PodStatus) {
	s.Phase = corev1.PodRunning
	s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

func TestStatusByUpdateAndOtherPatches(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	r := l.start(t.TempDir())
	for _, c := range []kubernetes.Interface{r.json(), r.proto()} {
		pod, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
		must(t, err)
		pod.Status.Message = pod.ResourceVersion
		pod.Labels["ignored"] = "yes"
		got, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
		must(t, err)
		if got.Status.Message != pod.Status.Message || got.Labels["ignored"] != "" {
			t.Errorf("pod = %+v", got)
		}
		if _, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("update of an old version: %v, want a conflict", err)
		}
		for kind, patch := range map[types.PatchType]string{
			types.MergePatchType: `{"status":{"reason":"merge"}}`,
			types.JSONPatchType:  `[{"op":"add","path":"/status/reason","value":"json"}]`,
		} {
			got, err := c.CoreV1().Pods("default").Patch(t.Context(), "a", kind, []byte(patch), metav1.PatchOptions{}, "status")
			must(t, err)
			if !strings.Contains(patch, got.Status.Reason) || got.Status.Reason == "" {
				t.Errorf("%s: reason %q", kind, got.Status.Reason)
			}
		}
		if _, err := c.CoreV1().Pods("default").Patch(t.Context(), "a", types.ApplyPatchType, []byte(`{}`), metav1.PatchOptions{FieldManager: "x"}, "status"); !apierrors.IsUnsupportedMediaType(err) {
			t.Errorf("apply: %v", err)
		}
		if _, err := c.CoreV1().Pods("default").Patch(t.Context(), "a", types.MergePatchType, []byte(`{"status":5}`), metav1.PatchOptions{}, "status"); !apierrors.IsBadRequest(err) {
			t.Errorf("nonsense: %v", err)
		}
	}
}

func TestAWriteThatIsNotStoredIsNotAnswered(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	r := l.start(t.TempDir())
	c := r.proto()
	pod, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	must(t, l.js.DeleteStream(t.Context(), streams.SiteReported))
	if _, err := patchStatus(t, c, pod, "u1", running1); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("status: %v, want unavailable", err)
	}
	pod, err = c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	if pod.Status.Phase != corev1.PodPending {
		t.Errorf("the object changed although it was not stored: %+v", pod.Status)
	}
}
