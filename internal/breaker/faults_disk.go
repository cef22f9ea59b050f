package breaker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
)

// whileDown runs change while the site's leaf is dead and nobody observes the site, and
// starts the leaf again after rest.
func (r *run) whileDown(ctx context.Context, target int, rest time.Duration, change func(*world.Site) error) error {
	s, v := r.world.Sites[target], r.views[target]
	r.countCut(target, false)
	defer r.countCut(target, true)
	v.pause()
	defer v.resume()
	if err := s.Leaf.Kill(); err != nil {
		return err
	}
	if err := change(s); err != nil {
		return err
	}
	if !sleep(ctx, rest) {
		return ctx.Err()
	}
	return r.startLeaf(ctx, s)
}

// cutPower discards what the disk has not synced, as a power cut does. Nothing that
// was acknowledged may be lost. The leaf stops first, because a machine without power acknowledges
// nothing: an fsync that is under way while ext4 is shut down may return without an error, although
// the journal has dropped its transaction.
func cutPower(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	s := r.world.Sites[a.target]
	if err := s.Leaf.Pause(); err != nil {
		return nil, err
	}
	if err := s.Disk.CutPower(); err != nil {
		return nil, err
	}
	return nil, r.whileDown(ctx, a.target, a.lasts, func(s *world.Site) error {
		return errors.Join(s.Disk.Unmount(), s.Disk.Mount())
	})
}

// rollBack restores an older copy of the site's disk.
func rollBack(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	s := r.world.Sites[a.target]
	copied := s.Disk.Image + ".copy"
	since := r.record.now()
	if err := s.Disk.Copy(copied); err != nil {
		return nil, err
	}
	defer os.Remove(copied)
	if !sleep(ctx, a.lasts) {
		return nil, ctx.Err()
	}
	return nil, r.whileDown(ctx, a.target, 0, func(s *world.Site) error {
		err := errors.Join(s.Disk.Unmount(), s.Disk.Restore(copied), s.Disk.Mount())
		r.views[a.target].reset()
		r.record.add(check.Event{Kind: check.StoreLost, Site: s.Name, What: "rolled back", Since: since})
		return err
	})
}

func truncateStore(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	return nil, r.damage(ctx, a, "truncated", func(f *os.File, size int64) error {
		return f.Truncate(random(a.dice).Int64N(size))
	})
}

// flippedBits is the number of bits of a file that are flipped.
const flippedBits = 8

func flipStore(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	rng := random(a.dice)
	return nil, r.damage(ctx, a, "bits flipped", func(f *os.File, size int64) error {
		for range flippedBits {
			at, b := rng.Int64N(size), make([]byte, 1)
			if _, err := f.ReadAt(b, at); err != nil {
				return err
			}
			b[0] ^= 1 << rng.IntN(8)
			if _, err := f.WriteAt(b, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// damage changes one file of the leaf's JetStream store.
func (r *run) damage(ctx context.Context, a action, what string, change func(*os.File, int64) error) error {
	return r.whileDown(ctx, a.target, a.lasts, func(s *world.Site) error {
		var files []string
		err := filepath.Walk(s.Store(), func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() && info.Size() > 0 {
				files = append(files, path)
			}
			return err
		})
		if err != nil || len(files) == 0 {
			return fmt.Errorf("find a file of the store of %s: %w", s.Name, err)
		}
		path := files[random(a.dice+1).IntN(len(files))]
		stream := streamOf(path)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			err = change(f, info.Size())
		}
		r.views[a.target].reset()
		rel, rerr := filepath.Rel(s.Store(), path)
		r.record.add(check.Event{Kind: check.StoreLost, Site: s.Name, What: what + " " + rel, Stream: stream})
		r.record.printf("%s: %s of %d bytes %s", s.Name, rel, info.Size(), what)
		return errors.Join(err, rerr, f.Close())
	})
}

// streamOf returns the stream whose folder a file is in:
// <store>/jetstream/<account>/streams/<stream>/….
func streamOf(path string) string {
	parts := strings.Split(path, string(filepath.Separator))
	for i, p := range parts[:len(parts)-1] {
		if p == "streams" {
			return parts[i+1]
		}
	}
	return ""
}

func fillDisk(_ context.Context, r *run, a action) (func(context.Context) error, error) {
	s := r.world.Sites[a.target]
	return func(context.Context) error { return s.Disk.Free() }, s.Disk.Fill()
}
