package backup

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Source describes what is backed up, and where a restored one belongs.
type Source struct {
	Site string `json:"site"`
	Node string `json:"node"`
	// ConfigDir has leaf.yaml and what it names, DataDir is the leaf's, StoreDir that of its
	// nats-server. All are absolute.
	ConfigDir string `json:"configDir"`
	DataDir   string `json:"dataDir"`
	StoreDir  string `json:"storeDir"`
	// Version is that of the leaf.
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	// Except are files that are left out: the keys of an encrypted store.
	Except []string `json:"-"`
}

// manifest is the first entry of a backup.
type manifest struct {
	// Format is 1.
	Format int `json:"format"`
	Source
}

const (
	format       = 1
	manifestName = "manifest.json"
	// endName is the last entry. Without it the backup was cut off.
	endName = "end"
	// lastConfig is written when all else is restored: a machine that has it has a leaf.
	lastConfig = "leaf.yaml"
)

// folder is one folder of a backup.
type folder struct{ name, path string }

// folders are those that are backed up, without what lies in another one.
func (s Source) folders() []folder {
	all := []folder{{"config", s.ConfigDir}, {"data", s.DataDir}}
	if !within(s.StoreDir, s.DataDir) {
		all = append(all, folder{"store", s.StoreDir})
	}
	return all
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

func (s Source) validate() error {
	for name, path := range map[string]string{"configuration": s.ConfigDir, "data": s.DataDir, "store": s.StoreDir} {
		if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
			return fmt.Errorf("the folder of the %s is %q: want an absolute path", name, path)
		}
	}
	return nil
}

// Create writes a backup to the file at path, which must not exist, readable by its owner alone.
// It fails with ErrInUse while a leaf runs. The file is there when all of it is on disk.
func Create(ctx context.Context, s Source, path string) (err error) {
	if err := s.validate(); err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	for _, f := range s.folders() {
		if within(path, f.path) {
			return fmt.Errorf("the backup %s would be in %s, which it contains: choose another place, best on another machine", path, f.path)
		}
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: choose another name", path)
	}
	release, err := Lock(s.DataDir)
	if err != nil {
		return err
	}
	defer release()
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create the backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	err = errors.Join(f.Chmod(0o600), s.write(ctx, f))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if err := os.Link(part, path); err != nil { // unlike a rename it replaces nothing
		return fmt.Errorf("name the backup: %w", err)
	}
	return errors.Join(os.Remove(part), syncFolder(filepath.Dir(path)))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// write writes the archive.
func (s Source) write(ctx context.Context, to io.Writer) error {
	z := gzip.NewWriter(to)
	w := tar.NewWriter(z)
	text, err := json.MarshalIndent(manifest{format, s}, "", "  ")
	if err != nil {
		return err
	}
	if err := writeEntry(w, manifestName, text); err != nil {
		return err
	}
	for _, f := range s.folders() {
		if err := s.writeFolder(ctx, w, f); err != nil {
			return err
		}
	}
	if err := writeEntry(w, endName, nil); err != nil {
		return err
	}
	return errors.Join(w.Close(), z.Close())
}

func writeEntry(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// writeFolder writes files and folders. Sockets and links are left out, and other folders of the
// backup that lie in this one.
func (s Source) writeFolder(ctx context.Context, w *tar.Writer, f folder) error {
	return filepath.WalkDir(f.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		for _, other := range s.folders() {
			if other != f && path == other.path {
				return filepath.SkipDir
			}
		}
		if !d.IsDir() && !d.Type().IsRegular() || slices.Contains(s.Except, path) {
			return nil
		}
		rel, err := filepath.Rel(f.path, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeDir, Name: filepath.Join(f.name, rel) + "/", Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
		if d.IsDir() {
			return w.WriteHeader(header)
		}
		header.Typeflag, header.Name, header.Size = tar.TypeReg, filepath.Join(f.name, rel), info.Size()
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, file)
		return errors.Join(err, file.Close())
	})
}
