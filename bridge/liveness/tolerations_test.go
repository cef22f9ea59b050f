package liveness

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

func seconds(n int64) *int64 { return &n }

func TestAutonomySeconds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		pod, node string
		want      *int64
		bad       bool
	}{
		{name: "default is for ever"},
		{name: "zero is for ever", node: "0"},
		{name: "duration of the node", node: "10m", want: seconds(600)},
		{name: "the pod's wins", pod: "90s", node: "10m", want: seconds(90)},
		{name: "the pod's zero wins", pod: "0", node: "10m"},
		{name: "fractions round up", pod: "1500ms", want: seconds(2)},
		{name: "nonsense", pod: "soon", bad: true},
		{name: "negative", node: "-1m", bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := autonomySeconds(annotation(tt.pod), annotation(tt.node))
			if (err != nil) != tt.bad || !equality.Semantic.DeepEqual(got, tt.want) {
				t.Errorf("autonomySeconds = %v, %v", got, err)
			}
		})
	}
}

func annotation(v string) map[string]string {
	if v == "" {
		return nil
	}
	return map[string]string{v1alpha1.AutonomyAnnotation: v}
}

func TestTolerationsFor(t *testing.T) {
	t.Parallel()
	tol := func(key string, s *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: s}
	}
	// The toleration of a node that is not ready stays as the API server has set it.
	notReady := tol(corev1.TaintNodeNotReady, seconds(300))
	both := func(s *int64) []corev1.Toleration {
		return []corev1.Toleration{notReady, tol(corev1.TaintNodeUnreachable, s)}
	}
	gone := func(s *int64) []corev1.Toleration { return []corev1.Toleration{tol(corev1.TaintNodeUnreachable, s)} }
	other := corev1.Toleration{Key: "dedicated", Operator: corev1.TolerationOpEqual, Value: "edge", Effect: corev1.TaintEffectNoSchedule}
	all := corev1.Toleration{Operator: corev1.TolerationOpExists}
	now := metav1.Now()
	tests := []struct {
		name    string
		pod     corev1.Pod
		seconds *int64
		want    []corev1.Toleration
		change  bool
	}{
		{"none yet", pod(), nil, gone(nil), true},
		{"the API server's default", pod(both(seconds(300))...), nil, both(nil), true},
		{"already so", pod(both(nil)...), nil, both(nil), false},
		{"a duration", pod(both(seconds(300))...), seconds(60), both(seconds(60)), true},
		{"others stay first", pod(append([]corev1.Toleration{other}, both(seconds(300))...)...), nil, append([]corev1.Toleration{other}, both(nil)...), true},
		{"tolerates everything", pod(all), nil, []corev1.Toleration{all}, false},
		{"tolerates everything, for a limited time", pod(all), seconds(60), append([]corev1.Toleration{all}, gone(seconds(60))...), true},
		{"mirror pod", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"}}}, nil, nil, false},
		{"ended", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, nil, nil, false},
		{"being deleted", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, nil, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, change := tolerationsFor(&tt.pod, tt.seconds)
			if change != tt.change || !equality.Semantic.DeepEqual(got, tt.want) {
				t.Errorf("tolerationsFor = %+v, %v; want %+v, %v", got, change, tt.want, tt.change)
			}
		})
	}
}

func pod(t ...corev1.Toleration) corev1.Pod { return corev1.Pod{Spec: corev1.PodSpec{Tolerations: t}} }
