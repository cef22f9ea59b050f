package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

const fieldManager = "petiole-lab"

// Applier applies manifests with server-side apply.
type Applier struct {
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

// NewApplier returns an applier for the API server of cfg.
func NewApplier(cfg *rest.Config) (*Applier, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	return &Applier{client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))}, nil
}

// Apply applies the files in order; of a folder, each .yaml file by name. It waits
// until each CustomResourceDefinition is established, and returns the number of
// objects.
func (a *Applier) Apply(ctx context.Context, paths ...string) (int, error) {
	n := 0
	for _, p := range paths {
		files, err := manifests(p)
		if err != nil {
			return n, fmt.Errorf("find manifests: %w", err)
		}
		for _, f := range files {
			objects, err := decodeFile(f)
			if err != nil {
				return n, fmt.Errorf("read %s: %w", f, err)
			}
			for _, o := range objects {
				if err := a.applyObject(ctx, o); err != nil {
					return n, fmt.Errorf("apply %s of %s: %w", o.GetName(), f, err)
				}
				n++
			}
		}
	}
	return n, nil
}

// Delete deletes the objects in the files, the last first. One that does not exist is no error.
func (a *Applier) Delete(ctx context.Context, paths ...string) error {
	for _, p := range slices.Backward(paths) {
		files, err := manifests(p)
		if err != nil {
			return fmt.Errorf("find manifests: %w", err)
		}
		for _, f := range slices.Backward(files) {
			objects, err := decodeFile(f)
			if err != nil {
				return fmt.Errorf("read %s: %w", f, err)
			}
			for _, o := range slices.Backward(objects) {
				client, err := a.resource(ctx, o)
				if err == nil {
					err = client.Delete(ctx, o.GetName(), metav1.DeleteOptions{})
				}
				if err != nil && !apierrors.IsNotFound(err) {
					return fmt.Errorf("delete %s of %s: %w", o.GetName(), f, err)
				}
			}
		}
	}
	return nil
}

// Check reports whether the API server would accept the files now, admission included. It
// changes nothing and does not wait.
func (a *Applier) Check(ctx context.Context, path string) error {
	a.mapper.Reset()
	files, err := manifests(path)
	if err != nil {
		return fmt.Errorf("find manifests: %w", err)
	}
	for _, f := range files {
		objects, err := decodeFile(f)
		if err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
		for _, o := range objects {
			mapping, err := a.mapper.RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", o.GetName(), f, err)
			}
			opts := metav1.ApplyOptions{FieldManager: fieldManager, Force: true, DryRun: []string{metav1.DryRunAll}}
			if _, err := a.scoped(mapping, o).Apply(ctx, o.GetName(), o, opts); err != nil {
				return fmt.Errorf("%s of %s: %w", o.GetName(), f, err)
			}
		}
	}
	return nil
}

func (a *Applier) applyObject(ctx context.Context, o *unstructured.Unstructured) error {
	client, err := a.resource(ctx, o)
	if err != nil {
		return err
	}
	opts := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	if _, err := client.Apply(ctx, o.GetName(), o, opts); err != nil {
		return err
	}
	if o.GetKind() != "CustomResourceDefinition" {
		return nil
	}
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		crd, err := client.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return established(crd), nil
	})
}

// resource waits for the API of a definition that was applied a moment ago.
func (a *Applier) resource(ctx context.Context, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	var mapping *meta.RESTMapping
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		var err error
		mapping, err = a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if meta.IsNoMatchError(err) {
			a.mapper.Reset()
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, fmt.Errorf("find the resource of %s: %w", gvk, err)
	}
	return a.scoped(mapping, o), nil
}

// scoped is the client for the object's resource, in the object's namespace if it has one.
func (a *Applier) scoped(mapping *meta.RESTMapping, o *unstructured.Unstructured) dynamic.ResourceInterface {
	client := a.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return client
	}
	namespace := o.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return client.Namespace(namespace)
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, err := unstructured.NestedSlice(crd.Object, "status", "conditions")
	return err == nil && slices.ContainsFunc(conditions, func(c any) bool {
		m, ok := c.(map[string]any)
		return ok && m["type"] == "Established" && m["status"] == "True"
	})
}

func manifests(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	return filepath.Glob(filepath.Join(path, "*.yaml"))
}

func decodeFile(path string) ([]*unstructured.Unstructured, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var o unstructured.Unstructured
		err := d.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, &o)
		}
	}
}
