package schema

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
)

// readComments reads the doc comments of types ("Type") and fields ("Type.Field") in
// a directory of Go files.
func readComments(dir string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	out := map[string]string{}
	for _, f := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", f, err)
		}
		for _, d := range tree.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				for _, s := range g.Specs {
					collect(out, g.Doc, s.(*ast.TypeSpec))
				}
			}
		}
	}
	return out, nil
}

func collect(out map[string]string, doc *ast.CommentGroup, t *ast.TypeSpec) {
	out[t.Name.Name] = plain(doc)
	s, ok := t.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range s.Fields.List {
		for _, n := range f.Names {
			out[t.Name.Name+"."+n.Name] = plain(f.Doc)
		}
	}
}

// plain returns a comment as one line, without markers for generators.
func plain(c *ast.CommentGroup) string {
	if c == nil {
		return ""
	}
	var lines []string
	for _, l := range strings.Split(c.Text(), "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "+") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, " ")
}
