package nodeapi

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOnlyHeartbeats tells a status that says nothing new from one that does.
func TestOnlyHeartbeats(t *testing.T) {
	t.Parallel()
	noon := time.Unix(1_800_000_000, 0)
	status := func(at time.Time, change func(*corev1.NodeStatus)) json.RawMessage {
		s := corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(at), LastTransitionTime: metav1.NewTime(noon)},
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, LastHeartbeatTime: metav1.NewTime(at)},
		}}
		if change != nil {
			change(&s)
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	was := status(noon, nil)
	for name, c := range map[string]struct {
		next json.RawMessage
		want bool
	}{
		"five minutes later":   {status(noon.Add(5*time.Minute), nil), true},
		"an hour later":        {status(noon.Add(time.Hour), nil), false},
		"the clock moved back": {status(noon.Add(-time.Minute), nil), false},
		"a condition changed": {status(noon.Add(time.Minute), func(s *corev1.NodeStatus) {
			s.Conditions[1].Status = corev1.ConditionTrue
		}), false},
		"one condition more": {status(noon.Add(time.Minute), func(s *corev1.NodeStatus) {
			s.Conditions = append(s.Conditions, corev1.NodeCondition{Type: corev1.NodePIDPressure})
		}), false},
		"an image more": {status(noon.Add(time.Minute), func(s *corev1.NodeStatus) {
			s.Images = []corev1.ContainerImage{{Names: []string{"web:1"}}}
		}), false},
		"no status": {json.RawMessage(`[]`), false},
	} {
		if got := onlyHeartbeats(was, c.next, time.Hour); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
