package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/durable"
	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/streams"
)

// liveSetName is the file in the data folder that lists the live messages of SITE_DESIRED.
// Gateways have it under this name.
const liveSetName = "census.json"

// liveSet lists the messages of SITE_DESIRED that must survive the next deletion: a compaction, or
// the erasure of Secrets.
//
// nats-server 2.15.2 writes no record of a message that the next one of its subject supersedes
// (docs/upstream.md, 7). When that next one is deleted and the server is killed at any later
// time, the stream is rebuilt from its message blocks and the superseded message is back: an
// object that was deleted. It stays in its block until the block is compacted, which may never
// happen. A message that is not in the live set, and not newer than it, is one of those.
//
// The size of the file depends on the number of objects of the site, not on the number of
// deletions.
type liveSet struct {
	// Created is the creation time of the stream in ns since 1970. Another stream has other
	// sequences.
	Created int64 `json:"created"`
	// Last is the last sequence of the stream and Taken the time in ns since 1970. A message up
	// to Last that is younger than Taken belongs to a store that was rolled back and continued.
	Last  uint64 `json:"last"`
	Taken int64  `json:"taken"`
	// Kept are the sequences of the live messages, in order.
	Kept []uint64 `json:"kept"`
}

// newLiveSet returns the messages in seen without those in going.
func newLiveSet(info *jetstream.StreamInfo, seen, going []uint64) liveSet {
	goes := make(map[uint64]bool, len(going))
	for _, seq := range going {
		goes[seq] = true
	}
	set := liveSet{Created: info.Created.UnixNano(), Last: info.State.LastSeq, Taken: time.Now().UnixNano(), Kept: []uint64{}}
	for _, seq := range seen {
		if !goes[seq] {
			set.Kept = append(set.Kept, seq)
		}
	}
	return set
}

// write replaces the file and returns when it is on disk.
func (set liveSet) write(path string) error {
	data, err := json.Marshal(set)
	if err == nil {
		err = durable.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the live set of SITE_DESIRED: %w", err)
	}
	return nil
}

// readLiveSet reads the file. It returns false if there is none.
func readLiveSet(path string) (set liveSet, known bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return liveSet{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &set)
	}
	if err != nil {
		return liveSet{}, false, fmt.Errorf("read the live set of SITE_DESIRED: %w", err)
	}
	return set, true, nil
}

// describes reports whether the live set belongs to the stream as it is now, and not to one that
// was created again or rolled back since.
func (set liveSet) describes(info *jetstream.StreamInfo) bool {
	return set.Created == info.Created.UnixNano() && set.Last <= info.State.LastSeq
}

// resurrected returns the messages of the stream that had been deleted or superseded.
func (set liveSet) resurrected(ctx context.Context, s jetstream.Stream, site string) (seqs []uint64, err error) {
	kept := make(map[uint64]bool, len(set.Kept))
	for _, seq := range set.Kept {
		kept[seq] = true
	}
	err = desired.Read(ctx, s, site, true, func(_ jetstream.Msg, md *jetstream.MsgMetadata) error {
		seq := md.Sequence.Stream
		if seq <= set.Last && !kept[seq] && md.Timestamp.UnixNano() <= set.Taken {
			seqs = append(seqs, seq)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	return seqs, nil
}

// beforeConnections removes resurrected messages from a server that has just started, on the
// first connection to it, before anybody else reads from it.
func (cp *compactor) beforeConnections(ctx context.Context, nc *nats.Conn) {
	js, err := jetstream.New(nc)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 2*desired.Wait)
		defer cancel()
		err = cp.removeResurrected(ctx, js)
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		cp.failures.Report("delete resurrected messages", err)
	}
}

// removeResurrected deletes the messages that a rebuilt store has brought back to SITE_DESIRED.
// It is called after every start of the server, before anybody in this process reads the stream.
// A failed deletion does not hold up the site: the next start tries again.
func (cp *compactor) removeResurrected(ctx context.Context, js jetstream.JetStream) error {
	set, known, err := readLiveSet(cp.liveSetFile)
	if cp.failures.Report("read the live set", err); !known {
		return nil
	}
	s, err := js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteDesired, err)
	}
	if !set.describes(s.CachedInfo()) {
		cp.failures.Report("delete the outdated live set", os.Remove(cp.liveSetFile))
		return nil
	}
	cp.storing.Lock()
	seqs, err := set.resurrected(ctx, s, cp.site)
	cp.storing.Unlock()
	if errors.Is(err, desired.ErrUnreadable) {
		return nil // verifyDesired finds that as well and creates the stream again
	}
	if err != nil || len(seqs) == 0 {
		return err
	}
	n, err := cp.deleteMessages(ctx, s, seqs)
	cp.log.Warn("deleted messages had reappeared and were deleted again", zap.String("stream", streams.SiteDesired), zap.Int("count", n))
	cp.failures.Report("delete resurrected messages", err)
	return nil
}
