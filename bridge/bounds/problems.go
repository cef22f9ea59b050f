package bounds

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// problemAge is the time for which a condition shows a problem after it last occurred.
	problemAge = 10 * time.Minute
	// maxProblems is the number of problems with one reason that a condition lists, so that a
	// site cannot change its conditions, and exhaust the memory, as often as it likes.
	maxProblems = 3
)

// Problems remembers what was refused to sites. Create it with NewProblems. It is safe for
// concurrent use.
type Problems struct {
	now func() time.Time

	mu    sync.Mutex
	sites map[string]map[problemKey]*problem
}

// problemKey identifies the problems that share a place in a condition.
type problemKey struct{ condition, reason string }

type problem struct {
	// messages maps the objects of the problem to what happened, objects lists them in order.
	messages map[string]string
	objects  []string
	// more is true if there were other objects than those.
	more bool
	last time.Time
}

// NewProblems returns an empty memory, with the clock that it reads.
func NewProblems(now func() time.Time) *Problems {
	return &Problems{now: now, sites: map[string]map[problemKey]*problem{}}
}

// Add records that something was refused to a site: the condition that shows it, its reason, the
// object concerned, and a message that names the object and does not change while the problem
// remains.
func (p *Problems) Add(site, condition, reason, object, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sites[site] == nil {
		p.sites[site] = map[problemKey]*problem{}
	}
	k := problemKey{condition, reason}
	n := p.sites[site][k]
	if n == nil || p.now().Sub(n.last) >= problemAge {
		n = &problem{messages: map[string]string{}}
		p.sites[site][k] = n
	}
	n.last = p.now()
	if _, known := n.messages[object]; !known {
		if len(n.objects) == maxProblems {
			n.more = true
			return
		}
		n.objects = append(n.objects, object)
	}
	n.messages[object] = message
}

// Solved forgets the problems of a site with an object.
func (p *Problems) Solved(site, condition, object string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, n := range p.sites[site] {
		if _, has := n.messages[object]; !has || k.condition != condition {
			continue
		}
		delete(n.messages, object)
		if n.objects = slices.DeleteFunc(n.objects, func(o string) bool { return o == object }); len(n.objects) == 0 && !n.more {
			delete(p.sites[site], k)
		}
	}
}

// Present returns the reason and the message of a site's condition, and false if nothing was
// refused in the last minutes.
func (p *Problems) Present(site, condition string) (reason, message string, present bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var reasons, messages []string
	for _, k := range slices.SortedFunc(maps.Keys(p.sites[site]), func(a, b problemKey) int { return strings.Compare(a.reason, b.reason) }) {
		n := p.sites[site][k]
		if p.now().Sub(n.last) >= problemAge {
			delete(p.sites[site], k)
			continue
		}
		if k.condition != condition {
			continue
		}
		reasons = append(reasons, k.reason)
		for _, o := range n.objects {
			messages = append(messages, n.messages[o])
		}
		if n.more {
			messages = append(messages, "and others")
		}
	}
	if len(reasons) == 0 {
		return "", "", false
	}
	return reasons[0], strings.Join(messages, "; "), true
}

// Retain drops the sites that no longer exist.
func (p *Problems) Retain(exists func(site string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.sites, func(site string, _ map[problemKey]*problem) bool { return !exists(site) })
}
