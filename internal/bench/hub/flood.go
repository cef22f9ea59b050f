package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// patience is the time after which a quiet site's publish counts as refused.
	patience = 3 * time.Second
	// quietPause is the pause of a quiet site between two publishes.
	quietPause = 500 * time.Millisecond
	// phase is how long each attack lasts, and the time after it that is also measured.
	phase = 5 * time.Second
)

// attack is what site 0 does while the others publish.
type attack struct {
	name, kind string
	// batches has the quiet sites publish atomic batches of two.
	batches bool
	run     func(ctx context.Context, nc *nats.Conn, subject string) (string, error)
}

var attacks = []attack{
	{name: "nothing", kind: "reported"},
	{name: "nothing, batches", kind: "reported", batches: true},
	{name: "100 B without waiting", kind: "reported", run: Flood(100, 1<<20)},
	{name: "100 B without waiting", kind: "telemetry", run: Flood(100, 1<<20)},
	{name: "100 kB until full", kind: "reported", run: Flood(100_000, 1000)},
	{name: "50 open batches", kind: "telemetry", batches: true, run: OpenBatches},
}

// Flood returns an attack that publishes without waiting for acknowledgements, size bytes each,
// on up to subjects subjects.
func Flood(size, subjects int) func(context.Context, *nats.Conn, string) (string, error) {
	return func(ctx context.Context, nc *nats.Conn, subject string) (string, error) {
		body, sent := make([]byte, size), 0
		for ; ctx.Err() == nil; sent++ {
			if err := nc.Publish(subject+strconv.Itoa(sent%subjects), body); err != nil {
				return "", err
			}
			if sent%1000 == 999 {
				if err := nc.FlushTimeout(time.Minute); err != nil { // the socket is the only limit
					return "", err
				}
			}
		}
		return fmt.Sprintf("%d sent", sent), nil
	}
}

// OpenBatches keeps 50 atomic batches open.
func OpenBatches(ctx context.Context, nc *nats.Conn, subject string) (string, error) {
	for sequence := 1; ctx.Err() == nil; sequence++ {
		for id := range 50 {
			m := nats.NewMsg(subject + strconv.Itoa(id))
			m.Header.Set("Nats-Batch-Id", fmt.Sprintf("open-%d", id))
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(sequence))
			if err := nc.PublishMsg(m); err != nil {
				return "", err
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", nc.Flush()
}

// outcome is what the quiet sites saw.
type outcome struct {
	latency []time.Duration
	failed  map[string]int
	note    string
	// again is the time after the attack until all quiet sites were served at once again.
	again time.Duration
	// rss is the memory of the server when the attack ended.
	rss int64
}

// besiege runs an attack of site 0 for a phase, and has the other sites publish meanwhile and
// until they are served again.
func besiege(ctx context.Context, p *process, a attack) (outcome, error) {
	conns := make([]*nats.Conn, active)
	for i := range conns {
		nc, err := p.connect(siteName(i))
		if err != nil {
			return outcome{}, err
		}
		defer nc.Close()
		conns[i] = nc
	}
	o := outcome{failed: map[string]int{}}
	during, end := context.WithTimeout(ctx, phase)
	defer end()
	var mu sync.Mutex
	var quiet sync.WaitGroup
	for i, nc := range conns[1:] {
		quiet.Go(func() {
			time.Sleep(quietPause * time.Duration(i) / active)
			for n := 0; during.Err() == nil; n++ {
				took, err := Publish(nc, fmt.Sprintf("%s.%s.x.", a.kind, siteName(i+1)), n, a.batches, patience)
				mu.Lock()
				if err != nil {
					o.failed[err.Error()]++
				} else {
					o.latency = append(o.latency, took)
				}
				mu.Unlock()
				time.Sleep(quietPause)
			}
		})
	}
	var err error
	if a.run != nil {
		o.note, err = a.run(during, conns[0], fmt.Sprintf("%s.%s.x.", a.kind, siteName(0)))
	}
	<-during.Done()
	ended := time.Now()
	used, usageErr := p.usage()
	o.rss, err = used.rss, errors.Join(err, usageErr)
	quiet.Wait()
	for tries := 0; err == nil && a.run != nil && time.Since(ended) < 2*time.Minute; tries++ {
		took, refused := Publish(conns[1], fmt.Sprintf("%s.%s.x.", a.kind, siteName(1)), tries, a.batches, patience)
		if refused == nil && took < 100*time.Millisecond {
			break
		}
	}
	o.again = time.Since(ended)
	return o, err
}

// Publish stores one message, or an atomic batch of two, and returns how long that took; it
// gives up after patience.
func Publish(nc *nats.Conn, subject string, n int, batch bool, patience time.Duration) (time.Duration, error) {
	began := time.Now()
	m := nats.NewMsg(subject + strconv.Itoa(n%10))
	m.Data = make([]byte, 512)
	if batch {
		m.Header.Set("Nats-Batch-Id", fmt.Sprintf("%s%d", subject, n))
		m.Header.Set("Nats-Batch-Sequence", "1")
		if err := nc.PublishMsg(m); err != nil {
			return 0, err
		}
		m.Subject += "b"
		m.Header.Set("Nats-Batch-Sequence", "2")
		m.Header.Set("Nats-Batch-Commit", "1")
	}
	reply, err := nc.RequestMsg(m, patience)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error *struct {
			Code int `json:"err_code"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Error != nil {
		return 0, fmt.Errorf("refused %d", ack.Error.Code)
	}
	return time.Since(began), nil
}

// Quantile returns the smallest value that at least the fraction q of d does not exceed, 0
// for none.
func Quantile[T cmp.Ordered](d []T, q float64) T {
	var zero T
	if len(d) == 0 {
		return zero
	}
	slices.Sort(d)
	return d[min(int(q*float64(len(d))), len(d)-1)]
}
