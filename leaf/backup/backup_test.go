package backup

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gateway returns folders of a gateway with files in them.
func gateway(t *testing.T) Source {
	t.Helper()
	dir := t.TempDir()
	s := Source{Site: "plant-a", Node: "plant-a-1", ConfigDir: filepath.Join(dir, "etc"), DataDir: filepath.Join(dir, "var"), StoreDir: filepath.Join(dir, "var/nats"), Version: "v1"}
	s.Except = []string{filepath.Join(s.ConfigDir, "store.key")}
	for path, data := range map[string]string{
		"etc/leaf.yaml": "site: plant-a", "etc/link.nk": "SU", "etc/users/operator.nk": "SU2", "etc/store.key": "secret",
		"var/revision": "7", "var/nats/jetstream/1.blk": strings.Repeat("record", 10_000), "var/tokens/0a": "token",
	} {
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(data), 0o600))
	}
	must(t, journal.OpenCheckpoints(s.DataDir).Put(streams.SiteDesired, journal.Checkpoint{Created: 1, Last: 5, Digest: "d"}))
	return s
}

// files returns the files of a gateway with their content.
func files(t *testing.T, s Source) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, f := range s.folders() {
		must(t, filepath.WalkDir(f.path, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			all[path] = string(data)
			return err
		}))
	}
	return all
}

func remove(t *testing.T, s Source) {
	t.Helper()
	for _, f := range s.folders() {
		must(t, os.RemoveAll(f.path))
	}
}

// TestRestoredAsItWas: files and modes are those of the backup, without the key of the store, and
// desired state has to be compared. The store may lie elsewhere.
func TestRestoredAsItWas(t *testing.T) {
	for name, store := range map[string]string{"in the data folder": "var/nats", "elsewhere": "mnt/nats"} {
		t.Run(name, func(t *testing.T) {
			s := gateway(t)
			if store = filepath.Join(filepath.Dir(s.DataDir), store); store != s.StoreDir {
				must(t, os.MkdirAll(filepath.Dir(store), 0o700))
				must(t, os.Rename(s.StoreDir, store))
				s.StoreDir = store
			}
			want := files(t, s)
			file := filepath.Join(t.TempDir(), "backup")
			must(t, Create(t.Context(), s, file))
			if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
				t.Errorf("the backup has mode %v, %v", info.Mode(), err)
			}
			if got, err := Read(file); err != nil || got.Site != s.Site || got.DataDir != s.DataDir {
				t.Errorf("it is of %+v, %v", got, err)
			}
			remove(t, s)
			if _, err := Restore(t.Context(), file); err != nil {
				t.Fatal(err)
			}
			got := files(t, s)
			if cp, _ := journal.OpenCheckpoints(s.DataDir).Get(streams.SiteDesired); !cp.Incomplete || cp.Last != 5 || cp.Digest != "" {
				t.Errorf("desired state is used without a comparison: %+v", cp)
			}
			delete(want, s.Except[0])
			for path, data := range want {
				if filepath.Base(path) != "streams.json" && got[path] != data {
					t.Errorf("%s is not as it was", path)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d files, want %d", len(got), len(want))
			}
			if info, err := os.Stat(filepath.Join(s.ConfigDir, "link.nk")); err != nil || info.Mode() != 0o600 {
				t.Errorf("link.nk: %v, %v", info.Mode(), err)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(s.DataDir), "*"+besideSuffix))
			if must(t, err); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestDamagedBackups: of a backup that is cut off anywhere, or changed, nothing is restored.
func TestDamagedBackups(t *testing.T) {
	s := gateway(t)
	file := filepath.Join(t.TempDir(), "backup")
	must(t, Create(t.Context(), s, file))
	whole, err := os.ReadFile(file)
	must(t, err)
	remove(t, s)
	damaged := map[string][]byte{"empty": nil, "something else": []byte("site: plant-a")}
	for _, n := range []int{1, 9, len(whole) / 4, len(whole) / 2, len(whole) - 9, len(whole) - 1} {
		damaged["cut at "+strings.Repeat("I", n%50)] = whole[:n]
	}
	changed := bytes.Clone(whole)
	changed[len(changed)/2] ^= 1
	damaged["changed"] = changed
	for name, data := range damaged {
		must(t, os.WriteFile(file, data, 0o600))
		if _, err := Restore(t.Context(), file); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		left, err := filepath.Glob(filepath.Join(filepath.Dir(s.DataDir), "*"))
		if must(t, err); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	must(t, os.WriteFile(file, whole, 0o600))
	_, err = Restore(t.Context(), file)
	must(t, err)
}

// TestRefusals: what is there is neither replaced nor mixed with a backup.
func TestRefusals(t *testing.T) {
	s := gateway(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	release, err := Lock(s.DataDir)
	must(t, err)
	if err := Create(t.Context(), s, file); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("beside a leaf: %v", err)
	}
	release()
	for _, inside := range []string{filepath.Join(s.DataDir, "backup"), filepath.Join(s.ConfigDir, "backup")} {
		if err := Create(t.Context(), s, inside); err == nil || !strings.Contains(err.Error(), "another place") {
			t.Errorf("%s: %v", inside, err)
		}
	}
	must(t, Create(t.Context(), s, file))
	if err := Create(t.Context(), s, file); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a backup is replaced: %v", err)
	}
	before := files(t, s)
	if _, err := Restore(t.Context(), file); !errors.Is(err, ErrHasLeaf) || !strings.Contains(err.Error(), "leaf reset") {
		t.Errorf("on a gateway: %v", err)
	}
	must(t, os.Remove(filepath.Join(s.ConfigDir, "leaf.yaml")))
	if _, err := Restore(t.Context(), file); !errors.Is(err, ErrHasLeaf) || !strings.Contains(err.Error(), s.DataDir) {
		t.Errorf("beside data: %v", err)
	}
	after := files(t, s)
	after[filepath.Join(s.ConfigDir, "leaf.yaml")] = before[filepath.Join(s.ConfigDir, "leaf.yaml")]
	if len(after) != len(before) {
		t.Errorf("%d files, had %d", len(after), len(before))
	}
	for path, data := range before {
		if after[path] != data {
			t.Errorf("%s was changed", path)
		}
	}
	names, err := os.ReadDir(dir)
	must(t, err)
	if got := slices.IndexFunc(names, func(e os.DirEntry) bool { return e.Name() != "backup" }); got >= 0 {
		t.Errorf("left: %v", names)
	}
}

// TestInterruptedRestore: one that was killed after the data and before the configuration was in
// place is repeated.
func TestInterruptedRestore(t *testing.T) {
	s := gateway(t)
	want := files(t, s)
	file := filepath.Join(t.TempDir(), "backup")
	must(t, Create(t.Context(), s, file))
	remove(t, s)
	for _, path := range []string{filepath.Join(s.DataDir, restoringName), filepath.Join(s.DataDir, "nats/half"), filepath.Join(s.ConfigDir, "join.json"), s.DataDir + besideSuffix + "/old"} {
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte("half"), 0o600))
	}
	_, err := Restore(t.Context(), file)
	must(t, err)
	got := files(t, s)
	must(t, os.Remove(filepath.Join(s.ConfigDir, "join.json"))) // the gateway of this test had none
	delete(got, filepath.Join(s.ConfigDir, "join.json"))
	if len(got) != len(want)-1 { // without the key of the store
		t.Errorf("%d files, want %d: %v", len(got), len(want)-1, got)
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, restoringName)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the mark of an interrupted restore stays")
	}
}
