package breaker

import (
	"math/rand/v2"
	"slices"
	"time"
)

// action is one fault of a plan.
type action struct {
	// at is the time of its start, counted from the start of its round, and lasts its
	// duration.
	at, lasts time.Duration
	kind      *fault
	// target is the number of a site, or of a bridge: 0 for the leader.
	target int
	// dice is the source of the fault's own choices.
	dice uint64
}

// deck deals faults as a pack of cards, so that none is missing in a long run: each kind is
// in it as often as it weighs, and once among its first cards, as many as there are kinds.
type deck struct {
	rng   *rand.Rand
	kinds []*fault
	cards []*fault
}

func newDeck(seed uint64, kinds []*fault) *deck {
	return &deck{rng: rand.New(rand.NewPCG(seed, 0x7065746f6c65)), kinds: kinds}
}

func (d *deck) draw() *fault {
	if len(d.cards) == 0 {
		d.cards = append(d.shuffled(func(k *fault) int { return k.weight - 1 }), d.shuffled(func(*fault) int { return 1 })...)
	}
	last := len(d.cards) - 1
	k := d.cards[last]
	d.cards = d.cards[:last]
	return k
}

// shuffled returns cards of every kind, as many as count returns. The last is dealt first.
func (d *deck) shuffled(count func(*fault) int) (cards []*fault) {
	for _, k := range d.kinds {
		cards = append(cards, slices.Repeat([]*fault{k}, count(k))...)
	}
	d.rng.Shuffle(len(cards), func(i, j int) { cards[i], cards[j] = cards[j], cards[i] })
	return cards
}

// round plans the faults of one round, in the order in which they are due.
func (d *deck) round(faults, sites int, length time.Duration) []action {
	plan := make([]action, 0, faults)
	for range faults {
		k := d.draw()
		plan = append(plan, action{
			at: time.Duration(d.rng.Int64N(int64(length))), lasts: k.min + time.Duration(d.rng.Int64N(int64(k.max-k.min)+1)),
			kind: k, target: d.rng.IntN(k.targets(sites)), dice: d.rng.Uint64(),
		})
	}
	slices.SortStableFunc(plan, func(a, b action) int { return int(a.at - b.at) })
	return plan
}
