package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// repository is the caller's clone.
type repository struct {
	dir   string
	dirty bool
}

func openRepository(ctx context.Context) (repository, error) {
	dir, err := output(ctx, "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return repository{}, err
	}
	changes, err := output(ctx, "git", "status", "--porcelain")
	if err != nil {
		return repository{}, err
	}
	return repository{dir: dir, dirty: changes != ""}, nil
}

// logFile creates the file that the output of all commands on a suite goes to.
func (r repository) logFile(suite string) (*os.File, error) {
	dir := filepath.Join(r.dir, ".lab/fresh")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	f, err := os.Create(filepath.Join(dir, suite+".log"))
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	return f, nil
}

// copyTo copies the committed files to a folder, with one package less in the preflight's
// list, if one is named.
func (r repository) copyTo(ctx context.Context, dir, without string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("copy the repository: %w", err)
	}
	git := exec.CommandContext(ctx, "git", "-C", r.dir, "archive", "HEAD")
	tar := exec.CommandContext(ctx, "tar", "-C", dir, "-x")
	var err error
	if tar.Stdin, err = git.StdoutPipe(); err != nil {
		return fmt.Errorf("copy the repository: %w", err)
	}
	if err := tar.Start(); err != nil {
		return fmt.Errorf("copy the repository: %w", err)
	}
	if err := errors.Join(git.Run(), tar.Wait()); err != nil {
		return fmt.Errorf("copy the repository: %w", err)
	}
	if without == "" {
		return nil
	}
	list := filepath.Join(dir, "internal/lab/host/packages.go")
	source, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("take %s out of the list: %w", without, err)
	}
	if source, err = withoutPackage(source, without); err != nil {
		return err
	}
	return os.WriteFile(list, source, 0o644)
}

// withoutPackage removes the element of a list in Go source that begins with the name.
func withoutPackage(source []byte, name string) ([]byte, error) {
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, "packages.go", source, 0)
	if err != nil {
		return nil, fmt.Errorf("read the list of packages: %w", err)
	}
	var entry *ast.CompositeLit
	ast.Inspect(tree, func(n ast.Node) bool {
		if l, ok := n.(*ast.CompositeLit); ok && len(l.Elts) > 0 {
			if first, ok := l.Elts[0].(*ast.BasicLit); ok && first.Value == strconv.Quote(name) {
				entry = l
			}
		}
		return true
	})
	if entry == nil {
		return nil, fmt.Errorf("package %q is not in the list of packages", name)
	}
	from, to := files.Position(entry.Pos()).Offset, files.Position(entry.End()).Offset
	rest := strings.TrimPrefix(string(source[to:]), ",")
	return append(source[:from:from], rest...), nil
}

// mount is a folder of the caller's machine that is mounted in the box.
type mount struct {
	From, To string
	ReadOnly bool
}

// goFolders returns the toolchain and both caches, where a user's are by default.
func goFolders(ctx context.Context) ([]mount, error) {
	text, err := output(ctx, "go", "env", "GOROOT", "GOMODCACHE", "GOCACHE")
	if err != nil {
		return nil, err
	}
	dirs := strings.Split(text, "\n")
	if len(dirs) != 3 {
		return nil, fmt.Errorf("go env: unexpected output %q", text)
	}
	return []mount{
		{From: dirs[0], To: goRoot, ReadOnly: true},
		{From: dirs[1], To: filepath.Join(home, "go/pkg/mod")},
		{From: dirs[2], To: filepath.Join(home, ".cache/go-build")},
	}, nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
