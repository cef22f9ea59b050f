package objects

import (
	"errors"
	"testing"
)

func TestLaggingWatcherIsEnded(t *testing.T) {
	s := newStore()
	w, _, _ := s.WatchAll(ConfigMaps, Selection{})
	for i := range maxQueueEvents + 2 {
		applyConfigMap(t, s, i+1)
	}
	if _, _, err := w.Drain(); !errors.Is(err, ErrExpired) {
		t.Errorf("drain: %v, want ErrExpired", err)
	}
	if n := len(s.tables.create(ConfigMaps, 0).history.events); n > maxHistoryEvents {
		t.Errorf("history holds %d events", n)
	}
}

// TestWatchFromTheEndOfTheHistory starts a watch after the first change: with as many changes
// since as the history holds it has them all, with one more it has expired.
func TestWatchFromTheEndOfTheHistory(t *testing.T) {
	s := newStore()
	applyConfigMap(t, s, 1)
	_, first := s.List(ConfigMaps, Selection{})
	for i := range maxHistoryEvents {
		applyConfigMap(t, s, i+2)
	}
	w, err := s.WatchFrom(ConfigMaps, Selection{}, first)
	if err != nil {
		t.Fatal(err)
	}
	if events, _, err := w.Drain(); err != nil || len(events) != maxHistoryEvents || events[0].Object.ResourceVersion != first+1 {
		t.Errorf("drain: %d events, %v, want %d from %d on", len(events), err, maxHistoryEvents, first+1)
	}
	w.Stop()
	applyConfigMap(t, s, maxHistoryEvents+2)
	if _, err := s.WatchFrom(ConfigMaps, Selection{}, first); !errors.Is(err, ErrExpired) {
		t.Errorf("one change later: %v, want ErrExpired", err)
	}
	if events, _, err := w.Drain(); err != nil || len(events) != 0 {
		t.Errorf("stopped watch: %d events, %v", len(events), err)
	}
}
