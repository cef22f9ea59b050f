package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DeepCopyInto copies s into out.
func (s *Site) DeepCopyInto(out *Site) {
	*out = *s
	s.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	s.Status.DeepCopyInto(&out.Status)
}

// DeepCopy returns a copy that shares nothing with s.
func (s *Site) DeepCopy() *Site {
	if s == nil {
		return nil
	}
	out := new(Site)
	s.DeepCopyInto(out)
	return out
}

// DeepCopyObject implements runtime.Object.
func (s *Site) DeepCopyObject() runtime.Object { return s.DeepCopy() }

// DeepCopyInto copies s into out.
func (s *SiteStatus) DeepCopyInto(out *SiteStatus) {
	*out = *s
	out.Since = s.Since.DeepCopy()
	out.OldestPending = s.OldestPending.DeepCopy()
	out.LastAck = s.LastAck.DeepCopy()
	if s.Conditions != nil {
		out.Conditions = make([]metav1.Condition, len(s.Conditions))
		for i := range s.Conditions {
			s.Conditions[i].DeepCopyInto(&out.Conditions[i])
		}
	}
}

// DeepCopy returns a copy that shares nothing with s.
func (s *SiteStatus) DeepCopy() *SiteStatus {
	if s == nil {
		return nil
	}
	out := new(SiteStatus)
	s.DeepCopyInto(out)
	return out
}

// DeepCopyInto copies l into out.
func (l *SiteList) DeepCopyInto(out *SiteList) {
	*out = *l
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	if l.Items != nil {
		out.Items = make([]Site, len(l.Items))
		for i := range l.Items {
			l.Items[i].DeepCopyInto(&out.Items[i])
		}
	}
}

// DeepCopy returns a copy that shares nothing with l.
func (l *SiteList) DeepCopy() *SiteList {
	if l == nil {
		return nil
	}
	out := new(SiteList)
	l.DeepCopyInto(out)
	return out
}

// DeepCopyObject implements runtime.Object.
func (l *SiteList) DeepCopyObject() runtime.Object { return l.DeepCopy() }
