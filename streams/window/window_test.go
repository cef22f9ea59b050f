package window

import (
	"testing"
	"time"
)

// TestWindowOnALongLine has a round trip of 600 ms: two of them are added to what may be in flight,
// and what looks like more is a queue.
func TestWindowOnALongLine(t *testing.T) {
	for rtt, want := range map[time.Duration]time.Duration{
		0: time.Second, 10 * time.Millisecond: 1020 * time.Millisecond, 600 * time.Millisecond: 2200 * time.Millisecond, 5 * time.Second: 2600 * time.Millisecond,
	} {
		w := New(1<<20, time.Second)
		w.SetRoundTrip(rtt)
		if w.Target() != want {
			t.Errorf("round trip %s: %s, want %s", rtt, w.Target(), want)
		}
	}
}

func TestWindow(t *testing.T) {
	w := New(1<<20, time.Second)
	w.StartSession(true)
	for range 20 {
		w.Record(w.bytes, time.Millisecond)
	}
	if w.bytes != 1<<20 {
		t.Errorf("on a fast line %d bytes are under way", w.bytes)
	}
	w.Record(10, time.Millisecond)
	if w.bytes != 1<<20 {
		t.Errorf("a short transfer made it %d", w.bytes)
	}
	w.Record(64_000, 8*time.Second) // 64 kbit/s
	if w.bytes != 8000 {
		t.Errorf("on a line that became slow %d bytes are under way, want what it carries in a second", w.bytes)
	}
	w.Record(8000, 40*time.Second)
	if w.bytes != minimum {
		t.Errorf("on a line that stands still %d bytes are under way", w.bytes)
	}
	w.StartSession(true)
	w.Record(5000, time.Second)
	w.bytes = First
	w.StartSession(true)
	if w.bytes != First {
		t.Errorf("after a session that carried something it begins with %d", w.bytes)
	}
	w.StartSession(false)
	if w.bytes != First/2 {
		t.Errorf("after a session that carried nothing it begins with %d", w.bytes)
	}
	w.StartSession(true)
	if w.bytes != First/2 {
		t.Errorf("after a session without a backlog it begins with %d", w.bytes)
	}
}

func TestSharedWindowBeginsSmall(t *testing.T) {
	w := NewShared(1<<20, time.Second)
	for range 2 {
		if w.StartSession(true); w.Bytes() != minimum {
			t.Errorf("a session begins with %d bytes", w.Bytes())
		}
		for range 20 {
			w.Record(w.Bytes(), time.Millisecond)
		}
		if w.Bytes() != 1<<20 {
			t.Errorf("on a fast line %d bytes are under way", w.Bytes())
		}
	}
}
