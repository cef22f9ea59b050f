package nodeapi

import (
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/leaf/nodeapi/catalog"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// mirrorAnnotation marks the pod that a kubelet creates in the API for a static pod.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// planPodStatus accepts the status of a pod of this node, and no other change of it.
func planPodStatus(node string, q *request, s objects.State, next objects.Document) (plan, error) {
	gr := q.resource.GroupResource()
	if q.Sub != "status" {
		return plan{}, catalog.CloudOnly(gr, q.Name)
	}
	if at := s.Effective.Get("spec.nodeName"); at != node {
		return plan{}, apierrors.NewForbidden(gr, q.Name, fmt.Errorf("the pod runs on %q, this node is %s", at, node))
	}
	current, err := objects.ParseDocument(s.Effective.JSON)
	if err != nil || objects.SameJSON(current["status"], next["status"]) {
		return plan{}, err
	}
	status := next["status"]
	if s.Live {
		return plan{local: &objects.Local{Op: streams.OpPut, UID: s.Desired.UID, Body: status}, report: statusReport(q.Key, s.Desired.UID, status)}, nil
	}
	// A mirror pod that the cloud does not have yet: it is created with its status.
	pod, err := objects.ParseDocument(s.Local.Body)
	if err != nil {
		return plan{}, err
	}
	pod["status"] = status
	body := pod.Encode()
	return plan{local: &objects.Local{Op: streams.OpCreate, UID: s.Local.UID, Body: body}, report: body}, nil
}

// statusReport returns the report of the status of a pod that the cloud has: the fields that
// identify the pod, and its status. The cloud knows the rest.
func statusReport(k objects.Key, uid string, status json.RawMessage) []byte {
	meta := objects.Document{}
	meta.SetText("name", k.Name)
	meta.SetText("namespace", k.Namespace)
	meta.SetText("uid", uid)
	return objects.Document{"metadata": meta.Encode(), "status": status}.Encode()
}

// authorizePodDelete returns an error unless the kubelet deletes a pod that has ended after a
// deletion in the cloud, or a mirror pod. All other pods are deleted in the cloud.
func authorizePodDelete(node string, pod *objects.Object, live bool, opts metav1.DeleteOptions) error {
	if at := pod.Get("spec.nodeName"); at != node {
		return apierrors.NewForbidden(objects.Pods, pod.Name, fmt.Errorf("the pod runs on %q, this node is %s", at, node))
	}
	deleting := objects.Peek(pod.JSON, "metadata", "deletionTimestamp") != ""
	mirror := objects.Peek(pod.JSON, "metadata", "annotations", mirrorAnnotation) != ""
	if opts.GracePeriodSeconds != nil && *opts.GracePeriodSeconds == 0 && (deleting || mirror || !live) {
		return nil
	}
	return catalog.CloudOnly(objects.Pods, pod.Name)
}
