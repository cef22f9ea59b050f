package dmi

import (
	"testing"

	"github.com/petiole-io/petiole/devices/devicestest"
)

func TestMain(m *testing.M) { devicestest.Main(m) }
