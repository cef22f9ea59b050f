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
	"strings"

	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/durable"
	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
)

var (
	// ErrDamaged reports that a file is no backup, or not all of one.
	ErrDamaged = errors.New("the backup is damaged or cut off")
	// ErrHasLeaf reports that the machine has a leaf.
	ErrHasLeaf = errors.New("this machine has a leaf already")
)

const (
	// maxManifest bounds the manifest, in bytes.
	maxManifest = 64 << 10
	// restoringName is in a data folder whose restoration is not complete.
	restoringName = ".restoring"
	// joinState is the file of a gateway that joins (leaf/join).
	joinState = "join.json"
	// besideSuffix ends the name of the folder that a backup is extracted to.
	besideSuffix = ".restore"
)

// Read returns what a backup is of.
func Read(path string) (Source, error) {
	a, err := open(path)
	if err != nil {
		return Source{}, err
	}
	defer a.close()
	return a.manifest()
}

// Restore puts a backup in the place where it was made, on a machine that has no leaf there. All of
// the backup is read before anything is in place, and leaf.yaml comes last: an interrupted Restore is
// repeated.
func Restore(ctx context.Context, path string) (Source, error) {
	a, err := open(path)
	if err != nil {
		return Source{}, err
	}
	defer a.close()
	s, err := a.manifest()
	if err != nil {
		return s, err
	}
	if err := vacant(s); err != nil {
		return s, err
	}
	beside := map[string]string{}
	for _, f := range s.folders() {
		beside[f.name] = filepath.Clean(f.path) + besideSuffix
	}
	defer func() {
		for _, dir := range beside {
			_ = os.RemoveAll(dir) // what is left of a failure; the next Restore removes it, too
		}
	}()
	if err := a.extract(ctx, beside); err != nil {
		return s, err
	}
	if err := prepare(beside["data"]); err != nil {
		return s, err
	}
	for _, dir := range beside {
		if err := syncAll(dir); err != nil {
			return s, err
		}
	}
	for _, f := range s.folders() {
		if f.name == "config" {
			continue
		}
		if err := move(beside[f.name], f.path); err != nil {
			return s, err
		}
	}
	if err := writeConfig(beside["config"], s.ConfigDir); err != nil {
		return s, err
	}
	return s, errors.Join(os.Remove(filepath.Join(s.DataDir, restoringName)), syncFolder(s.DataDir))
}

// vacant returns an error unless the machine has no leaf where the backup belongs. What an
// interrupted Restore has left is removed.
func vacant(s Source) error {
	advice := "'leaf reset --yes' removes it with all that it has stored"
	_, err := os.Lstat(filepath.Join(s.DataDir, restoringName))
	interrupted := err == nil
	for _, name := range []string{lastConfig, joinState} {
		path := filepath.Join(s.ConfigDir, name)
		if _, err := os.Lstat(path); err == nil && !(interrupted && name == joinState) {
			return fmt.Errorf("%w: there is %s; %s", ErrHasLeaf, path, advice)
		}
	}
	for _, f := range s.folders() {
		if f.name == "config" {
			continue
		}
		entries, err := os.ReadDir(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case len(entries) > 0 && !interrupted:
			return fmt.Errorf("%w: %s is not empty; %s", ErrHasLeaf, f.path, advice)
		case len(entries) > 0 && f.name != "data":
			if err := os.RemoveAll(f.path); err != nil {
				return err
			}
		}
	}
	if interrupted {
		return os.RemoveAll(s.DataDir)
	}
	return nil
}

// prepare marks the data as being restored, and has desired state compared with the hub before
// anybody sees it: it is as old as the backup.
func prepare(dataDir string) error {
	if err := durable.WriteFile(filepath.Join(dataDir, restoringName), nil, 0o600); err != nil {
		return err
	}
	checkpoints := journal.OpenCheckpoints(dataDir)
	desired, known := checkpoints.Get(streams.SiteDesired)
	if !known {
		return nil
	}
	desired.Incomplete, desired.Digest = true, ""
	return checkpoints.Put(streams.SiteDesired, desired)
}

// syncAll returns when everything on the disk of a folder is stored.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// move puts a folder in the place of an empty or missing one.
func move(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := unix.Rename(from, to); err != nil { // os.Rename refuses an empty folder
		return fmt.Errorf("put %s in place: %w", to, err)
	}
	return syncFolder(filepath.Dir(to))
}

// writeConfig writes the configuration, leaf.yaml last.
func writeConfig(from, to string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == lastConfig {
			return err
		}
		return writeFile(path, filepath.Join(to, rel))
	})
	if err != nil {
		return err
	}
	err = writeFile(filepath.Join(from, lastConfig), filepath.Join(to, lastConfig))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a leaf whose configuration has another name
	}
	return err
}

func writeFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return durable.WriteFile(to, data, info.Mode().Perm())
}

// archive is a backup that is read.
type archive struct {
	file *os.File
	z    *gzip.Reader
	r    *tar.Reader
	path string
}

func open(path string) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w: %w", path, ErrDamaged, err), f.Close())
	}
	return &archive{file: f, z: z, r: tar.NewReader(z), path: path}, nil
}

func (a *archive) close() { _ = a.file.Close() } // it was only read

func (a *archive) damaged(err error) error { return fmt.Errorf("%s: %w: %w", a.path, ErrDamaged, err) }

func (a *archive) manifest() (Source, error) {
	header, err := a.r.Next()
	if err == nil && (header.Name != manifestName || header.Size > maxManifest) {
		err = errors.New("it does not begin with a manifest")
	}
	if err != nil {
		return Source{}, a.damaged(err)
	}
	text, err := io.ReadAll(a.r)
	if err != nil {
		return Source{}, a.damaged(err)
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Source{}, a.damaged(err)
	}
	if m.Format != format {
		return m.Source, fmt.Errorf("%s: the backup has format %d, this leaf reads %d: use the leaf that has made it, version %s", a.path, m.Format, format, m.Version)
	}
	if err := m.validate(); err != nil {
		return m.Source, a.damaged(err)
	}
	return m.Source, nil
}

// extract writes the entries of each folder to its new folder.
func (a *archive) extract(ctx context.Context, to map[string]string) error {
	roots := map[string]*os.Root{}
	defer func() {
		for _, r := range roots {
			_ = r.Close() // nothing is written with it
		}
	}()
	for name, dir := range to {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		var err error
		if roots[name], err = os.OpenRoot(dir); err != nil {
			return err
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := a.r.Next()
		if err != nil {
			return a.damaged(err) // also at the end of the file: endName comes before it
		}
		if header.Name == endName {
			// The checksum is behind it.
			if _, err := io.Copy(io.Discard, a.z); err != nil {
				return a.damaged(err)
			}
			return nil
		}
		name, rel, _ := strings.Cut(header.Name, "/")
		root := roots[name]
		if root == nil {
			return a.damaged(fmt.Errorf("it has the entry %q", header.Name))
		}
		if err := a.extractEntry(root, header, rel); err != nil {
			return err
		}
	}
}

func (a *archive) extractEntry(root *os.Root, header *tar.Header, rel string) error {
	mode := fs.FileMode(header.Mode).Perm()
	switch header.Typeflag {
	case tar.TypeDir:
		if rel = strings.Trim(rel, "/"); rel == "" || rel == "." {
			return nil
		}
		return root.MkdirAll(rel, mode)
	case tar.TypeReg:
	default:
		return a.damaged(fmt.Errorf("the entry %q is neither a file nor a folder", header.Name))
	}
	f, err := root.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content{a})
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("restore %s: %w", header.Name, err)
	}
	return nil
}

// content is the content of the entry that is read.
type content struct{ *archive }

func (c content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.damaged(err)
	}
	return n, err
}
