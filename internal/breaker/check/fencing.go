package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// fencing judges I26 and I27: what two bridges write at the API server and to DESIRED.
//
// Terms of writes to one thing are a register that only grows: a write of a term is lawful
// as long as no later term has written there. Whether an order of the writes exists
// that is lawful and agrees with when each was sent and answered is what porcupine
// decides. In DESIRED the order is known: per subject neither the term nor, within one
// epoch and UID, the version of an object goes back.
type fencing struct {
	writes  map[string][]porcupine.Operation
	subject map[string]Event
}

func newFencing() *fencing {
	return &fencing{writes: map[string][]porcupine.Operation{}, subject: map[string]Event{}}
}

func (f *fencing) observe(e Event) []Violation {
	switch e.Kind {
	case BridgeWrote:
		f.writes[e.Subject] = append(f.writes[e.Subject], porcupine.Operation{
			ClientId: int(e.Term), Input: e.Term, Call: int64(e.Since), Output: e.Bridge, Return: int64(e.At),
		})
	case Published:
		was, ok := f.subject[e.Subject]
		f.subject[e.Subject] = e
		if !ok || was.Stream != e.Stream {
			return nil
		}
		return publishedAfter(was, e)
	}
	return nil
}

// publishedAfter compares two messages on one subject.
func publishedAfter(was, is Event) []Violation {
	var found []Violation
	if is.Term < was.Term {
		found = append(found, violation("I26", "DESIRED has at %d, after a message of term %d, one of term %d on %s", is.Seq, was.Term, is.Term, is.Subject)...)
	}
	if is.Op != "delete" && is.Epoch == was.Epoch && is.UID == was.UID && is.UID != "" {
		c, err := resourceversion.CompareResourceVersion(is.Version, was.Version)
		if err == nil && c < 0 {
			found = append(found, violation("I1", "DESIRED has at %d, after version %s, version %s of the same object on %s", is.Seq, was.Version, is.Version, is.Subject)...)
		}
	}
	return found
}

// termRegister is the register of one thing's highest term.
var termRegister = porcupine.Model{
	Init: func() any { return int64(-1) },
	Step: func(state, input, _ any) (bool, any) {
		have, term := state.(int64), input.(int64)
		return term >= have, max(have, term)
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("term %d by %v", input, output) },
}

// porcupineTimeout bounds one check; histories of one thing are short and nearly
// sequential.
const porcupineTimeout = 20 * time.Second

func (f *fencing) finish() []Violation {
	var all []Violation
	for _, path := range slices.Sorted(maps.Keys(f.writes)) {
		ops := f.writes[path]
		if slices.MinFunc(ops, byTerm).Input == slices.MaxFunc(ops, byTerm).Input {
			continue
		}
		if result := porcupine.CheckOperationsTimeout(termRegister, ops, porcupineTimeout); result != porcupine.Ok {
			all = append(all, violation("I26", "the writes of the bridges to %s are not in the order of their terms (%s)", path, result)...)
		}
	}
	return all
}

func byTerm(a, b porcupine.Operation) int { return cmp.Compare(a.Input.(int64), b.Input.(int64)) }
