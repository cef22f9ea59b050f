package codec

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// tableRow returns the cells of an object.
type tableRow func(o *objects.Object) ([]any, error)

// WriteTable writes objects of a resource as a Table, which kubectl prints: with the usual columns for pods
// and nodes, with those of its definition for a custom resource, and with name and age for others.
func WriteTable(w http.ResponseWriter, r objects.Resource, rows []*objects.Object, rv uint64) error {
	columns, row := tableOf(r)
	t := &metav1.Table{
		TypeMeta:          metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"},
		ListMeta:          metav1.ListMeta{ResourceVersion: strconv.FormatUint(rv, 10)},
		ColumnDefinitions: columns, Rows: []metav1.TableRow{},
	}
	for _, o := range rows {
		cells, err := row(o)
		if err != nil {
			return err
		}
		meta, err := objects.ParseDocument(o.JSON)
		if err != nil {
			return err
		}
		partial := objects.Document{"metadata": meta["metadata"]}
		partial.SetText("kind", "PartialObjectMetadata")
		partial.SetText("apiVersion", "meta.k8s.io/v1")
		t.Rows = append(t.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Raw: partial.Encode()}})
	}
	return WriteJSON(w, t)
}

func tableOf(r objects.Resource) ([]metav1.TableColumnDefinition, tableRow) {
	if len(r.Columns) > 0 {
		return customTable(r.Columns)
	}
	switch r.GroupResource() {
	case objects.Pods:
		return columns("Name", "Ready", "Status", "Restarts", "Age", "*IP", "*Node"), podRow
	case objects.Nodes:
		return columns("Name", "Status", "Roles", "Age", "Version", "*Internal-IP", "*Container-Runtime"), nodeRow
	}
	return columns("Name", "Age"), func(o *objects.Object) ([]any, error) {
		return []any{o.Name, age(objects.Peek(o.JSON, "metadata", "creationTimestamp"))}, nil
	}
}

// columns returns the definitions of columns. A name with a star is shown by -o wide only.
func columns(names ...string) []metav1.TableColumnDefinition {
	var out []metav1.TableColumnDefinition
	for _, n := range names {
		c := metav1.TableColumnDefinition{Type: "string"}
		if wide, ok := strings.CutPrefix(n, "*"); ok {
			n, c.Priority = wide, 1
		}
		c.Name = n
		if n == "Name" {
			c.Format = "name"
		}
		out = append(out, c)
	}
	return out
}

func podRow(o *objects.Object) ([]any, error) {
	var pod corev1.Pod
	if err := json.Unmarshal(o.JSON, &pod); err != nil {
		return nil, fmt.Errorf("read pod %s: %w", o.Key, err)
	}
	ready, restarts, reason := 0, int32(0), string(pod.Status.Phase)
	if pod.Status.Reason != "" {
		reason = pod.Status.Reason
	}
	for _, c := range pod.Status.ContainerStatuses {
		restarts += c.RestartCount
		switch {
		case c.Ready:
			ready++
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			reason = c.State.Waiting.Reason
		case c.State.Terminated != nil && c.State.Terminated.Reason != "":
			reason = c.State.Terminated.Reason
		}
	}
	if pod.DeletionTimestamp != nil {
		reason = "Terminating"
	}
	return []any{
		pod.Name, fmt.Sprintf("%d/%d", ready, len(pod.Spec.Containers)), reason, strconv.Itoa(int(restarts)),
		ageOf(pod.CreationTimestamp), orNone(pod.Status.PodIP), orNone(pod.Spec.NodeName),
	}, nil
}

func nodeRow(o *objects.Object) ([]any, error) {
	var node corev1.Node
	if err := json.Unmarshal(o.JSON, &node); err != nil {
		return nil, fmt.Errorf("read node %s: %w", o.Key, err)
	}
	status := "Unknown"
	for _, c := range node.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			status = "Ready"
		default:
			status = "NotReady"
		}
	}
	if node.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	var roles []string
	for l := range node.Labels {
		if role, ok := strings.CutPrefix(l, "node-role.kubernetes.io/"); ok {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	ip := ""
	for _, addr := range node.Status.Addresses {
		if addr.Type == corev1.NodeInternalIP {
			ip = addr.Address
			break
		}
	}
	return []any{
		node.Name, status, orNone(strings.Join(roles, ",")), ageOf(node.CreationTimestamp),
		node.Status.NodeInfo.KubeletVersion, orNone(ip), node.Status.NodeInfo.ContainerRuntimeVersion,
	}, nil
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func age(timestamp string) string {
	at, err := time.Parse(time.RFC3339, timestamp)
	if err != nil {
		return "<unknown>"
	}
	return ageOf(metav1.NewTime(at))
}

func ageOf(at metav1.Time) string {
	if at.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(at.Time))
}

// WriteJSON writes a value that is not an object of the store.
func WriteJSON(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeBody(w, http.StatusOK, JSON, body)
}
