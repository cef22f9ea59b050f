package bridge

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is a time for tests.
var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
