package devices

import "github.com/petiole-io/petiole/devices/api/v1beta1"

// Ref identifies a device. UID distinguishes it from an earlier one of the same name.
type Ref struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// String returns namespace/name.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// RefOf returns the Ref of a Device object.
func RefOf(d *v1beta1.Device) Ref {
	return Ref{Namespace: d.Namespace, Name: d.Name, UID: string(d.UID)}
}
