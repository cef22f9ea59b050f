package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is an entry in the output of `go mod download -json`.
type module struct{ Path, Version, Error string }

// moduleFolders are the folders with the Go modules that are built, and the largest module
// that each needs: when that is there, the others are taken to be, too. The build fetches
// any that are missing nevertheless.
var moduleFolders = []struct{ dir, largest string }{
	{".", "k8s.io/kubernetes"},
	{"deploy/crio", "github.com/cri-o/cri-o"},
	{"deploy/natscli", "github.com/nats-io/natscli"},
}

// MissingModules lists the folders whose Go modules must be downloaded.
func MissingModules(ctx context.Context, root string) ([]string, error) {
	var missing []string
	for _, m := range moduleFolders {
		dir := filepath.Join(root, m.dir)
		out, err := goCommand(ctx, dir, "GOPROXY=off", "list", "-m", "-f", "{{.Dir}}", m.largest)
		if err != nil || len(bytes.TrimSpace(out)) == 0 {
			missing = append(missing, dir)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return missing, nil
}

// DownloadModules fetches the Go modules of the folders. Its error names what could not be
// fetched, and from where.
func DownloadModules(ctx context.Context, out io.Writer, dirs []string) error {
	for _, dir := range dirs {
		fmt.Fprintf(out, "downloading the Go modules of %s\n", filepath.Join(dir, "go.mod"))
		answer, err := goCommand(ctx, dir, "", "mod", "download", "-json")
		if ctx.Err() != nil {
			return fmt.Errorf("download Go modules: %w", ctx.Err())
		}
		if err := downloadError(dir, answer, err); err != nil {
			return err
		}
	}
	return nil
}

const fetchAdvice = "Mend the network, or set GOPROXY to a module proxy that can be reached, and run the command again: what was fetched stays."

// downloadError returns the error in the output of `go mod download -json` in dir, which ended
// with err.
func downloadError(dir string, answer []byte, err error) error {
	var failed []module
	n := 0
	for d := json.NewDecoder(bytes.NewReader(answer)); ; n++ {
		var m module
		if decodeErr := d.Decode(&m); errors.Is(decodeErr, io.EOF) {
			break
		} else if decodeErr != nil {
			return errors.Join(err, fmt.Errorf("decode the answer of go mod download in %s: %w", dir, decodeErr))
		}
		if m.Error != "" {
			failed = append(failed, m)
		}
	}
	switch {
	case len(failed) == 0 && err == nil:
		return nil
	case len(failed) == 0: // not even the list of what to fetch is complete
		return fmt.Errorf("%w\n%s", err, fetchAdvice)
	}
	const shown = 3
	var b strings.Builder
	fmt.Fprintf(&b, "go mod download in %s could not fetch %d of %d modules:", dir, len(failed), n)
	for _, m := range failed[:min(shown, len(failed))] {
		fmt.Fprintf(&b, "\n  - %s@%s: %s", m.Path, m.Version, strings.TrimPrefix(m.Error, m.Path+"@"+m.Version+": "))
	}
	if len(failed) > shown {
		fmt.Fprintf(&b, "\n  - … and %d more", len(failed)-shown)
	}
	b.WriteString("\n" + fetchAdvice)
	return errors.New(b.String())
}

func goCommand(ctx context.Context, dir, env string, args ...string) ([]byte, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaint
	if env != "" {
		cmd.Env = append(os.Environ(), env)
	}
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("go %s in %s: %w: %s", strings.Join(args, " "), dir, err, strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), nil
}
