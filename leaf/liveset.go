package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// CensusName is the file of the data folder that says what SITE_DESIRED held.
const LiveSetName = "census.json"

// census is what SITE_DESIRED holds without the tombstones that are about to be removed.
//
// nats-server writes no record of a message that is superseded by the next one of its
// subject. When that next one is removed, and the server is killed at any time after it,
// the stream is rebuilt from its message blocks, and the superseded message is back: an
// object that was deleted. It lies in its block until the block is compacted, which may
// be never. A message that is not in the census and not newer than it is one of those.
//
// The bound of the file is the number of objects of the site, not of removals.
type liveSet struct {
	// Created is when the stream was made, ns since 1970; another stream has other
	// sequences.
	Created int64 `json:"created"`
	// Last is the stream's last sequence, Taken the time, ns since 1970. A message up to
	// Last that is younger is of a store that was rolled back and went on.
	Last  uint64 `json:"last"`
	Taken int64  `json:"taken"`
	// Kept are the sequences of the messages, in order.
	Kept []uint64 `json:"kept"`
}

// newCensus is what is left of the messages seen without those that go.
func newLiveSet(info *jetstream.StreamInfo, seen, going []uint64) liveSet {
	goes := make(map[uint64]bool, len(going))
	for _, seq := range going {
		goes[seq] = true
	}
	c := liveSet{Created: info.Created.UnixNano(), Last: info.State.LastSeq, Taken: time.Now().UnixNano(), Kept: []uint64{}}
	for _, seq := range seen {
		if !goes[seq] {
			c.Kept = append(c.Kept, seq)
		}
	}
	return c
}

// write replaces the file and returns when that is on disk.
func (c liveSet) write(path string) error {
	data, err := json.Marshal(c)
	if err == nil {
		err = replaceFile(path, data)
	}
	if err != nil {
		return fmt.Errorf("write census: %w", err)
	}
	return nil
}

// readCensus reads the file; false when there is none.
func readLiveSet(path string) (c liveSet, known bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return liveSet{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return liveSet{}, false, fmt.Errorf("read census: %w", err)
	}
	return c, true, nil
}

// of says whether the census is of a stream as it is now, and not of one that was made
// anew or rolled back since.
func (c liveSet) describes(info *jetstream.StreamInfo) bool {
	return c.Created == info.Created.UnixNano() && c.Last <= info.State.LastSeq
}

// back finds the messages of the stream that had been removed or superseded.
func (c liveSet) resurrected(ctx context.Context, s jetstream.Stream, site string) (seqs []uint64, err error) {
	kept := make(map[uint64]bool, len(c.Kept))
	for _, seq := range c.Kept {
		kept[seq] = true
	}
	err = readLast(ctx, s, streams.DesiredFilter(site), true, func(_ jetstream.Msg, md *jetstream.MsgMetadata) error {
		seq := md.Sequence.Stream
		if seq <= c.Last && !kept[seq] && md.Timestamp.UnixNano() <= c.Taken {
			seqs = append(seqs, seq)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	return seqs, nil
}

// first recounts on a server that was started again, before anybody reads from it.
func (k *storeSupervisor) beforeConnections(ctx context.Context, s *server.Server) {
	err := func() error {
		login, err := k.host.login()
		if err != nil {
			return err
		}
		nc, err := nats.Connect("", login, nats.InProcessServer(s), nats.CustomInboxPrefix("_INBOX_"+k.site))
		if err != nil {
			return fmt.Errorf("connect to the server: %w", err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return fmt.Errorf("open JetStream: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, 2*readWait)
		defer cancel()
		return k.removeResurrected(ctx, js)
	}()
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		k.told("desired state not counted again", err)
	}
}

// recount removes from SITE_DESIRED what a rebuilt store has brought back. It is called
// after every start of the server, before anybody in this process reads the stream. A
// disk that does not take the removal does not hold up the site: the next start tries
// again.
func (k *storeSupervisor) removeResurrected(ctx context.Context, js jetstream.JetStream) error {
	c, known, err := readLiveSet(k.liveSetFile)
	if k.told("what was removed before is not known", err); !known {
		return nil
	}
	s, err := js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteDesired, err)
	}
	if !c.describes(s.CachedInfo()) {
		k.told("forget the census", os.Remove(k.liveSetFile))
		return nil
	}
	k.storing.Lock()
	seqs, err := c.resurrected(ctx, s, k.site)
	k.storing.Unlock()
	if errors.Is(err, errUnreadable) {
		return nil // verifyDesired finds that, too, and makes the stream anew
	}
	if err != nil || len(seqs) == 0 {
		return err
	}
	n, err := k.deleteMessages(ctx, s, seqs)
	k.log.Warn("removed messages were back and were removed again", zap.String("stream", streams.SiteDesired), zap.Int("count", n))
	k.told("remove what was back", err)
	return nil
}
