package polltest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEventuallyReturnsWhenTheConditionHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		took := Eventually(t, "three calls", func() bool { calls++; return calls == 3 })
		if calls != 3 || took != 2*interval {
			t.Errorf("%d calls in %s, want 3 in %s", calls, took, 2*interval)
		}
		if took := Eventually(t, "nothing", func() bool { return true }); took != 0 {
			t.Errorf("took %s for what holds already", took)
		}
	})
}

func TestFailureNamesWhatWasWaitedForAndTheLastError(t *testing.T) {
	for _, test := range []struct {
		name string
		wait func(testing.TB)
		want []string
	}{
		{
			"Eventually", func(t testing.TB) { Eventually(t, "link up", func() bool { return false }) },
			[]string{"link up", Limit.String()},
		},
		{
			"Within", func(t testing.TB) { Within(t, 3*time.Second, "link up", func() bool { return false }) },
			[]string{"link up", "3s"},
		},
		{"NoError", func(t testing.TB) {
			NoError(t, "all stored", func(context.Context) error { return errors.New("4 are missing") })
		}, []string{"all stored", Limit.String(), "4 are missing"}},
		{"an error of the deadline hides none", func(t testing.TB) {
			n := 0
			NoErrorWithin(t, time.Second, "all stored", func(ctx context.Context) error {
				if n++; n == 1 {
					return errors.New("4 are missing")
				}
				<-ctx.Done()
				return ctx.Err()
			})
		}, []string{"all stored", "1s", "4 are missing"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fatal{TB: t}
				func() {
					defer func() {
						if r := recover(); r != nil && r != f {
							panic(r)
						}
					}()
					test.wait(f)
				}()
				for _, want := range test.want {
					if !strings.Contains(f.message, want) {
						t.Errorf("%q does not name %q", f.message, want)
					}
				}
			})
		})
	}
}

// fatal keeps the message of Fatalf instead of ending the test.
type fatal struct {
	testing.TB
	message string
}

func (f *fatal) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	panic(f)
}
