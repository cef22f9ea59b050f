package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a newcomer can hold in mind at once. Generated files and tests do not count.
const (
	maxFiles   = 15
	maxLines   = 2500
	maxMethods = 20
	maxFields  = 15
)

// size is how large something is: the files and lines of a package, or the methods and
// fields of a type.
type size struct{ first, second int }

// exception is something larger than the limits: it may not grow beyond most. The reason
// says why it is as large, or how it will be split.
type exception struct {
	most   size
	reason string
}

const data = "is data: a field for each setting or column"

// largePackages lists the packages above maxFiles or maxLines.
var largePackages = map[string]exception{}

// largeTypes lists the types above maxMethods or maxFields.
var largeTypes = map[string]exception{
	"bridge.Counters":                {size{0, 17}, data},
	"bridge/site.observation":        {size{6, 17}, data},
	"bridge/api/v1alpha1.SiteStatus": {size{0, 28}, data},
	"streams.Presence":               {size{1, 16}, data},
	"devices.Audit":                  {size{0, 17}, data},
}

func TestPackagesAreSmall(t *testing.T) {
	found := map[string]size{}
	for _, p := range products(t) {
		if s := p.size(); s.first > maxFiles || s.second > maxLines {
			found[p.folder] = s
		}
	}
	compare(t, "files and lines", found, largePackages)
}

func TestTypesAreSmall(t *testing.T) {
	found := map[string]size{}
	for _, p := range products(t) {
		for name, s := range p.types() {
			if s.first > maxMethods || s.second > maxFields {
				found[p.folder+"."+name] = s
			}
		}
	}
	compare(t, "methods and fields", found, largeTypes)
}

// compare reports what is larger than it may be, and exceptions that nothing needs.
func compare(t *testing.T, what string, found map[string]size, listed map[string]exception) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(found)) {
		have, most := found[name], listed[name].most
		if have.first > most.first || have.second > most.second {
			t.Errorf("%s has %d and %d %s, allowed are %d and %d: split it", name, have.first, have.second, what, most.first, most.second)
		}
	}
	for name, e := range listed {
		if _, large := found[name]; !large {
			t.Errorf("%s is small or gone: remove its exception (%s)", name, e.reason)
		}
	}
}

// product is the hand-written code of one package.
type product struct {
	folder string
	files  []*ast.File
	lines  int
}

func (p product) size() size { return size{len(p.files), p.lines} }

// types counts the methods and fields of each type.
func (p product) types() map[string]size {
	all := map[string]size{}
	for _, f := range p.files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if name := receiver(d); name != "" {
					s := all[name]
					s.first++
					all[name] = s
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					t, ok := spec.(*ast.TypeSpec)
					if !ok {
						continue
					}
					if st, ok := t.Type.(*ast.StructType); ok {
						s := all[t.Name.Name]
						s.second = st.Fields.NumFields()
						all[t.Name.Name] = s
					}
				}
			}
		}
	}
	return all
}

// receiver returns the name of the type that a method belongs to, "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return fmt.Sprintf("%T", e)
		}
	}
}

// products parses the packages that run at customers' sites and in their cluster.
func products(t *testing.T) []product {
	t.Helper()
	root := filepath.Join("..", "..")
	byFolder := map[string]*product{}
	for _, top := range []string{"bridge", "leaf", "devices", "streams", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			folder, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil || ast.IsGenerated(file) {
				return err
			}
			p := byFolder[folder]
			if p == nil {
				p = &product{folder: filepath.ToSlash(folder)}
				byFolder[folder] = p
			}
			p.files = append(p.files, file)
			p.lines += bytes.Count(source, []byte("\n"))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(byFolder) < 20 {
		t.Fatalf("found %d packages", len(byFolder))
	}
	var all []product
	for _, p := range byFolder {
		all = append(all, *p)
	}
	return all
}
