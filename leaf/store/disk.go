package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/petiole-io/petiole/leaf/natsd"
)

const (
	// reserveFileBytes is the size of a file beside the store that is deleted when the disk is
	// so full that not even a limit can be lowered.
	reserveFileBytes = 1 << 20
	reserveFileName  = "ballast"
	// refusedSize is the maximum message size of SITE_TELEMETRY while it refuses records.
	refusedSize = 1
	// minTelemetry is what SITE_TELEMETRY may keep on the fullest disk.
	minTelemetry = 1 << 20
)

// disk is the file system of the store.
type disk struct {
	// dir is a folder of the leaf in that file system.
	dir string
	// reserve is what telemetry leaves free for everything else, in bytes.
	reserve int64
}

// space is the free and total size of a file system in bytes.
type space struct{ free, total int64 }

func (d disk) space() (space, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		return space{}, fmt.Errorf("read free space of %s: %w", d.dir, err)
	}
	block := uint64(st.Bsize) // an int32 on 32-bit machines
	return space{free: int64(st.Bavail * block), total: int64(st.Blocks * block)}, nil
}

// reserved returns the bytes that telemetry must leave free: the reserve, or a quarter of a
// small disk.
func (d disk) reserved(s space) int64 { return min(d.reserve, s.total/4) }

// full reports whether so little is free that writes are about to fail.
func (d disk) full(s space) bool { return s.free < min(d.reserved(s)/4, reserveFileBytes) }

// mustRefuse reports whether telemetry with the limit bound has to be refused because too little
// is free. nats-server 2.15.2 gives a producer no answer once a write has failed
// (docs/upstream.md, 11), so telemetry is refused before that happens. If it is refused already,
// that ends when there is twice as much room.
func (d disk) mustRefuse(s space, bound int64, refused bool) bool {
	least := min(d.reserved(s)/4, 4*reserveFileBytes)
	if refused {
		least *= 2
	}
	return bound <= minTelemetry && s.free < least
}

// bound returns how many bytes SITE_TELEMETRY may hold at most, given the bytes used and the
// limit now: as many as configured, as long as the reserve stays free. Small steps are left out,
// so that the limit does not change all the time.
func (d disk) bound(s space, used, now, configured int64) int64 {
	fits := max(min(used+s.free-d.reserved(s), configured), min(minTelemetry, configured))
	switch {
	case fits > now && fits < configured && fits-now < now/4,
		fits < now && now-fits < now/8 && s.free > d.reserved(s):
		return now
	}
	return fits
}

// allocateReserveFile creates the reserve file if it is missing and there is room for it.
func (d disk) allocateReserveFile(s space) error {
	path := filepath.Join(d.dir, reserveFileName)
	if st, err := os.Stat(path); err == nil && st.Size() == reserveFileBytes || s.free < 4*reserveFileBytes {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("allocate the reserve file: %w", err)
	}
	err = syscall.Fallocate(int(f.Fd()), 0, 0, reserveFileBytes)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, reserveFileBytes))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("allocate the reserve file: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// makeRoom is releaseSpace if the disk is full.
func (d disk) makeRoom() error {
	s, err := d.space()
	if err != nil || !d.full(s) {
		return err
	}
	return d.releaseSpace()
}

// releaseSpace deletes the reserve file and the copies of damaged streams.
func (d disk) releaseSpace() error {
	err := os.Remove(filepath.Join(d.dir, reserveFileName))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(filepath.Join(d.dir, natsd.AsideName)))
}
