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
	// queryRoom is the part of max_payload for the other fields of a query, headers and
	// protocol.
	queryRoom = 8 << 10
)

// Read implements inventory.Site.
func (c *antiEntropy) Read(ctx context.Context, f func(streams.HubPosition, func(func(inventory.Entry)) error) error) error {
	// Nothing may be stored meanwhile: inventory and position belong together.
	c.r.cfg.Desired.Lock()
	defer c.r.cfg.Desired.Unlock()
	s, err := c.r.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	at, err := lastSource(ctx, c.r.cfg.JS)
	if err != nil {
		return err
	}
	if at.Identity == "" {
		at.Identity = c.identity
	}
	c.position = at.Seq
	return f(at, func(yield func(inventory.Entry)) error {
		if err := desired.Entries(ctx, s, c.r.cfg.Site, yield); err != nil {
			return fmt.Errorf("read the inventory of %s: %w", streams.SiteDesired, err)
		}
		return nil
	})
}

// Ask implements inventory.Site.
func (c *antiEntropy) Ask(ctx context.Context, q inventory.Query) (inventory.Answer, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return inventory.Answer{}, fmt.Errorf("encode the inventory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, inventoryWait+transfer.Duration(len(data)))
	defer cancel()
	reply, err := c.r.nc.RequestWithContext(ctx, streams.RequestSubject(c.r.cfg.Site, inventory.Request), data)
	if err != nil {
		return inventory.Answer{}, fmt.Errorf("request the inventory comparison: %w", err)
	}
	return inventory.DecodeAnswer(reply.Data)
}
