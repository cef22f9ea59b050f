package objects

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/petiole-io/petiole/streams/ownership"
)

// mergePodStatus returns the local status of a pod with the conditions and fields of the desired
// status that the control plane owns. Such conditions come first, as the kubelet sorts them.
func mergePodStatus(desired, local json.RawMessage) (json.RawMessage, error) {
	status, err := Document{"status": local}.Child("status")
	if err != nil {
		return nil, err
	}
	cloud, err := Document{"status": desired}.Child("status")
	if err != nil {
		return nil, err
	}
	own, err := conditions(status)
	if err != nil {
		return nil, err
	}
	theirs, err := conditions(cloud)
	if err != nil {
		return nil, err
	}
	phase := corev1.PodPhase(status.Text("phase"))
	var merged []json.RawMessage
	reported := map[corev1.PodConditionType]bool{}
	for _, c := range own {
		reported[c.Type] = ownership.KubeletPodCondition(c.Type, phase)
	}
	for _, c := range theirs {
		if !reported[c.Type] && !ownership.KubeletPodCondition(c.Type, "") {
			merged = append(merged, c.json)
		}
	}
	for _, c := range own {
		if reported[c.Type] {
			merged = append(merged, c.json)
		}
	}
	delete(status, "conditions")
	if len(merged) > 0 {
		if status["conditions"], err = json.Marshal(merged); err != nil {
			return nil, fmt.Errorf("status.conditions: %w", err)
		}
	}
	return desiredFields(status, cloud, ownership.PodStatusFields).Encode(), nil
}

// desiredFields replaces fields of a status by those of the desired status, and returns it.
func desiredFields(status, desired Document, fields []string) Document {
	for _, f := range fields {
		delete(status, f)
		if v := desired[f]; !IsEmpty(v) {
			status[f] = v
		}
	}
	return status
}

// condition is a condition of a pod.
type condition struct {
	Type corev1.PodConditionType
	json json.RawMessage
}

func conditions(status Document) ([]condition, error) {
	if IsEmpty(status["conditions"]) {
		return nil, nil
	}
	var all []json.RawMessage
	if err := json.Unmarshal(status["conditions"], &all); err != nil {
		return nil, fmt.Errorf("status.conditions: %w", err)
	}
	out := make([]condition, len(all))
	for i, raw := range all {
		out[i].json = raw
		if err := json.Unmarshal(raw, &out[i]); err != nil {
			return nil, fmt.Errorf("status.conditions[%d]: %w", i, err)
		}
	}
	return out, nil
}
