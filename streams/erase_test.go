package streams_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// onDisk reports whether a text is in a file below a folder.
func onDisk(t testing.TB, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, []byte(text))
		return ignoreMissing(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// secretOf returns a Secret with a text of so many bytes that is found on the disk.
func secretOf(name string, size int) (m streams.Message, text string) {
	text = "classified-" + name + "-"
	m = streams.Message{
		Ref: streams.Ref{Resource: "secrets", Namespace: "default", Name: name}, Op: streams.OpPut, UID: "u-" + name, Version: "7",
		Object: fmt.Appendf(nil, `{"metadata":{"name":%q,"uid":%q},"data":{"v":%q}}`, name, "u-"+name, strings.Repeat(text, 1+size/len(text))),
	}
	return m, text
}

// namedConfigMap returns a ConfigMap of a megabyte.
func namedConfigMap(name string) streams.Message {
	m := configMap(1 << 20)
	m.Object = bytes.Replace(m.Object, []byte(m.Ref.Name), []byte(name), 1)
	m.Ref.Name = name
	return m
}

// Secrets that are erased are in no file of the store: one in the last block, one in an earlier
// block, and one in parts. Everything else stays, also after a restart.
func TestEraseLeavesNothingOnDisk(t *testing.T) {
	t.Parallel()
	h := natstest.StartHub(t, "plant-a")
	ctx := t.Context()
	js, err := jetstream.New(h.Connect(t, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, js, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	put := func(m streams.Message) {
		t.Helper()
		if _, err := streams.Put(ctx, js, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
			t.Fatal(err)
		}
	}
	texts := map[string]string{}
	secret := func(name string, size int) {
		m, text := secretOf(name, size)
		texts[name] = text
		put(m)
	}
	secret("early", 100)
	secret("parts", 5*streams.PartBytes)
	kept := 0
	for ; kept < 9; kept++ { // of a megabyte: more than a block has
		put(namedConfigMap(fmt.Sprint("kept-", kept)))
	}
	secret("late", 100)
	store := h.Server.StoreDir()
	for name, text := range texts {
		if !onDisk(t, store, text) {
			t.Fatalf("the Secret %s is not on the disk; the test proves nothing", name)
		}
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	before := len(info.State.Subjects)
	for name := range texts {
		m, _ := secretOf(name, 0)
		subject := streams.DesiredSubject("plant-a", m.Ref)
		raw, err := s.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			t.Fatal(err)
		}
		if last, err := streams.Erase(ctx, s, subject, raw.Sequence+1000); err != nil || last != raw.Sequence {
			t.Errorf("another message of %s is expected, and this one is erased: %d, %v", name, last, err)
		}
		for range 2 { // again: nothing is left to do
			if last, err := streams.Erase(ctx, s, subject, 0); err != nil || last != 0 {
				t.Errorf("erase %s: %d, %v", name, last, err)
			}
		}
		m.Op, m.Object = streams.OpDelete, nil
		put(m)
		if last, err := streams.Erase(ctx, s, subject, 0); err != nil || last == 0 {
			t.Errorf("a tombstone of %s was erased: %d, %v", name, last, err)
		}
	}
	check := func() {
		t.Helper()
		for name, text := range texts {
			if onDisk(t, store, text) {
				t.Errorf("the Secret %s is on the disk after it was erased", name)
			}
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		if n, want := len(info.State.Subjects), before-6; n != want { // five parts of 8 KiB, and one of what is left
			t.Errorf("the stream has %d subjects, want %d", n, want)
		}
		for i := range kept {
			ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: fmt.Sprint("kept-", i)}
			raw, err := s.GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", ref))
			if err != nil {
				t.Fatal(err)
			}
			if _, m, err := streams.Load(ctx, s, raw.Subject, raw.Header, raw.Data); err != nil || len(m.Object) < 1<<20 {
				t.Errorf("%s: %d bytes, %v", ref.Name, len(m.Object), err)
			}
		}
	}
	check()
	h.Stop()
	h.Start(t)
	if js, err = jetstream.New(h.Connect(t, "bridge")); err != nil {
		t.Fatal(err)
	}
	if s, err = js.Stream(context.WithoutCancel(ctx), streams.Desired); err != nil {
		t.Fatal(err)
	}
	check()
}

// BenchmarkErase shows what it costs to erase a message from a block that is full: the server
// writes all of it again.
func BenchmarkErase(b *testing.B) {
	h := natstest.StartHub(b, "plant-a")
	js, err := jetstream.New(h.Connect(b, "bridge"))
	if err != nil {
		b.Fatal(err)
	}
	if err := streams.Ensure(b.Context(), js, streams.HubStreams(streams.HubLimits{})); err != nil {
		b.Fatal(err)
	}
	s, err := js.Stream(b.Context(), streams.Desired)
	if err != nil {
		b.Fatal(err)
	}
	put := func(m streams.Message) {
		if _, err := streams.Put(b.Context(), js, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
			b.Fatal(err)
		}
	}
	for i := range b.N {
		m, _ := secretOf(fmt.Sprint("s", i), 100)
		put(m)
		if i%100 == 0 {
			put(namedConfigMap(fmt.Sprint("kept-", i)))
		}
	}
	b.ResetTimer()
	for i := range b.N {
		m, _ := secretOf(fmt.Sprint("s", i), 100)
		if _, err := streams.Erase(b.Context(), s, streams.DesiredSubject("plant-a", m.Ref), 0); err != nil {
			b.Fatal(err)
		}
	}
}
