package objects

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

// FuzzDocument decodes what a client sends and encodes it again: the content is the same.
func FuzzDocument(f *testing.F) {
	for _, s := range []string{`{"metadata":{"name":"a","labels":{"x":"y"}},"spec":null}`, `{}`, `null`, `[]`, `{"a":1,"a":2}`, `{"":{"":{}}}`, `{"a":"\ud800"}`} {
		f.Add([]byte(s), "metadata")
	}
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		d, err := ParseDocument(data)
		if err != nil {
			return
		}
		again, err := ParseDocument(d.Encode())
		if err != nil {
			t.Fatalf("%q is encoded as %q: %v", data, d.Encode(), err)
		}
		for k, v := range d {
			if !bytes.Equal(v, again[k]) {
				t.Fatalf("%q of %q has become %q", v, data, again[k])
			}
		}
		if c, err := d.Child(name); err == nil && len(c) > 0 && IsEmpty(d[name]) {
			t.Fatalf("%q has a child %q of nothing", data, name)
		}
		if d.SetText(name, name); utf8.ValidString(name) && d.Text(name) != name {
			t.Fatalf("text %q is read as %q", name, d.Text(name))
		}
		_ = Peek(data, name, name)
	})
}
