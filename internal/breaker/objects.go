package breaker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The annotations of the suite's objects: the counter that was assigned to a version, and the
// only site that may hold it.
const (
	counterAnnotation = "breaker.petiole.dev/counter"
	ownerLabel        = "breaker.petiole.dev/site"
)

// The objects of each site.
const (
	// anchor is the pod that is never deleted and refers to objects that are created, changed,
	// deleted and recreated: anchored ConfigMaps and Secrets.
	anchor          = "anchor"
	anchoredMaps    = 6
	anchoredSecrets = 3
	// pods are created and deleted. Each refers to a ConfigMap and a Secret of its own,
	// which are changed and never deleted: they are at the site only with their pod.
	pods = 4
	// bigMap is above max_payload.
	bigMap    = "big"
	bigBytes  = 1046000
	smallFill = 200
)

func meta(site, namespace, name string, counter int64) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{ownerLabel: site},
		Annotations: map[string]string{counterAnnotation: strconv.FormatInt(counter, 10)},
	}
}

// anchorPod refers to all anchored objects, whether they exist or not.
func anchorPod(site, namespace, node, image string, counter int64) *corev1.Pod {
	p := pod(site, namespace, anchor, node, image, counter)
	for i := range anchoredMaps {
		p.Spec.Volumes = append(p.Spec.Volumes, mapVolume(anchoredMap(i)))
	}
	for i := range anchoredSecrets {
		p.Spec.Volumes = append(p.Spec.Volumes, secretVolume(anchoredSecret(i)))
	}
	p.Spec.Volumes = append(p.Spec.Volumes, mapVolume(bigMap))
	return p
}

// loosePod refers to objects that exist only for it.
func loosePod(site, namespace, node, image string, i int, counter int64) *corev1.Pod {
	p := pod(site, namespace, podName(i), node, image, counter)
	p.Spec.Volumes = append(p.Spec.Volumes, mapVolume(looseName(i)), secretVolume(looseName(i)))
	return p
}

func pod(site, namespace, name, node, image string, counter int64) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{ObjectMeta: meta(site, namespace, name, counter), Spec: corev1.PodSpec{
		NodeName: node, TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyAlways,
		Containers: []corev1.Container{{Name: "c", Image: image}},
	}}
}

func mapVolume(name string) corev1.Volume {
	optional := true
	return corev1.Volume{Name: "map-" + name, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional,
	}}}
}

func secretVolume(name string) corev1.Volume {
	optional := true
	return corev1.Volume{Name: "secret-" + name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, Optional: &optional}}}
}

func anchoredMap(i int) string    { return "map-" + strconv.Itoa(i) }
func anchoredSecret(i int) string { return "secret-" + strconv.Itoa(i) }
func podName(i int) string        { return "pod-" + strconv.Itoa(i) }
func looseName(i int) string      { return loosePrefix + strconv.Itoa(i) }
func isLoose(name string) bool    { return strings.HasPrefix(name, loosePrefix) }

const loosePrefix = "loose-"

// counterOf returns the counter, 0 if there is none.
func counterOf(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[counterAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// objectName returns the name of an object in the history.
func objectName(resource, namespace, name string) string {
	if namespace == "" {
		return resource + " " + name
	}
	return resource + " " + namespace + "/" + name
}

// digestOf covers everything but the version counter.
func digestOf(u *unstructured.Unstructured) string {
	c := u.DeepCopy()
	unstructured.RemoveNestedField(c.Object, "metadata", "resourceVersion")
	data, err := json.Marshal(c.Object)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
