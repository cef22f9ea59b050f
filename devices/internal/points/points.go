// Package points keeps one copy of points that several devices have, as the devices of a model do: of a
// gateway with hundreds of devices they are a tenth of the memory. Points are never changed.
package points

import (
	"reflect"
	"slices"
	"sync"

	"github.com/petiole-io/petiole/devices"
)

// Sets are the points of all devices. The zero value is empty. It is safe for concurrent use.
type Sets struct {
	mu   sync.Mutex
	sets map[string][]*pointSet // by digest
}

// User is one device. It is not safe for concurrent use.
type User struct {
	sets *Sets
	has  *pointSet // nil before the first definition
}

// User returns a device that has no points yet.
func (s *Sets) User() User { return User{sets: s} }

// Share replaces the points of the device's new definition by equal ones of another device, if there is
// one, and gives up those of the former definition.
func (u *User) Share(def *devices.Definition) {
	former := u.has
	u.has = u.sets.take(def)
	u.sets.release(former)
}

// Release gives up the points of the device, which must not be used again.
func (u *User) Release() { u.sets.release(u.has) }

// pointSet are the points of users devices.
type pointSet struct {
	digest string
	points []devices.Point
	users  int
}

func (s *Sets) take(def *devices.Definition) *pointSet {
	digest := devices.Definition{Points: def.Points}.Digest()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.sets[digest] {
		// The digest leaves out what does not restart a session.
		if reflect.DeepEqual(set.points, def.Points) {
			set.users++
			def.Points = set.points
			return set
		}
	}
	set := &pointSet{digest: digest, points: def.Points, users: 1}
	if s.sets == nil {
		s.sets = map[string][]*pointSet{}
	}
	s.sets[digest] = append(s.sets[digest], set)
	return set
}

// release takes note that a device no longer uses the points of a set, nil if it had none.
func (s *Sets) release(set *pointSet) {
	if set == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if set.users--; set.users > 0 {
		return
	}
	if left := slices.DeleteFunc(s.sets[set.digest], func(other *pointSet) bool { return other == set }); len(left) > 0 {
		s.sets[set.digest] = left
	} else {
		delete(s.sets, set.digest)
	}
}
