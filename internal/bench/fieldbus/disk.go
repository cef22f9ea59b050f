package fieldbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/streams"
)

// DiskConfig configures Disk.
type DiskConfig struct {
	// Leaf and Server are the binaries of cmd/leaf and of nats-server.
	Leaf, Server string
	// Duration is the time for which each row is measured.
	Duration time.Duration
	Out      io.Writer
}

// diskDevices and diskPoints of each, once a second, are a usual gateway: 26 values a second.
const diskDevices, diskPoints = 13, 2

// diskSettle is the time after the first samples before a measurement starts: the streams have
// been created, and the file system has finished what mkfs left to it.
const diskSettle = 5 * time.Second

// Disk prints what a gateway with 13 Modbus devices writes to its disk, counted by the kernel at a
// block device that the leaf has alone (ext4). It needs root.
func Disk(ctx context.Context, cfg DiskConfig) error {
	dir, err := os.MkdirTemp("", "bench-disk-")
	if err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	d := &diskRunner{cfg: cfg, dir: dir}
	return errors.Join(d.run(ctx), os.RemoveAll(dir))
}

type diskRunner struct {
	cfg       DiskConfig
	dir       string
	addresses []string
	hub       string
}

// diskRow is a setting that is measured.
type diskRow struct {
	name   string
	hub    bool
	gather time.Duration
}

func (d *diskRunner) run(ctx context.Context) (err error) {
	for range diskDevices {
		s, err := startSlave(0, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		d.addresses = append(d.addresses, s.addr)
	}
	stop, err := d.startHub(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	r := &runner{cfg: Config{Out: d.cfg.Out}}
	t := r.table(fmt.Sprintf("What a leaf writes to its disk: %d devices × %d values at 1 s, ext4 on a block device of its own", diskDevices, diskPoints),
		"\trecords/s\twrites/s\tflushes/s\tkB/s\tkB a record\tGB a day")
	for _, row := range []diskRow{
		{"link cut", false, 0},
		{"link up", true, 0},
		{"link cut, gather 10s", false, 10 * time.Second},
		{"link up, gather 10s", true, 10 * time.Second},
		{"link up, gather 60s", true, time.Minute},
	} {
		w, err := d.measure(ctx, row)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		t.row("%s\t%.1f\t%.1f\t%.1f\t%.0f\t%.1f\t%.2f", row.name, w.records, w.writes, w.flushes, w.bytes/1e3, w.bytes/1e3/w.records, w.bytes*86_400/1e9)
	}
	return t.end()
}

// written is what a disk was given, in a second.
type written struct{ records, writes, flushes, bytes float64 }

func (d *diskRunner) measure(ctx context.Context, row diskRow) (w written, err error) {
	disk, err := mountDisk(filepath.Join(d.dir, fmt.Sprintf("%t-%s", row.hub, row.gather)))
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, disk.unmount()) }()
	hub := ""
	if row.hub {
		hub = d.hub
	}
	g, err := startGateway(ctx, d.cfg.Leaf, disk.dir, gatewaySettings{hub: hub, yaml: fmt.Sprintf("devices: {gather: %s}\n", row.gather)})
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	for i, a := range d.addresses {
		device := fleetDevice(i, a)
		device.Spec.Properties = device.Spec.Properties[:diskPoints]
		if err := g.put(ctx, device); err != nil {
			return w, err
		}
	}
	if err := g.put(ctx, fleetModel()); err != nil {
		return w, err
	}
	if err := g.awaitRecords(ctx, diskDevices, time.Minute+row.gather); err != nil {
		return w, err
	}
	if err := sleep(ctx, diskSettle); err != nil {
		return w, err
	}
	before, err := disk.written()
	if err != nil {
		return w, err
	}
	records, err := g.records(ctx)
	if err != nil {
		return w, err
	}
	began := time.Now()
	if err := sleep(ctx, max(d.cfg.Duration, 2*row.gather)); err != nil { // whole intervals
		return w, err
	}
	after, err := disk.written()
	if err != nil {
		return w, err
	}
	now, err := g.records(ctx)
	s := time.Since(began).Seconds()
	return written{
		records: float64(now-records) / s, writes: (after.writes - before.writes) / s,
		flushes: (after.flushes - before.flushes) / s, bytes: (after.bytes - before.bytes) / s,
	}, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// records returns the number of records that SITE_TELEMETRY has taken so far.
func (g *gatewayProcess) records(ctx context.Context) (uint64, error) {
	s, err := g.js.Stream(ctx, streams.SiteTelemetry)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", streams.SiteTelemetry, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

func (g *gatewayProcess) awaitRecords(ctx context.Context, n uint64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		have, err := g.records(ctx)
		if err == nil && have >= n {
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("wait for %d records, there are %d: %w", n, have, err)
		}
	}
}

// disk is a small ext4 file system on a block device of its own.
type disk struct {
	dir string
	// stat is the kernel's count of what the device was given.
	stat string
}

func mountDisk(dir string) (*disk, error) {
	image := dir + ".image"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create folder: %w", err)
	}
	for _, args := range [][]string{
		{"truncate", "-s", "1G", image},
		{"mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s (needs root): %w: %s", strings.Join(args, " "), err, tail(out))
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("find the device of %s: %w", dir, err)
	}
	return &disk{dir: dir, stat: fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev))}, nil
}

// written returns what the device was given since it exists (Documentation/block/stat.rst).
func (d *disk) written() (w written, err error) {
	if err := exec.Command("sync", "-f", d.dir).Run(); err != nil {
		return w, fmt.Errorf("sync %s: %w", d.dir, err)
	}
	line, err := os.ReadFile(d.stat)
	if err != nil {
		return w, fmt.Errorf("read what was written: %w", err)
	}
	f := strings.Fields(string(line))
	if len(f) < 16 {
		return w, fmt.Errorf("%s has %d fields, want 17 (Linux 5.5 or newer)", d.stat, len(f))
	}
	for i, to := range map[int]*float64{4: &w.writes, 6: &w.bytes, 15: &w.flushes} {
		if *to, err = strconv.ParseFloat(f[i], 64); err != nil {
			return w, fmt.Errorf("read %s: %w", d.stat, err)
		}
	}
	w.bytes *= 512
	return w, nil
}

func (d *disk) unmount() error {
	if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	return nil
}

// hubConf is a hub that stores the records and reports of one site.
const hubConf = `
server_name: hub
listen: "127.0.0.1:%[1]d"
jetstream { domain: hub, store_dir: %[2]q }
leafnodes { listen: "127.0.0.1:%[3]d" }
accounts {
  FABRIC {
    jetstream: enabled
    users: [ { user: bridge, password: secret } ]
    exports: [ { service: "reported.*.>", account_token_position: 2 }, { service: "telemetry.*.>", account_token_position: 2 } ]
  }
  bench {
    users: [ { user: bench, password: secret } ]
    imports: [
      { service: { account: FABRIC, subject: "reported.bench.>" } }
      { service: { account: FABRIC, subject: "telemetry.bench.>" } }
    ]
  }
}
`

// startHub starts a nats-server with the streams of the site.
func (d *diskRunner) startHub(ctx context.Context) (stop func() error, err error) {
	client, err := freePort()
	if err != nil {
		return nil, err
	}
	leaf, err := freePort()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(d.dir, "hub.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, hubConf, client, filepath.Join(d.dir, "hub"), leaf), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	g := &gatewayProcess{cmd: exec.CommandContext(ctx, d.cfg.Server, "-c", conf)}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start hub: %w", err)
	}
	d.hub = fmt.Sprintf("nats-leaf://bench:secret@127.0.0.1:%d", leaf)
	err = g.open(fmt.Sprintf("nats://bridge:secret@127.0.0.1:%d", client))
	if err == nil {
		err = streams.Ensure(ctx, g.js, streams.SiteStreams(gatewaySite, streams.SiteLimits{}))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create the site's streams at the hub: %w", err), g.stop())
	}
	return g.stop, nil
}
