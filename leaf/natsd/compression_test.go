package natsd

import (
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestLongLinkIsNotCompressedBest: a real link whose round trip is 300 ms has s2_better.
func TestLongLinkIsNotCompressedBest(t *testing.T) {
	t.Parallel()
	line := natstest.NewLine(t, natstest.StartHub(t, "plant-a").LeafAddr())
	line.Delay(150*time.Millisecond, 0)
	s, _ := run(t, natstest.LeafConf(t, "plant-a", line.Addr()))
	var is string
	polltest.Eventually(t, "the leaf compresses", func() bool {
		z, err := s.server().Leafz(nil)
		if err != nil || len(z.Leafs) != 1 {
			return false
		}
		is = z.Leafs[0].Compression
		return is == server.CompressionS2Better || is == server.CompressionS2Best
	})
	if is != server.CompressionS2Better {
		t.Errorf("the link has %s", is)
	}
}

// TestCompressionOfTheLink: what the configuration file names stays; otherwise that of the profile counts,
// and without one it depends on the round trip, and is never s2_best.
func TestCompressionOfTheLink(t *testing.T) {
	t.Parallel()
	own := server.CompressionOpts{Mode: server.CompressionS2Auto, RTTThresholds: []time.Duration{time.Second}}
	for name, c := range map[string]struct {
		file    server.CompressionOpts
		profile string
		want    server.CompressionOpts
	}{
		"nothing is named":                 {want: byRoundTrip},
		"nats-server's default is named":   {file: server.CompressionOpts{Mode: server.CompressionS2Auto}, want: byRoundTrip},
		"the profile names one":            {profile: server.CompressionS2Best, want: server.CompressionOpts{Mode: server.CompressionS2Best}},
		"the file names one":               {file: server.CompressionOpts{Mode: server.CompressionOff}, profile: server.CompressionS2Best, want: server.CompressionOpts{Mode: server.CompressionOff}},
		"the file has thresholds":          {file: own, want: own},
		"the file has them, and a profile": {file: own, profile: server.CompressionS2Best, want: own},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := &server.Options{}
			opts.LeafNode.Remotes = []*server.RemoteLeafOpts{{Compression: c.file}}
			hubConfig{compression: c.profile}.apply(opts)
			if got := opts.LeafNode.Remotes[0].Compression; !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
