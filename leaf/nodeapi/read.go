package nodeapi

import (
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

func (h *handler) get(w http.ResponseWriter, q *request) error {
	o := h.store.Get(q.resource.GroupResource(), q.Key)
	if o == nil {
		return apierrors.NewNotFound(q.resource.GroupResource(), q.Name)
	}
	if q.out == codec.Table {
		return codec.WriteTable(w, q.resource.Resource, []*objects.Object{o}, o.ResourceVersion)
	}
	return codec.WriteObject(w, http.StatusOK, q.out, o)
}

func (h *handler) list(w http.ResponseWriter, q *request) error {
	opts, err := listOptions(q.Request)
	if err != nil {
		return err
	}
	sel, err := selectionOf(q, opts)
	if err != nil {
		return err
	}
	if opts.Continue != "" {
		// Lists are never paginated, so no continue token is valid.
		return expired(opts.Continue)
	}
	found, rv := h.store.List(q.resource.GroupResource(), sel)
	if err := checkListVersion(opts, rv); err != nil {
		return err
	}
	if q.out == codec.Table {
		return codec.WriteTable(w, q.resource.Resource, found, rv)
	}
	return codec.WriteList(w, q.out, q.resource.GVK(), found, rv)
}

// checkListVersion returns an error if the requested resource version cannot be served. The
// store holds the newest version only, which satisfies every known version unless an exact
// older one is requested.
func checkListVersion(opts metav1.ListOptions, rv uint64) error {
	if opts.ResourceVersion == "" || opts.ResourceVersion == "0" {
		return nil
	}
	want, err := parseVersion(opts.ResourceVersion)
	if err != nil {
		return err
	}
	if want > rv || opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact && want != rv {
		return expired(opts.ResourceVersion)
	}
	return nil
}

func parseVersion(rv string) (uint64, error) {
	v, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion %q is not a number", rv))
	}
	return v, nil
}

func listOptions(r *http.Request) (metav1.ListOptions, error) {
	var opts metav1.ListOptions
	values := r.URL.Query()
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&values, &opts, nil); err != nil {
		return opts, apierrors.NewBadRequest(err.Error())
	}
	return opts, nil
}

func selectionOf(q *request, opts metav1.ListOptions) (objects.Selection, error) {
	sel := objects.Selection{Namespace: q.Namespace}
	var err error
	if sel.Labels, err = labels.Parse(opts.LabelSelector); err != nil {
		return sel, apierrors.NewBadRequest(err.Error())
	}
	if sel.Fields, err = fields.ParseSelector(opts.FieldSelector); err != nil {
		return sel, apierrors.NewBadRequest(err.Error())
	}
	for _, f := range sel.Fields.Requirements() {
		if !objects.Selectable(q.resource.GroupResource(), f.Field) {
			return sel, apierrors.NewBadRequest(fmt.Sprintf("field label %q is not supported for %s", f.Field, q.resource.GroupVersionResource.Resource))
		}
	}
	if q.Name != "" {
		sel.Fields = fields.AndSelectors(sel.Fields, fields.OneTermEqualSelector("metadata.name", q.Name))
	}
	return sel, nil
}
