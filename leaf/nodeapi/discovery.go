package nodeapi

import (
	"net/http"
	"runtime"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
)

// discover handles the paths that do not name a resource.
func (a *API) discover(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return noSuchPath()
	}
	path := strings.Trim(r.URL.Path, "/")
	var resources []resource
	for _, r := range a.store.Resources() {
		resources = append(resources, served(r))
	}
	switch parts := strings.Split(path, "/"); {
	case path == "version":
		return codec.WriteJSON(w, a.versionInfo())
	case path == "api":
		return codec.WriteJSON(w, &metav1.APIVersions{
			TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"}, Versions: []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: a.address()}},
		})
	case path == "apis":
		return codec.WriteJSON(w, &metav1.APIGroupList{
			TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: groups(resources),
		})
	case path == "api/v1":
		return codec.WriteJSON(w, resourceList(resources, "", "v1"))
	case len(parts) == 2 && parts[0] == "apis":
		for _, g := range groups(resources) {
			if g.Name == parts[1] {
				g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				return codec.WriteJSON(w, &g)
			}
		}
	case len(parts) == 3 && parts[0] == "apis":
		if list := resourceList(resources, parts[1], parts[2]); len(list.APIResources) > 0 {
			return codec.WriteJSON(w, list)
		}
	}
	return noSuchPath()
}

// versionInfo returns the configured version in the form that clients parse.
func (a *API) versionInfo() version.Info {
	numbers := strings.SplitN(strings.TrimPrefix(a.cfg.Version, "v"), ".", 3)
	for len(numbers) < 2 {
		numbers = append(numbers, "")
	}
	return version.Info{
		Major: numbers[0], Minor: numbers[1], GitVersion: a.cfg.Version,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

func groups(resources []resource) []metav1.APIGroup {
	var out []metav1.APIGroup
	for _, r := range resources {
		if r.Group == "" {
			continue
		}
		v := metav1.GroupVersionForDiscovery{GroupVersion: r.GroupVersion().String(), Version: r.Version}
		if n := len(out); n == 0 || out[n-1].Name != r.Group {
			out = append(out, metav1.APIGroup{Name: r.Group, PreferredVersion: v})
		}
		if g := &out[len(out)-1]; !slices.Contains(g.Versions, v) {
			g.Versions = append(g.Versions, v)
		}
	}
	return out
}

func resourceList(resources []resource, group, ver string) *metav1.APIResourceList {
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}}
	list.GroupVersion = metav1.GroupVersion{Group: group, Version: ver}.String()
	list.APIResources = []metav1.APIResource{}
	for _, r := range resources {
		if r.Group != group || r.Version != ver {
			continue
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: r.Resource, SingularName: strings.ToLower(r.kind), Kind: r.kind,
			Namespaced: r.namespaced, ShortNames: r.short, Verbs: slices.Sorted(slices.Values(r.verbList())),
		})
		for sub, verbs := range r.subs {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: r.Resource + "/" + sub, Kind: r.kind, Namespaced: r.namespaced, Verbs: verbs,
			})
		}
	}
	return list
}
