package closure

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// Dependencies are the properties of an object that the closure depends on.
type Dependencies struct {
	// Site is the value of a Node's site label, or the name of a Site.
	Site string
	// Node is the node that a Pod or a Device is bound to, empty if it is unbound, or the node that
	// the object names (kube.Key.NamesNode).
	Node string
	// Refs lists the objects that this one needs, without duplicates.
	Refs []kube.Key
	// Signer is the signer of a ClusterTrustBundle, empty if it has none. Trusts lists the signers
	// all of whose bundles a Pod needs, without duplicates.
	Signer string
	Trusts []string
	// Subjects lists the service accounts, and the groups of service accounts, that a binding of a
	// role grants something to.
	Subjects []Subject
	// Selects is what a Site selects. Labels and Created, the time of creation, are those of an
	// object that a Site can select.
	Selects []Selection
	Labels  map[string]string
	Created string
}

// Subject is a service account, or a group that contains service accounts: all of a namespace, or
// all there are.
type Subject struct{ Namespace, Name string }

func (f Dependencies) equal(g Dependencies) bool {
	return f.Site == g.Site && f.Node == g.Node && f.Signer == g.Signer && slices.Equal(f.Refs, g.Refs) && slices.Equal(f.Trusts, g.Trusts) &&
		slices.Equal(f.Subjects, g.Subjects) && equalLabels(f, g)
}

// DependenciesOf returns the dependencies of an object. An error means that the
// object cannot be decoded; the result is then empty, or that of what can be. It is a pure function.
func DependenciesOf(k kube.Key, o *unstructured.Unstructured) (Dependencies, error) {
	switch {
	case k.Group == kube.SiteGroup && k.Resource == "sites":
		selects, err := selections(k, o)
		return Dependencies{Site: k.Name, Selects: selects}, err
	case k.IsSelected():
		return Dependencies{Labels: o.GetLabels(), Created: kube.StringAt(o, "metadata", "creationTimestamp")}, nil
	case k.Group == "" && k.Resource == "nodes":
		return Dependencies{Site: o.GetLabels()[v1alpha1.SiteLabel]}, nil
	case k.Group == "" && k.Resource == "pods":
		var pod corev1.Pod
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pod); err != nil {
			return Dependencies{}, fmt.Errorf("read %s: %w", k.Ref(""), err)
		}
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
			return Dependencies{Node: pod.Spec.NodeName, Refs: mirrorPodRefs(&pod)}, nil
		}
		return Dependencies{Node: pod.Spec.NodeName, Refs: podRefs(&pod), Trusts: trustedSigners(&pod)}, nil
	case k.Group == "" && k.Resource == "persistentvolumeclaims":
		if v := kube.StringAt(o, "spec", "volumeName"); v != "" {
			return Dependencies{Refs: []kube.Key{kube.CoreKey("persistentvolumes", "", v)}}, nil
		}
	case k.Group == "" && k.Resource == "persistentvolumes":
		return Dependencies{Refs: volumeSecrets(o)}, nil
	case k.Group == kube.CertificatesGroup && k.Resource == "clustertrustbundles":
		return Dependencies{Signer: kube.StringAt(o, "spec", "signerName")}, nil
	case k.IsRoleBinding():
		return bindingDependencies(k, o)
	case k.NamesNode():
		return Dependencies{Node: kube.StringAt(o, "spec", "nodeName")}, nil
	case k.Group == kube.DeviceGroup && k.Resource == "devices":
		f := Dependencies{Node: kube.StringAt(o, "spec", "nodeName")}
		if m := kube.StringAt(o, "spec", "deviceModelRef", "name"); m != "" {
			f.Refs = []kube.Key{{Group: kube.DeviceGroup, Resource: "devicemodels", Namespace: k.Namespace, Name: m}}
		}
		return f, nil
	}
	return Dependencies{}, nil
}

// mirrorPodRefs returns the objects that a node may read because of a mirror pod. The site creates
// it in a namespace of its choice: that namespace, its services and endpoint slices are not the
// site's. Every node may read a RuntimeClass.
func mirrorPodRefs(pod *corev1.Pod) []kube.Key {
	r := refs{seen: map[kube.Key]bool{}}
	r.runtimeClass(pod)
	return r.keys
}

// podRefs returns the objects that a node reads to run the pod (those that the Node
// authorizer's graph allows), and the pod's namespace.
func podRefs(pod *corev1.Pod) []kube.Key {
	r := refs{namespace: pod.Namespace, seen: map[kube.Key]bool{}}
	r.add(kube.CoreKey("namespaces", "", pod.Namespace))
	sa := pod.Spec.ServiceAccountName
	if sa == "" {
		sa = "default"
	}
	r.local("serviceaccounts", sa)
	for _, s := range pod.Spec.ImagePullSecrets {
		r.local("secrets", s.Name)
	}
	r.runtimeClass(pod)
	r.resourceClaims(pod)
	for i := range pod.Spec.Volumes {
		r.volume(pod, &pod.Spec.Volumes[i])
	}
	for i := range pod.Spec.InitContainers {
		r.env(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Containers {
		r.env(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		r.env(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
	return r.keys
}

type refs struct {
	namespace string
	keys      []kube.Key
	seen      map[kube.Key]bool
}

func (r *refs) add(k kube.Key) {
	if k.Name != "" && !r.seen[k] {
		r.seen[k] = true
		r.keys = append(r.keys, k)
	}
}

func (r *refs) local(resource, name string) { r.add(kube.CoreKey(resource, r.namespace, name)) }

func (r *refs) runtimeClass(pod *corev1.Pod) {
	if rc := pod.Spec.RuntimeClassName; rc != nil && *rc != "" {
		r.add(kube.Key{Group: kube.NodeGroup, Resource: "runtimeclasses", Name: *rc})
	}
}

// resourceClaims adds the claims that the pod names, and those that Kubernetes has created for it:
// the pod's status has their names.
func (r *refs) resourceClaims(pod *corev1.Pod) {
	add := func(name *string) {
		if name != nil {
			r.add(kube.Key{Group: kube.ResourceGroup, Resource: "resourceclaims", Namespace: pod.Namespace, Name: *name})
		}
	}
	for _, c := range pod.Spec.ResourceClaims {
		add(c.ResourceClaimName)
	}
	for _, c := range pod.Status.ResourceClaimStatuses {
		add(c.ResourceClaimName)
	}
	if c := pod.Status.ExtendedResourceClaimStatus; c != nil {
		add(&c.ResourceClaimName)
	}
}

// trustedSigners returns the signers all of whose trust bundles the pod's volumes may contain. A
// volume selects among them by label; a site gets them all.
func trustedSigners(pod *corev1.Pod) []string {
	var signers []string
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if b := s.ClusterTrustBundle; b != nil && b.SignerName != nil && *b.SignerName != "" && !slices.Contains(signers, *b.SignerName) {
				signers = append(signers, *b.SignerName)
			}
		}
	}
	return signers
}

func (r *refs) secret(ref *corev1.LocalObjectReference) {
	if ref != nil {
		r.local("secrets", ref.Name)
	}
}

func (r *refs) volume(pod *corev1.Pod, v *corev1.Volume) {
	switch {
	case v.ConfigMap != nil:
		r.local("configmaps", v.ConfigMap.Name)
	case v.Secret != nil:
		r.local("secrets", v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				r.local("configmaps", s.ConfigMap.Name)
			}
			if s.Secret != nil {
				r.local("secrets", s.Secret.Name)
			}
			if b := s.ClusterTrustBundle; b != nil && b.Name != nil {
				r.add(kube.Key{Group: kube.CertificatesGroup, Resource: "clustertrustbundles", Name: *b.Name})
			}
		}
	case v.PersistentVolumeClaim != nil:
		r.local("persistentvolumeclaims", v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		r.local("persistentvolumeclaims", pod.Name+"-"+v.Name)
	case v.CSI != nil:
		r.secret(v.CSI.NodePublishSecretRef)
	case v.ISCSI != nil:
		r.secret(v.ISCSI.SecretRef)
	case v.FlexVolume != nil:
		r.secret(v.FlexVolume.SecretRef)
	case v.AzureFile != nil:
		r.local("secrets", v.AzureFile.SecretName)
	case v.CephFS != nil:
		r.secret(v.CephFS.SecretRef)
	case v.RBD != nil:
		r.secret(v.RBD.SecretRef)
	}
}

func (r *refs) env(env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if s := e.ValueFrom.ConfigMapKeyRef; s != nil {
			r.local("configmaps", s.Name)
		}
		if s := e.ValueFrom.SecretKeyRef; s != nil {
			r.local("secrets", s.Name)
		}
	}
	for _, f := range from {
		if f.ConfigMapRef != nil {
			r.local("configmaps", f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			r.local("secrets", f.SecretRef.Name)
		}
	}
}

// volumeSecrets returns the secrets that a node reads to mount a persistent volume.
func volumeSecrets(o *unstructured.Unstructured) []kube.Key {
	r := refs{seen: map[kube.Key]bool{}}
	for _, path := range [][]string{
		{"spec", "csi", "nodePublishSecretRef"},
		{"spec", "csi", "nodeStageSecretRef"},
		{"spec", "csi", "nodeExpandSecretRef"},
		{"spec", "iscsi", "secretRef"},
		{"spec", "flexVolume", "secretRef"},
		{"spec", "cephfs", "secretRef"},
		{"spec", "rbd", "secretRef"},
	} {
		namespace := kube.StringAt(o, append(slices.Clone(path), "namespace")...)
		if namespace == "" {
			namespace = kube.StringAt(o, "spec", "claimRef", "namespace")
		}
		r.add(kube.CoreKey("secrets", namespace, kube.StringAt(o, append(slices.Clone(path), "name")...)))
	}
	return r.keys
}
