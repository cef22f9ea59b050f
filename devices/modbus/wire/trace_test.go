package wire

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// The last frames are kept, whole up to a bound, and pieces of one frame are one entry.
func TestLastFramesAreKept(t *testing.T) {
	var ring frames
	for i := range 20 {
		ring.add(true, time.Unix(int64(i), 0), []byte{byte(i)})
		ring.add(false, time.Unix(int64(i), 1), []byte{1})
		ring.add(false, time.Unix(int64(i), 2), make([]byte, 300))
	}
	list := ring.list()
	if len(list) != tracedFrames || !strings.Contains(list[tracedFrames-2].String(), "> 13") || !strings.HasSuffix(list[tracedFrames-1].String(), "< 01"+hex.EncodeToString(make([]byte, tracedBytes-1))) {
		t.Fatal(list)
	}
}
