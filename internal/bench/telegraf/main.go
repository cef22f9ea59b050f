// Command telegraf runs Telegraf's modbus input, as it is, for the benchmark
// `bench modbus`: it gathers for a while and writes the result as JSON. It is a
// module of its own because Telegraf pins hundreds of libraries that Petiole does not
// need.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/agent"
	"github.com/influxdata/telegraf/config"
	_ "github.com/influxdata/telegraf/plugins/inputs/modbus"
)

// result is written to standard output for the benchmark; times are microseconds.
type result struct {
	Values int64   `json:"values"`
	Wrong  int64   `json:"wrong"`
	Errors int64   `json:"errors"`
	Cycles []int64 `json:"cycles"`
	CPU    int64   `json:"cpu"`
	RSS    int64   `json:"rssKiB"`
	// Seconds is the duration of the measured part.
	Seconds float64 `json:"seconds"`
	// Last are the last errors.
	Last string `json:"last,omitempty"`
}

func main() {
	file := flag.String("config", "", "Telegraf configuration with [[inputs.modbus]] sections")
	duration := flag.Duration("duration", 5*time.Second, "how long is gathered")
	settle := flag.Duration("settle", 0, "how long is gathered before anything counts")
	interval := flag.Duration("interval", 0, "from the start of one gathering to that of the next; 0: at once")
	flag.Parse()
	if err := run(*file, *settle, *duration, *interval); err != nil {
		fmt.Fprintln(os.Stderr, "telegraf:", err)
		os.Exit(1)
	}
}

func run(file string, settle, duration, interval time.Duration) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c := config.NewConfig()
	if err := c.LoadConfigData(data, file); err != nil {
		return err
	}
	metrics := make(chan telegraf.Metric, 10_000)
	var r result
	counted := make(chan struct{})
	var mu sync.Mutex
	go func() {
		defer close(counted)
		for m := range metrics {
			mu.Lock()
			for _, f := range m.FieldList() {
				r.Values++
				if !expected(f.Key, f.Value) {
					r.Wrong++
				}
			}
			mu.Unlock()
		}
	}()
	for _, in := range c.Inputs {
		if err := in.Init(); err != nil {
			return fmt.Errorf("init %s: %w", in.LogName(), err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), settle+duration)
	defer cancel()
	var wg sync.WaitGroup
	for _, in := range c.Inputs {
		acc := agent.NewAccumulator(in, metrics)
		wg.Go(func() {
			next := time.Now()
			for ctx.Err() == nil {
				began := time.Now()
				err := in.Gather(acc)
				took := time.Since(began)
				mu.Lock()
				r.Cycles = append(r.Cycles, took.Microseconds())
				if err != nil {
					r.Errors++
					r.Last = err.Error()
				}
				mu.Unlock()
				if interval > 0 {
					next = next.Add(interval)
					select {
					case <-time.After(time.Until(next)):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	time.Sleep(settle)
	mu.Lock()
	before, start := cpu(), time.Now()
	r = result{}
	mu.Unlock()
	wg.Wait()
	r.Seconds = time.Since(start).Seconds()
	close(metrics)
	<-counted
	r.CPU = cpu() - before
	r.RSS = peak()
	return json.NewEncoder(os.Stdout).Encode(r)
}

// expected reports whether a field has the value that its name stands for: "f<address>" a float
// that carries its address, "u<unit>a<address>" an integer that carries both.
func expected(name string, value any) bool {
	if a, ok := strings.CutPrefix(name, "f"); ok {
		v, isFloat := value.(float64)
		return isFloat && fmt.Sprint(int64(v)>>8) == a
	}
	v, isInt := value.(uint64)
	return isInt && name == fmt.Sprintf("u%da%d", v>>24, v>>8&0xffff)
}

// cpu returns the processor time of this process so far, in microseconds.
func cpu() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return (u.Utime.Sec+u.Stime.Sec)*1e6 + u.Utime.Usec + u.Stime.Usec
}

// peak returns the largest resident set of this process, in KiB.
func peak() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss
}
