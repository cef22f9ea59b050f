package catalog

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// Route is the resource and object that the path of a request names.
type Route struct {
	schema.GroupVersionResource
	objects.Key
	// Sub is the subresource, empty if the path names none.
	Sub string
}

// ParseRoute parses the paths /api/v1/… and /apis/<group>/<version>/…. ok is false for a path
// that does not name a resource.
func ParseRoute(path string) (rt Route, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		rt.Version, parts = parts[1], parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		rt.Group, rt.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return Route{}, false
	}
	// A namespace itself is /namespaces/<name>, with at most its status below.
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		rt.Namespace, parts = parts[1], parts[2:]
	}
	if len(parts) > 3 {
		return Route{}, false
	}
	rt.Resource = parts[0]
	if len(parts) > 1 {
		rt.Name = parts[1]
	}
	if len(parts) > 2 {
		rt.Sub = parts[2]
	}
	return rt, true
}

// VerbOf returns the Kubernetes verb of a request. named is set if its path names an object.
func VerbOf(r *http.Request, named bool) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		w := r.URL.Query().Get("watch")
		switch {
		case w == "true" || w == "1":
			return "watch"
		case named:
			return "get"
		}
		return "list"
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if named {
			return "delete"
		}
		return "deletecollection"
	}
	return ""
}
