package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// shell is a root's shell in a booted box. As for a person, folder, variables and umask remain from
// one command to the next.
type shell struct {
	name     string
	out      progress
	process  *exec.Cmd
	commands *os.File
	done     *bufio.Reader
	// output is the file that the commands write to.
	output *os.File
}

// newShell starts a shell when systemd has started everything.
func (r *running) newShell(ctx context.Context, out progress, output *os.File) (*shell, error) {
	commands, script, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, answer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &shell{name: r.name, out: out, commands: script, done: bufio.NewReader(answers), output: output}
	s.process = r.command(ctx, "bash", "--norc", "-e", "-o", "pipefail", "/proc/self/fd/3")
	s.process.Stdout, s.process.Stderr, s.process.ExtraFiles = s.output, s.output, []*os.File{commands, answer}
	if err := s.process.Start(); err != nil {
		return nil, fmt.Errorf("start a shell on %s: %w", r.name, err)
	}
	return s, errors.Join(commands.Close(), answer.Close())
}

// run runs a block of commands, the first that fails ends it, and returns what it has printed.
func (s *shell) run(block string, bound time.Duration) (string, error) {
	first, _, _ := strings.Cut(strings.TrimSpace(block), "\n")
	s.out.say("%s# %s", s.name, first)
	fmt.Fprintf(s.output, "\n%s# %s\n", s.name, block)
	began, err := s.output.Seek(0, io.SeekEnd)
	if err != nil {
		return "", s.failed(first, err)
	}
	// The answer is on a descriptor that what the block starts does not have.
	if _, err := fmt.Fprintf(s.commands, "{ %s\n} 3<&- 4>&-\necho done >&4\n", block); err != nil {
		return "", s.failed(first, err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := s.done.ReadString('\n')
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil {
			return "", s.failed(first, errors.New("it failed"))
		}
	case <-time.After(bound):
		return "", s.failed(first, fmt.Errorf("not done within %v", bound))
	}
	printed, err := s.printed(began)
	if err != nil {
		return "", s.failed(first, err)
	}
	return printed, nil
}

// printed returns what was printed since the output had so many bytes.
func (s *shell) printed(since int64) (string, error) {
	info, err := s.output.Stat()
	if err != nil {
		return "", err
	}
	text := make([]byte, info.Size()-since)
	_, err = s.output.ReadAt(text, since)
	return string(text), err
}

func (s *shell) failed(first string, err error) error {
	all, readErr := s.printed(0)
	return errors.Join(fmt.Errorf("%s# %s: %w; the last lines:\n%s", s.name, first, err, strings.Join(lastLines(all, 40), "\n")), readErr)
}

// stop ends the shell.
func (s *shell) stop() {
	_ = s.commands.Close() // bash reads its end
	// systemd stops every process before it ends them all, and nsenter stops itself with its child.
	_ = s.process.Process.Signal(unix.SIGCONT)
	_ = s.process.Wait() // of a shell that has failed, too
}
