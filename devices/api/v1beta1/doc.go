// Package v1beta1 is the device API devices.kubeedge.io/v1beta1: Device,
// DeviceModel and DeviceStatus, field for field as KubeEdge defines them, so that
// existing manifests apply unchanged.
//
// The types define the wire format and nothing else: package devices implements defaults,
// merging and validation. No kind has a status subresource, because KubeEdge's clients
// merge-patch the whole object, and a subresource would silently drop the status that they
// write.
//
// +k8s:deepcopy-gen=package
// +groupName=devices.kubeedge.io
package v1beta1

//go:generate go run k8s.io/code-generator/cmd/deepcopy-gen@v0.37.2 --output-file zz_generated.deepcopy.go .
//go:generate go run ../crdgen . ../../../deploy/kubernetes/crds
