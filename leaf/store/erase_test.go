package store

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/streams"
)

// putSecret publishes a version of a Secret at the site itself, in parts if it is large.
func (s *site) putSecret(t *testing.T, ctx context.Context, name, version string, size int) (subject string) {
	t.Helper()
	m := streams.Message{
		Ref: streams.Ref{Resource: "secrets", Namespace: "default", Name: name}, Op: streams.OpPut, UID: "u-" + name, Version: version,
		Object: fmt.Appendf(nil, `{"metadata":{"name":%q},"data":{"v":%q}}`, name, strings.Repeat(version, size)),
	}
	subject = streams.DesiredSubject("plant-a", m.Ref)
	if _, err := streams.Put(ctx, s.js, subject, m); err != nil {
		t.Fatal(err)
	}
	return subject
}

// seqOf returns the sequence of a Secret.
func (s *site) seqOf(t *testing.T, ctx context.Context, name string) uint64 {
	t.Helper()
	m, err := s.desired(t, ctx).GetLastMsgForSubject(ctx, streams.DesiredSubject("plant-a", streams.Ref{Resource: "secrets", Namespace: "default", Name: name}))
	if err != nil {
		t.Fatal(err)
	}
	return m.Sequence
}

// erase erases Secrets as the replicator does.
func (s *site) erase(ctx context.Context, subjects ...string) error {
	s.store.Desired().Lock()
	defer s.store.Desired().Unlock()
	return s.store.Desired().Erase(ctx, subjects)
}

// TestErasedSecretsStayAwayAfterAKill erases Secrets with a former value, one of them in parts, and
// the last one at the end of the stream, and leaves the server's files as a kill does. A compaction
// before that has listed the former values as live.
func TestErasedSecretsStayAwayAfterAKill(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	s.putLocal(t, ctx, "gone", streams.OpDelete, 1)
	s.putLocal(t, ctx, "stays", streams.OpPut, 1)
	put := func(version string) (subjects []string) {
		return []string{
			s.putSecret(t, ctx, "large", version, 3*streams.PartBytes), s.putSecret(t, ctx, "small", version, 1), s.putSecret(t, ctx, "last", version, 1),
		}
	}
	put("1")
	s.ackAll(t, ctx)
	if n, err := s.store.compactor.compact(ctx, 0); n != 1 || err != nil {
		t.Fatalf("%d tombstones removed, error %v", n, err)
	}
	s.putSecret(t, ctx, "kept", "1", 1)
	subjects := put("2")

	without := s.twin(t)
	without.start(t, ctx)
	if _, err := streams.Erase(ctx, without.desired(t, ctx), subjects[1], 0); err != nil {
		t.Fatal(err)
	}
	without = without.twin(t)
	without.start(t, ctx)
	if _, err := without.desired(t, ctx).GetLastMsgForSubject(ctx, subjects[1]); err != nil {
		t.Errorf("without the live set the former value is not back: %v: the test has proved nothing", err)
	}

	kept := s.seqOf(t, ctx, "kept")
	if err := s.erase(ctx, subjects...); err != nil {
		t.Fatal(err)
	}
	if now := s.seqOf(t, ctx, "kept"); now != kept {
		t.Errorf("a Secret was stored again, at %d: its copy at %d stays on the disk", now, kept)
	}
	killed := s.twin(t)
	for round := range 2 {
		killed.start(t, ctx)
		if n := count(t, ctx, killed.js, streams.SiteDesired); n != 2 || killed.has(t, ctx, "stays") != "1" || killed.seqOf(t, ctx, "kept") != kept {
			t.Errorf("start %d: %d messages, want the two that stay", round+1, n)
		}
		select {
		case <-killed.store.Desired().Complete():
		default:
			t.Errorf("start %d: the desired state counts as incomplete", round+1)
		}
		killed = killed.twin(t)
	}
}

// TestTheOnlyObjectIsErased leaves an empty stream, also after a kill.
func TestTheOnlyObjectIsErased(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	subject := s.putSecret(t, ctx, "only", "1", 1)
	if err := s.erase(ctx, subject); err != nil {
		t.Fatal(err)
	}
	killed := s.twin(t)
	killed.start(t, ctx)
	if n := count(t, ctx, killed.js, streams.SiteDesired); n != 0 {
		t.Errorf("%d messages, want none", n)
	}
}

// TestNothingIsErasedWithoutALiveSet cannot write the live set: the Secret stays.
func TestNothingIsErasedWithoutALiveSet(t *testing.T) {
	t.Parallel()
	s, ctx := startSite(t)
	subject := s.putSecret(t, ctx, "gone", "1", 1)
	s.putLocal(t, ctx, "end", streams.OpPut, 1)
	if err := os.Mkdir(s.store.compactor.liveSetFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.erase(ctx, subject); err == nil {
		t.Error("erased without a live set")
	}
	if _, err := s.desired(t, ctx).GetLastMsgForSubject(ctx, subject); err != nil {
		t.Errorf("the Secret: %v", err)
	}
	if err := os.Remove(s.store.compactor.liveSetFile); err != nil {
		t.Fatal(err)
	}
	if err := s.erase(ctx, subject); err != nil {
		t.Fatal(err)
	}
	if n := count(t, ctx, s.js, streams.SiteDesired); n != 1 {
		t.Errorf("%d messages, want the one at the end", n)
	}
}
