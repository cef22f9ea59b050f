package replicate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

const (
	// inventoryWait is how long the bridge may take to answer one query.
	inventoryWait = 10 * time.Second
	// queryTarget is how long the line and the bridge may take for one query.
	queryTarget = 2 * time.Second
	// maxQuery bounds the entries of one query, in bytes.
	maxQuery = 1 << 20
	// queryRoom is the part of max_payload for the other fields of a query, headers and
	// protocol.
	queryRoom = 8 << 10
)

// Read implements inventory.Site.
func (ae *antiEntropy) Read(ctx context.Context, f func(streams.HubPosition, func(func(inventory.Entry)) error) error) error {
	// Nothing may be stored meanwhile: inventory and position belong together.
	ae.r.cfg.Desired.Lock()
	defer ae.r.cfg.Desired.Unlock()
	s, err := ae.r.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	at, err := lastSource(ctx, ae.r.cfg.JS)
	if err != nil {
		return err
	}
	if at.Identity == "" {
		at.Identity = ae.identity
	}
	ae.position = at.Seq
	return f(at, func(yield func(inventory.Entry)) error {
		if err := desired.Entries(ctx, s, ae.r.cfg.Site, yield); err != nil {
			return fmt.Errorf("read the inventory of %s: %w", streams.SiteDesired, err)
		}
		return nil
	})
}

// Ask implements inventory.Site.
func (ae *antiEntropy) Ask(ctx context.Context, q inventory.Query) (inventory.Answer, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return inventory.Answer{}, fmt.Errorf("encode the inventory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, inventoryWait+transfer.Duration(len(data)))
	defer cancel()
	start := time.Now()
	reply, err := transfer.Requester{Conn: ae.r.nc, Meter: ae.r.cfg.Meter}.RequestWithContext(ctx, streams.RequestSubject(ae.r.cfg.Site, inventory.Request), data)
	if err != nil {
		ae.r.queries.Record(len(data), max(time.Since(start), 2*queryTarget))
		return inventory.Answer{}, fmt.Errorf("request the inventory comparison: %w", err)
	}
	ae.r.queries.Record(len(data), time.Since(start))
	return inventory.DecodeAnswer(reply.Data)
}
