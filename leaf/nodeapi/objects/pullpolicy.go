package objects

import (
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// SetOffline sets whether the site is without a link. While it has none, a kubelet gets its pods with
// imagePullPolicy IfNotPresent in place of Always, since a registry can hardly be reached and an
// image that is on disk would do. The kubelet checks then, as for every pod with that policy,
// whether the image was pulled before with the pod's credentials. It neither restarts a container
// nor pulls an image because the policy changes.
func (s *Store) SetOffline(offline bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.offline == offline {
		return nil
	}
	s.offline = offline
	t := s.tables.of(Pods)
	var errs []error
	for k, e := range t.entries {
		if e.effective == nil {
			continue
		}
		if err := s.recompute(t, k, e); err != nil {
			errs = append(errs, fmt.Errorf("pod %s: %w", k, err))
		}
	}
	return errors.Join(errs...)
}

// withImagesOnDisk replaces the policy Always of a pod's images by IfNotPresent.
func withImagesOnDisk(pod Document) error {
	spec, err := pod.Child("spec")
	if err != nil {
		return err
	}
	changed := false
	for _, field := range []string{"initContainers", "containers", "ephemeralContainers"} {
		if err := eachOf(spec, field, func(c Document) (bool, error) { return relax(c, "imagePullPolicy"), nil }, &changed); err != nil {
			return fmt.Errorf("spec.%s: %w", field, err)
		}
	}
	err = eachOf(spec, "volumes", func(v Document) (bool, error) {
		image, err := v.Child("image")
		if err != nil || !relax(image, "pullPolicy") {
			return false, err
		}
		v["image"] = image.Encode()
		return true, nil
	}, &changed)
	if err != nil {
		return fmt.Errorf("spec.volumes: %w", err)
	}
	if changed {
		pod["spec"] = spec.Encode()
	}
	return nil
}

// relax replaces the policy Always in a field by IfNotPresent. It reports whether it did.
func relax(d Document, field string) bool {
	if d.Text(field) != string(corev1.PullAlways) {
		return false
	}
	d.SetText(field, string(corev1.PullIfNotPresent))
	return true
}

// eachOf calls change for each object of a list, and encodes the list again, and sets changed, if
// one of the calls returned true.
func eachOf(d Document, field string, change func(Document) (bool, error), changed *bool) error {
	if IsEmpty(d[field]) {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(d[field], &list); err != nil {
		return err
	}
	any := false
	for i, raw := range list {
		o, err := ParseDocument(raw)
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		did, err := change(o)
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		if did {
			list[i], any = o.Encode(), true
		}
	}
	if !any {
		return nil
	}
	*changed = true
	var err error
	d[field], err = json.Marshal(list)
	return err
}
