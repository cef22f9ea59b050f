package plugin

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// colour is an escape sequence of ECMA-48 that begins text of a colour, empty for the usual one.
type colour string

const (
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	red    colour = "\x1b[31m"
	// usual ends a colour.
	usual = "\x1b[0m"
)

// terminal is a terminal that text is shown on.
type terminal struct {
	out io.Writer
	// size returns its columns and lines.
	size func() (width, height int, err error)
	// coloured is false if the user wants no colours (https://no-color.org).
	coloured bool
	// shown is the number of lines of the last frame.
	shown int
}

// terminalOf returns the terminal that w is, nil if it is none that can be written anywhere on.
func terminalOf(w io.Writer) *terminal {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return &terminal{
		out: f, coloured: os.Getenv("NO_COLOR") == "",
		size: func() (int, int, error) { return term.GetSize(int(f.Fd())) },
	}
}

// show replaces the last frame by another. What the terminal has no room for is left out.
func (t *terminal) show(frame string) error {
	width, height, err := t.size()
	if err != nil {
		return fmt.Errorf("find out the size of the terminal: %w", err)
	}
	lines := strings.Split(strings.TrimSuffix(frame, "\n"), "\n")
	if most := max(height-1, 1); len(lines) > most {
		left := len(lines) - most + 1
		lines = append(lines[:most-1], fmt.Sprintf("… %d more lines", left))
	}
	var b strings.Builder
	if t.shown > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.shown) // up
	}
	for _, line := range lines {
		b.WriteString("\r\x1b[K" + clip(line, width) + "\n")
	}
	b.WriteString("\x1b[J") // what is below
	t.shown = len(lines)
	_, err = io.WriteString(t.out, b.String())
	return err
}

// clip shortens a line to the width of a terminal, so that it takes one line there.
func clip(line string, width int) string {
	var b strings.Builder
	coloured := false
	for n, rest := 0, line; rest != ""; {
		if end := strings.IndexByte(rest, 'm') + 1; end > 0 && strings.HasPrefix(rest, "\x1b[") {
			b.WriteString(rest[:end])
			coloured, rest = rest[:end] != usual, rest[end:]
			continue
		}
		if n == width {
			if coloured {
				b.WriteString(usual)
			}
			break
		}
		r := []rune(rest)[0]
		b.WriteRune(r)
		n, rest = n+1, rest[len(string(r)):]
	}
	return b.String()
}

// paint colours the cells of a column of a table, the last thing in a text. Cells that judge has no
// colour for stay.
func paint(text, column string, judge func(cell string) colour) string {
	lines := strings.SplitAfter(text, "\n")
	begin, end := -1, -1
	for i, line := range lines {
		if begin < 0 {
			begin, end = find(line, column)
			continue
		}
		row := []rune(strings.TrimSuffix(line, "\n"))
		if len(row) <= begin {
			continue
		}
		last := len(row)
		if end >= 0 {
			last = min(end, last)
		}
		cell := strings.TrimRight(string(row[begin:last]), " ")
		if c := judge(cell); cell != "" && c != "" {
			lines[i] = string(row[:begin]) + string(c) + cell + usual + string(row[begin+len([]rune(cell)):]) + line[len(string(row)):]
		}
	}
	return strings.Join(lines, "")
}

// find returns where a column begins and where the next one does, by the header of a table: -1 for
// a line that is not the header, and as the end of the last column.
func find(header, column string) (begin, end int) {
	fields := strings.Fields(header)
	at := 0
	for i, name := range fields {
		at += strings.Index(header[at:], name)
		if name != column {
			at += len(name)
			continue
		}
		if i == len(fields)-1 {
			return at, -1
		}
		return at, at + len(name) + strings.Index(header[at+len(name):], fields[i+1])
	}
	return -1, -1
}
