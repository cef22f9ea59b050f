package reported

import (
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// minSiteUnacked is the number of unacknowledged reports that each site can always have.
const minSiteUnacked = 20

// ackWindow counts the unacknowledged reports of each site. The hub delivers at most
// streams.MaxUnacked reports of all sites without acknowledgement; each site gets a share of
// that window. It is safe for concurrent use.
type ackWindow struct {
	log   *zap.Logger
	mu    sync.Mutex
	sites map[uint64]string
	count map[string]int
}

func newAckWindow(log *zap.Logger) *ackWindow {
	return &ackWindow{log: log, sites: map[uint64]string{}, count: map[string]int{}}
}

// acquire counts a report. It returns false if the site has used up its share: maxWaiting,
// less when the window is nearly full, but at least minSiteUnacked. A redelivered report
// counts once.
func (w *ackWindow) acquire(site string, seq uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.sites[seq]; ok {
		return true
	}
	if w.count[site] >= max(minSiteUnacked, min(maxWaiting, streams.MaxUnacked-len(w.sites))) {
		return false
	}
	w.sites[seq] = site
	w.count[site]++
	return true
}

// release records that a report was acknowledged.
func (w *ackWindow) release(seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	site, ok := w.sites[seq]
	if !ok {
		return
	}
	delete(w.sites, seq)
	if w.count[site]--; w.count[site] == 0 {
		delete(w.count, site)
	}
}

// nak asks the hub to redeliver a message later.
func (w *ackWindow) nak(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err == nil {
		w.release(meta.Sequence.Stream)
		err = msg.NakWithDelay(min(100*time.Millisecond<<min(meta.NumDelivered, 9), 30*time.Second))
	}
	if err != nil {
		w.log.Debug("report not rejected, it will be redelivered after the ack wait", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}

// ack acknowledges a message, nil for one that was already acknowledged. If the
// acknowledgement is lost, the message is redelivered, which is harmless.
func (w *ackWindow) ack(msg jetstream.Msg) {
	if msg == nil {
		return
	}
	if meta, err := msg.Metadata(); err == nil {
		w.release(meta.Sequence.Stream)
	}
	if err := msg.Ack(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) && !errors.Is(err, nats.ErrConnectionClosed) {
		w.log.Debug("report not acknowledged, it will be redelivered", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}
