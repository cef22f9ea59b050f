package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this package's types.
var GroupVersion = schema.GroupVersion{Group: "petiole.dev", Version: "v1alpha1"}

// The resources of this package's types.
var (
	Sites    = GroupVersion.WithResource("sites")
	Backlogs = GroupVersion.WithResource("backlogs")
)

// AddToScheme registers this package's types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Site{}, &SiteList{}, &Backlog{}, &BacklogList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
