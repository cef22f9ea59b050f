package objects

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Mount identifies a ConfigMap or Secret that a pod mounts.
type Mount struct {
	schema.GroupResource
	Key
}

// mountedBy returns the ConfigMaps and Secrets in a pod's volumes, without their namespace.
// Those in its environment do not count: they are read only when a container starts.
func mountedBy(spec json.RawMessage) ([]Mount, error) {
	type named struct{ Name, SecretName string }
	var s struct {
		Volumes []struct {
			ConfigMap, Secret *named
			Projected         *struct {
				Sources []struct{ ConfigMap, Secret *named }
			}
		}
	}
	if IsEmpty(spec) {
		return nil, nil
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, fmt.Errorf("spec.volumes: %w", err)
	}
	var uses []Mount
	add := func(configMap, secret *named) {
		if configMap != nil {
			uses = append(uses, Mount{ConfigMaps, Key{Name: configMap.Name}})
		}
		if secret != nil {
			uses = append(uses, Mount{Secrets, Key{Name: secret.Name + secret.SecretName}})
		}
	}
	for _, v := range s.Volumes {
		add(v.ConfigMap, v.Secret)
		if v.Projected != nil {
			for _, src := range v.Projected.Sources {
				add(src.ConfigMap, src.Secret)
			}
		}
	}
	return uses, nil
}

// BumpContentVersions changes the content version (ContentVersionAnnotation) of the pods of a
// node that mount a changed object.
func (s *Store) BumpContentVersions(node string, changed map[Mount]*Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables.of(Pods)
	for k, e := range t.entries {
		if e.effective == nil || e.effective.Get("spec.nodeName") != node {
			continue
		}
		sum := sha256.New()
		sum.Write([]byte(e.contentVersion))
		found := false
		for _, u := range e.effective.mounts {
			u.Namespace = k.Namespace
			// A pod that was created after the change reads it anyway.
			if o := changed[u]; o != nil && o.ResourceVersion > e.createdRV {
				sum.Write(o.digest[:])
				found = true
			}
		}
		if !found {
			continue
		}
		before := e.contentVersion
		e.contentVersion = hex.EncodeToString(sum.Sum(nil)[:6])
		if err := s.recompute(t, k, e); err != nil {
			e.contentVersion = before
			return fmt.Errorf("pod %s: %w", k, err)
		}
	}
	return nil
}
