package bridge

import (
	"errors"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestOutageLogsChangesOfState(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	o, down := newOutage(zap.New(core), "API server"), errors.New("refused")
	for _, step := range []struct {
		part  string
		err   error
		lines int
	}{
		{"pods", nil, 0},
		{"pods", down, 1},
		{"pods", down, 1},
		{"nodes", down, 1},
		{"pods", nil, 1},
		{"nodes", nil, 2},
		{"nodes", nil, 2},
		{"nodes", down, 3},
	} {
		o.reportPart(step.part, step.err)
		if n := logs.Len(); n != step.lines {
			t.Errorf("after %+v there are %d lines", step, n)
		}
	}
}
