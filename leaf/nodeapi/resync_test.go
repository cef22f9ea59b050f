package nodeapi

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

func mounts(p *corev1.Pod) {
	ref := corev1.LocalObjectReference{Name: "projected"}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "plain"}}}},
		{Name: "b", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "hidden"}}},
		{Name: "c", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref}}, {Secret: &corev1.SecretProjection{LocalObjectReference: ref}},
		}}}},
	}
}

func TestChangedContentResyncsItsPods(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	for _, n := range []string{"plain", "projected", "unused"} {
		l.configMap(newConfigMap(n, n, "10", "1"))
	}
	l.pod(newPod("user", "u1", "11", mounts))
	l.pod(newPod("other", "u2", "12"))
	r := l.start(t.TempDir())
	c := r.proto()
	w, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	got := collect(t, w)
	eventually(t, "initial pods", func() bool { return got.kinds() == "ADDED/other/u2 ADDED/user/u1" })
	last := func() *corev1.Pod {
		got.mu.Lock()
		defer got.mu.Unlock()
		return got.all[len(got.all)-1].Object.(*corev1.Pod)
	}
	l.configMap(newConfigMap("unused", "unused", "20", "2"))
	l.configMap(newConfigMap("plain", "plain", "21", "2"))
	eventually(t, "resync", func() bool { return got.kinds() == "ADDED/other/u2 ADDED/user/u1 MODIFIED/user/u1" })
	first := last().Annotations[objects.ContentVersionAnnotation]
	l.configMap(newConfigMap("projected", "projected", "22", "2"))
	eventually(t, "second resync", func() bool { return last().Annotations[objects.ContentVersionAnnotation] != first })
	if first == "" {
		t.Error("the annotation is empty")
	}
	// It survives changes of the pod, and is not reported.
	pod, err := patchStatus(t, c, last(), "u1", running1)
	must(t, err)
	if pod.Annotations[objects.ContentVersionAnnotation] == "" {
		t.Error("the annotation went with a status change")
	}
	m, _ := l.reported(podRef("default", "user"))
	if m == nil || bytes.Contains(m.Object, []byte(objects.ContentVersionAnnotation)) {
		t.Errorf("reported pod = %s", m.Object)
	}
	r.applied(l.pod(newPod("user", "u3", "30", mounts)))
	pod, err = c.CoreV1().Pods("default").Get(t.Context(), "user", metav1.GetOptions{})
	must(t, err)
	if pod.Annotations[objects.ContentVersionAnnotation] != "" {
		t.Error("a new pod has its predecessor's annotation")
	}
}
