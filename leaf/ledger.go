package leaf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/petiole-io/petiole/streams"
)

// LedgerName is the file of the data folder that counts what was dropped.
const LedgerName = "dropped.json"

// spot is a place in a stream of the leaf: a sequence, and the claim it belongs to (lineage),
// without which the sequence says nothing after a store was rolled back or made anew.
type spot struct {
	Claim int64  `json:"claim"`
	Seq   uint64 `json:"seq"`
}

// account is what the ledger knows of one stream.
type account struct {
	// Noted is up to where everything was forwarded or counted as dropped. It is written
	// when a session ends, so it may be behind.
	Noted spot `json:"noted"`
	// Counted is the last that was counted as dropped.
	Counted spot `json:"counted"`
	// Dropped is how many were dropped, by reason (streams.GapLimit, streams.GapLost).
	Dropped map[string]uint64 `json:"dropped,omitempty"`
}

// ledger counts the records that were dropped before the hub had them, in a file that
// outlives restarts. It is safe for concurrent use.
type ledger struct {
	path string

	mu       sync.Mutex
	accounts map[string]*account
}

// openLedger reads the ledger of a data folder. One that cannot be read begins at zero
// and is returned with the error.
func openLedger(dataDir string) (*ledger, error) {
	l := &ledger{path: filepath.Join(dataDir, LedgerName), accounts: map[string]*account{}}
	data, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &l.accounts)
	}
	if err != nil {
		l.accounts = map[string]*account{}
		return l, fmt.Errorf("read ledger: %w", err)
	}
	for name, a := range l.accounts {
		if a == nil {
			delete(l.accounts, name)
		}
	}
	return l, nil
}

// of returns the account of a stream. The lock is held.
func (l *ledger) of(stream string) *account {
	a := l.accounts[stream]
	if a == nil {
		a = &account{}
		l.accounts[stream] = a
	}
	if a.Dropped == nil {
		a.Dropped = map[string]uint64{}
	}
	return a
}

// noted is up to where everything of a stream is known to have been dealt with.
func (l *ledger) noted(stream string) spot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(stream).Noted
}

// drop counts sequences of a stream with the lineage as dropped, each once however often
// it is called with them, and returns when that is on disk.
func (l *ledger) drop(stream string, of lineage, reason string, s span) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(stream)
	if counted, ok := of.find(a.Counted); ok {
		s.from = max(s.from, counted+1)
	}
	if s.from > s.to {
		return nil
	}
	a.Counted = of.spot(s.to)
	a.Dropped[reason] += s.count()
	return l.save()
}

// lose counts records that were lost with a store.
func (l *ledger) lose(stream string, n uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(stream).Dropped[streams.GapLost] += n
	return l.save()
}

// note writes down up to where everything of a stream was dealt with.
func (l *ledger) note(stream string, at spot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.of(stream); a.Noted != at {
		a.Noted = at
		return l.save()
	}
	return nil
}

// each calls f with every count.
func (l *ledger) each(f func(stream, reason string, n uint64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, a := range l.accounts {
		for reason, n := range a.Dropped {
			f(name, reason, n)
		}
	}
}

// total is how many records were dropped since the ledger began.
func (l *ledger) total() (n uint64) {
	l.each(func(_, _ string, m uint64) { n += m })
	return n
}

// save replaces the file and returns when that is on disk.
func (l *ledger) save() error {
	data, err := json.Marshal(l.accounts)
	if err == nil {
		err = replaceFile(l.path, data)
	}
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// replaceFile writes data beside the file and puts it in its place, on disk.
func replaceFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
