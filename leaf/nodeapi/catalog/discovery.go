package catalog

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// Server is what discovery tells about the server: the Kubernetes version and the address.
type Server struct{ Version, Address string }

// Discover returns the discovery document at a path that names no resource, nil if there is
// none.
func Discover(path string, server Server, stored []objects.Resource) any {
	path = strings.Trim(path, "/")
	var resources []Resource
	for _, r := range stored {
		resources = append(resources, Served(r))
	}
	switch parts := strings.Split(path, "/"); {
	case path == "version":
		return server.info()
	case path == "api":
		return &metav1.APIVersions{
			TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"}, Versions: []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: server.Address}},
		}
	case path == "apis":
		return &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: groups(resources)}
	case path == "api/v1":
		return resourceList(resources, "", "v1")
	case len(parts) == 2 && parts[0] == "apis":
		for _, g := range groups(resources) {
			if g.Name == parts[1] {
				g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				return &g
			}
		}
	case len(parts) == 3 && parts[0] == "apis":
		if list := resourceList(resources, parts[1], parts[2]); len(list.APIResources) > 0 {
			return list
		}
	}
	return nil
}

// info returns the version in the form that clients parse.
func (s Server) info() version.Info {
	numbers := strings.SplitN(strings.TrimPrefix(s.Version, "v"), ".", 3)
	for len(numbers) < 2 {
		numbers = append(numbers, "")
	}
	return version.Info{
		Major: numbers[0], Minor: numbers[1], GitVersion: s.Version,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

func groups(resources []Resource) []metav1.APIGroup {
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

func resourceList(resources []Resource, group, ver string) *metav1.APIResourceList {
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}}
	list.GroupVersion = metav1.GroupVersion{Group: group, Version: ver}.String()
	list.APIResources = []metav1.APIResource{}
	for _, r := range resources {
		if r.Group != group || r.Version != ver {
			continue
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: r.Resource.Resource, SingularName: cmp.Or(r.Singular, strings.ToLower(r.Kind)), Kind: r.Kind,
			Namespaced: r.Namespaced, ShortNames: r.shortNames, Categories: r.Categories, Verbs: slices.Sorted(slices.Values(r.Verbs())),
		})
		for _, sub := range slices.Sorted(maps.Keys(r.Subresources)) {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: r.Resource.Resource + "/" + sub, Kind: r.Kind, Namespaced: r.Namespaced, Verbs: r.Subresources[sub],
			})
		}
	}
	return list
}
