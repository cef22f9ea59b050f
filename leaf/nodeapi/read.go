package nodeapi

import (
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func (a *API) get(w http.ResponseWriter, q *request) error {
	o := a.store.get(q.resource.GroupResource(), q.key)
	if o == nil {
		return apierrors.NewNotFound(q.resource.GroupResource(), q.name)
	}
	if q.out == mediaTable {
		return writeTable(w, q, []*object{o}, o.rv)
	}
	return writeObject(w, http.StatusOK, q.out, o)
}

func (a *API) list(w http.ResponseWriter, q *request) error {
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
	objects, rv := a.store.list(q.resource.GroupResource(), sel)
	if err := checkListVersion(opts, rv); err != nil {
		return err
	}
	if q.out == mediaTable {
		return writeTable(w, q, objects, rv)
	}
	return writeList(w, q.out, q.resource, objects, rv)
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

func selectionOf(q *request, opts metav1.ListOptions) (selection, error) {
	sel := selection{namespace: q.namespace}
	var err error
	if sel.labels, err = labels.Parse(opts.LabelSelector); err != nil {
		return sel, apierrors.NewBadRequest(err.Error())
	}
	if sel.fields, err = fields.ParseSelector(opts.FieldSelector); err != nil {
		return sel, apierrors.NewBadRequest(err.Error())
	}
	for _, f := range sel.fields.Requirements() {
		if !selectable(q.resource.GroupResource(), f.Field) {
			return sel, apierrors.NewBadRequest(fmt.Sprintf("field label %q is not supported for %s", f.Field, q.resource.Resource))
		}
	}
	if q.name != "" {
		sel.fields = fields.AndSelectors(sel.fields, fields.OneTermEqualSelector("metadata.name", q.name))
	}
	return sel, nil
}

func selectable(gr schema.GroupResource, field string) bool {
	_, ok := fieldPaths[gr][field]
	return ok || field == "metadata.name" || field == "metadata.namespace"
}
