package filestore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	messagesDir  = "msgs"
	consumersDir = "obs"
	indexFile    = "index.db"

	// maxDescription bounds the description of a stream or consumer, and indexSlack how much
	// longer than all blocks together an index may be, in bytes.
	maxDescription = 1 << 20
	indexSlack     = 1 << 20
	// progressInterval is the time between two log messages of a long check.
	progressInterval = 5 * time.Second
)

// Damaged is a stream that has lost messages.
type Damaged struct {
	Account, Stream string
	// Cut is set if nats-server removes the damaged record of a block and all that follow it.
	// Otherwise only the damaged messages cannot be read.
	Cut bool
}

// Check makes JetStream's folder safe to open, and logs what it found damaged. key is that of
// encrypted streams; known are the configurations of streams whose descriptions are written again
// if they are damaged, and whose messages stay. It reads all blocks, so it takes as long as the
// disk needs for that. It returns the streams that lost messages. An error names what could not be
// checked; everything else was checked.
func Check(ctx context.Context, store, key string, known []jetstream.StreamConfig, log *zap.Logger) ([]Damaged, error) {
	errs := []error{truncateDescriptions(store, log), repairDescriptions(store, key, known, log), checkConsumers(store, key, log)}
	found, err := filepath.Glob(filepath.Join(store, "*", "streams", "*", messagesDir))
	errs = append(errs, err)
	var all []*messages
	p := progress{log: log, next: time.Now().Add(progressInterval)}
	for _, dir := range found {
		m, err := openMessages(dir, key, log)
		if err != nil {
			errs = append(errs, fmt.Errorf("check %s: %w", dir, err))
			continue
		}
		all = append(all, m)
		p.total += m.bytes
	}
	var bad []Damaged
	for _, m := range all {
		cut, unreadable, err := m.check(ctx, &p)
		if err != nil {
			errs = append(errs, fmt.Errorf("check %s: %w", m.dir, err))
		}
		if cut || unreadable {
			bad = append(bad, Damaged{m.account(), m.stream(), cut})
		}
	}
	return bad, errors.Join(errs...)
}

// truncateDescriptions truncates oversized descriptions. nats-server reads them into memory as a
// whole before it compares the checksum, which then does not match.
func truncateDescriptions(store string, log *zap.Logger) error {
	var errs []error
	for _, pattern := range []string{"*/streams/*/meta.*", "*/streams/*/" + consumersDir + "/*/meta.*"} {
		files, err := filepath.Glob(filepath.Join(store, pattern))
		errs = append(errs, err)
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Size() > maxDescription {
				log.Warn("description of a stream or consumer cut, it is damaged", zap.String("file", f), zap.Int64("bytes", info.Size()))
				errs = append(errs, os.Truncate(f, maxDescription))
			}
		}
	}
	return errors.Join(errs...)
}

// messages is the folder with the messages of a stream.
type messages struct {
	dir    string
	key    string  // of the store
	blocks []block // in the order of their numbers
	bytes  int64   // of all blocks
	// encrypted is set if the stream is, and asset is its key, nil if that is damaged.
	encrypted bool
	asset     *asset
	log       *zap.Logger
}

// block is a block file.
type block struct {
	number uint32
	size   int64
}

func openMessages(dir, key string, log *zap.Logger) (*messages, error) {
	m := &messages{dir: dir, key: key, log: log}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if err := m.openKey(); err != nil {
		return nil, err
	}
	for _, e := range entries {
		var b block
		if n, err := fmt.Sscanf(e.Name(), "%d.blk", &b.number); err != nil || n != 1 || e.Name() != filepath.Base(m.path(b)) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		b.size = info.Size()
		m.blocks, m.bytes = append(m.blocks, b), m.bytes+b.size
	}
	slices.SortFunc(m.blocks, func(a, b block) int { return int(int64(a.number) - int64(b.number)) })
	return m, nil
}

func (m *messages) path(b block) string {
	return filepath.Join(m.dir, fmt.Sprintf("%d.blk", b.number))
}

func (m *messages) stream() string { return filepath.Base(filepath.Dir(m.dir)) }

// account returns the folder four levels up: account/streams/stream/msgs.
func (m *messages) account() string {
	return filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(m.dir))))
}

// check makes the folder safe to open, and reports whether nats-server is going to truncate a
// block, and whether messages cannot be read.
func (m *messages) check(ctx context.Context, p *progress) (cut, unreadable bool, err error) {
	if err := m.removeOversizedIndex(); err != nil {
		return false, false, err
	}
	index, err := m.readIndex()
	if err != nil {
		return false, false, err
	}
	use, err := m.usesIndex(index)
	if err != nil {
		return false, false, err
	}
	known := lastSeqOf(index)
	var newest uint64
	in := bufio.NewReaderSize(nil, readAhead)
	for i, b := range m.blocks {
		if err := ctx.Err(); err != nil {
			return cut, unreadable, err
		}
		r, err := newBlockReader(m.stream(), b.number, in)
		if err != nil {
			return cut, unreadable, err
		}
		bad, err := m.verify(r, b)
		if errors.Is(err, errAsset) {
			cut = true
			m.log.Warn("block of a stream removed, its key is damaged", zap.String("file", m.path(b)), zap.Error(err))
			if err := m.removeBlock(b); err != nil {
				return cut, unreadable, err
			}
			continue
		}
		if err != nil {
			return cut, unreadable, err
		}
		p.add(b.size)
		newest = max(newest, r.newest)
		if r.skipped {
			newest = math.MaxUint64 // not known
		}
		if end := use == unused && i == len(m.blocks)-1; end && (bad == nil || bad.confirmed == 0 && b.size <= maxRecord) {
			continue // as after a power cut: what was being written was not acknowledged
		}
		log := m.log.With(zap.String("file", m.path(b)))
		if r.unreadable > 0 {
			unreadable = true
			log.Warn("messages of a stream are damaged and cannot be read", zap.Int("messages", r.unreadable))
		}
		if bad == nil {
			continue
		}
		cut = true
		log.Warn("block of a stream is damaged, the messages behind are lost", zap.Int64("offset", bad.offset), zap.String("found", bad.reason))
		if err := m.exposeDamage(b, *bad); err != nil {
			return cut, unreadable, err
		}
	}
	// Without an index, nats-server verifies all hashes: it cuts a block also where only a
	// body is damaged. And the stream ends where its records do, not where the index says;
	// whether that is less than was acknowledged, the leaf knows.
	if use == unused {
		cut = cut || unreadable
	}
	if use == used && cut || use == unused && known > newest {
		return cut, unreadable, m.removeIndex()
	}
	return cut, unreadable, nil
}

// verify returns the first record of a block that would mislead nats-server, or nil.
func (m *messages) verify(r *blockReader, b block) (*damage, error) {
	f, err := os.Open(m.path(b))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in, err := m.decrypt(b, f)
	if err != nil {
		return nil, err
	}
	bad, err := r.verify(in, b.size)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.path(b), err)
	}
	return bad, nil
}

// removeBlock removes a block that nobody can read any longer.
func (m *messages) removeBlock(b block) error {
	return errors.Join(os.Remove(m.path(b)), os.RemoveAll(m.keyPath(b)))
}

// exposeDamage makes nats-server detect damage without harm when it reads the block again.
func (m *messages) exposeDamage(b block, d damage) error {
	switch {
	case d.confirmed > 0:
		return d.invalidateHash(m.path(b))
	case b.size > maxRecord:
		// It would read all of it. A byte is left by which it sees that there was more.
		return os.Truncate(m.path(b), d.offset+1)
	}
	return nil
}

// removeOversizedIndex removes an index that is longer than the blocks that it describes, since
// nats-server reads it into memory as a whole.
func (m *messages) removeOversizedIndex() error {
	info, err := os.Stat(m.index())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() <= m.bytes+indexSlack {
		return err
	}
	m.log.Warn("index of a stream removed, it is damaged", zap.String("file", m.index()), zap.Int64("bytes", info.Size()))
	return m.removeIndex()
}
