package bridgetest

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"k8s.io/kubernetes/test/utils/ktesting"
)

// sharing is a test that leaves the API server as it found it, so that others can use it.
type sharing struct {
	name string
	run  func(*testing.T, *api)
}

// runAll runs tests one after the other at the shared API server.
func runAll(t *testing.T, tests []sharing) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, sharedAPI(t)) })
	}
}

// shared is the API server of the tests that share one. No two of them run at a time.
var shared struct {
	*api
	stop func()
	// failed reports that a test failed at it: nobody knows what that test left behind.
	failed bool
}

// sharedAPI returns an API server without sites, nodes and leaders: the one of the tests
// before, or, for the first test and after one that failed, a new one.
func sharedAPI(t *testing.T) *api {
	t.Helper()
	if shared.failed {
		stopShared()
	}
	if shared.api == nil {
		dir, err := os.MkdirTemp("", "bridgetest-")
		if err != nil {
			t.Fatal(err)
		}
		host := &lasting{TB: t}
		host.Cleanup(func() { _ = os.RemoveAll(dir) }) // in the temporary files' folder
		shared.stop = host.end
		shared.api = launchAPI(t, host, dir)
	}
	t.Cleanup(func() { shared.failed = shared.failed || t.Failed() })
	return shared.api
}

// stopShared ends the shared API server, if there is one.
func stopShared() {
	if shared.stop != nil {
		shared.stop()
	}
	shared.api, shared.stop, shared.failed = nil, nil, false
}

// lasting is the ktesting.TB of an API server that outlives the test that started it. What
// the server says then is nobody's log.
type lasting struct {
	ktesting.TB
	cleanups []func()
}

func (l *lasting) Cleanup(f func())          { l.cleanups = append(l.cleanups, f) }
func (l *lasting) Log(...any)                {}
func (l *lasting) Logf(string, ...any)       {}
func (l *lasting) Error(args ...any)         { fmt.Fprintln(os.Stderr, args...) }
func (l *lasting) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }

// end cleans up, what came last first.
func (l *lasting) end() {
	for _, f := range slices.Backward(l.cleanups) {
		f()
	}
	l.cleanups = nil
}
