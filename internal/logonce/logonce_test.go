package logonce

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

var errBroken = errors.New("broken")

func TestLogsOneLineForEachChange(t *testing.T) {
	type attempt struct {
		operation, part string
		err             error
	}
	for _, test := range []struct {
		name     string
		attempts []attempt
		want     []string
	}{
		{"works", []attempt{{"a", "", nil}, {"a", "", nil}}, nil},
		{
			"fails and recovers",
			[]attempt{{"a", "", errBroken}, {"a", "", errBroken}, {"a", "", nil}, {"a", "", nil}},
			[]string{"warn a", "info a"},
		},
		{
			"fails again",
			[]attempt{{"a", "", errBroken}, {"a", "", nil}, {"a", "", errBroken}},
			[]string{"warn a", "info a", "warn a"},
		},
		{
			"operations do not share a state",
			[]attempt{{"a", "", errBroken}, {"b", "", nil}, {"b", "", errBroken}, {"a", "", nil}},
			[]string{"warn a", "warn b", "info a"},
		},
		{
			"recovers with its last part",
			[]attempt{{"a", "x", errBroken}, {"a", "y", errBroken}, {"a", "x", nil}, {"a", "z", nil}, {"a", "y", nil}},
			[]string{"warn a x", "info a"},
		},
		{
			"a part does not speak for the whole",
			[]attempt{{"a", "", errBroken}, {"a", "x", nil}, {"a", "", nil}},
			[]string{"warn a", "info a"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var changes, wantChanges []string
			core, logs := observer.New(zap.DebugLevel)
			r := New(zap.New(core), func(operation string, failing bool) { changes = append(changes, change(operation, failing)) })
			for _, a := range test.attempts {
				r.ReportPart(a.operation, a.part, a.err)
			}
			var got []string
			for _, e := range logs.All() {
				fields := e.ContextMap()
				line := fmt.Sprintf("%s %s", e.Level, fields["operation"])
				if part, ok := fields["part"]; ok {
					line += fmt.Sprintf(" %s", part)
				}
				got = append(got, line)
				wantChanges = append(wantChanges, change(fmt.Sprint(fields["operation"]), e.Level == zapcore.WarnLevel))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("logged %q, want %q", got, test.want)
			}
			if !slices.Equal(changes, wantChanges) {
				t.Errorf("onChange was called with %q, want %q", changes, wantChanges)
			}
		})
	}
}

func change(operation string, failing bool) string {
	return fmt.Sprintf("%s failing=%t", operation, failing)
}

func TestLinesSayWhatFailedAndForHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		r := New(zap.New(core))
		for range 3 {
			r.Report("reach the hub", errBroken, zap.String("site", "plant-a"))
			time.Sleep(time.Minute)
		}
		if !r.Failing("reach the hub") || r.Failing("another") {
			t.Error("Failing does not report the operation that fails")
		}
		r.Report("reach the hub", nil, zap.String("site", "plant-a"))
		if r.Failing("reach the hub") {
			t.Error("Failing reports an operation that has recovered")
		}
		all := logs.All()
		if len(all) != 2 {
			t.Fatalf("%d lines, want 2", len(all))
		}
		if f := all[0].ContextMap(); f["error"] != "broken" || f["site"] != "plant-a" || f["operation"] != "reach the hub" {
			t.Errorf("fields of the warning: %v", f)
		}
		if f := all[1].ContextMap(); f["after"] != 3*time.Minute || f["failed_attempts"] != int64(3) || f["site"] != "plant-a" {
			t.Errorf("fields of the recovery: %v", f)
		}
	})
}

func TestConcurrentReportsLogOnce(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	r := New(zap.New(core))
	for _, err := range []error{errBroken, nil} {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { r.Report("a", err) })
		}
		wg.Wait()
	}
	if n := logs.Len(); n != 2 {
		t.Errorf("%d lines, want 2", n)
	}
}
