package fieldbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/streams"
)

const (
	gatewaySite = "bench"
	gatewayNode = "gateway"
	// fleetDevices and fleetPoints are Neuron's published plan.
	fleetDevices, fleetPoints = 500, 30
	// reportedPoints of each device are in its DeviceStatus.
	reportedPoints = 3
)

// gateway: the fleet once more, through a whole leaf without link and kubelet: 500
// Devices, their twins, and every sample durable before it counts.
func (r *runner) gateway(ctx context.Context) (err error) {
	var addresses []string
	for range fleetDevices {
		s, err := startSlave(0, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		addresses = append(addresses, s.addr)
	}
	g, err := startGateway(ctx, r.cfg.Leaf, filepath.Join(r.dir, "gateway"), gatewaySettings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	for i, a := range addresses {
		if err := g.put(ctx, fleetDevice(i, a)); err != nil {
			return err
		}
	}
	if err := g.put(ctx, fleetModel()); err != nil {
		return err
	}
	got, err := g.measure(ctx, max(r.cfg.Duration, 10*time.Second))
	if err != nil {
		return err
	}
	t := r.table("A whole gateway: 500 Devices × 30 integers at 1 s, samples stored with sync_interval always, 3 values each in DeviceStatus",
		"\tsamples/s of 15,000\tgaps\tbad\tstatuses/s\tcores\tRSS\tanonymous")
	t.row("Petiole, leaf\t%.0f\t%d\t%d\t%.0f\t%.2f\t%d MiB\t%d MiB\t%s", got.samples/got.seconds, got.gaps, got.bad, got.statuses/got.seconds,
		got.cores, got.rss>>20, got.anonymous>>20, goal(got.cores <= 1, "within 1 core"))
	return t.end()
}

func fleetName(i int) string { return "d" + strconv.Itoa(i) }

func fleetModel() any {
	m := v1beta1.DeviceModel{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "DeviceModel"},
		ObjectMeta: metav1.ObjectMeta{Namespace: gatewaySite, Name: "fleet", UID: "m"},
		Spec:       v1beta1.DeviceModelSpec{Protocol: "modbus"},
	}
	for i := range fleetPoints {
		m.Spec.Properties = append(m.Spec.Properties, v1beta1.ModelProperty{Name: "p" + strconv.Itoa(i), Type: v1beta1.INT, AccessMode: v1beta1.ReadOnly})
	}
	return m
}

func fleetDevice(i int, address string) v1beta1.Device {
	d := v1beta1.Device{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "Device"},
		ObjectMeta: metav1.ObjectMeta{Namespace: gatewaySite, Name: fleetName(i), UID: types.UID(fleetName(i)), Generation: 1},
		Spec: v1beta1.DeviceSpec{
			DeviceModelRef: &corev1.LocalObjectReference{Name: "fleet"}, NodeName: gatewayNode,
			Protocol: v1beta1.ProtocolConfig{ProtocolName: "modbus", ConfigData: &v1beta1.CustomizedValue{Data: map[string]any{"address": address, "slaveID": 1}}},
		},
	}
	for p := range fleetPoints {
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{
			Name: "p" + strconv.Itoa(p), CollectCycle: 1000, ReportToCloud: p < reportedPoints,
			Visitors: &v1beta1.VisitorConfig{ProtocolName: "modbus", ConfigData: &v1beta1.CustomizedValue{
				Data: map[string]any{"register": "InputRegister", "offset": 2 * p, "dataType": "uint32"},
			}},
		})
	}
	return d
}

// gatewayProcess is a leaf in a process of its own.
type gatewayProcess struct {
	cmd *exec.Cmd
	nc  *nats.Conn
	js  jetstream.JetStream
}

// gatewaySettings are those of a gateway: the URL of its hub, if it has a link, and further lines
// of leaf.yaml.
type gatewaySettings struct{ hub, yaml string }

// startGateway starts a leaf that has everything in dir.
func startGateway(ctx context.Context, binary, dir string, settings gatewaySettings) (*gatewayProcess, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create folder: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	address, remotes := fmt.Sprintf("127.0.0.1:%d", port), ""
	if settings.hub != "" {
		remotes = fmt.Sprintf("leafnodes { remotes: [ { url: %q } ] }\n", settings.hub)
	}
	for name, text := range map[string]string{
		"leaf.conf": fmt.Sprintf("server_name: %s\nlisten: %q\nauthorization { users: [ { user: bench, password: secret } ] }\njetstream { domain: %s, store_dir: %q, sync_interval: always, max_file_store: 2GB }\n%s",
			gatewaySite, address, gatewaySite, filepath.Join(dir, "jetstream"), remotes),
		"leaf.yaml": fmt.Sprintf("site: %s\nnode: %s\ndataDir: %s\nlogLevel: warn\nnats: {configFile: %s}\nnodeAPI: {listen: \"127.0.0.1:0\"}\nmetrics: {listen: \"\"}\n%s",
			gatewaySite, gatewayNode, filepath.Join(dir, "data"), filepath.Join(dir, "leaf.conf"), settings.yaml),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write configuration: %w", err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "leaf.log"))
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	g := &gatewayProcess{cmd: exec.CommandContext(ctx, binary, "--config", filepath.Join(dir, "leaf.yaml"))}
	g.cmd.Stdout, g.cmd.Stderr = log, log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(g.cmd.Start(), log.Close()); err != nil {
		return nil, fmt.Errorf("start leaf: %w", err)
	}
	if err := g.connect(ctx, address); err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "leaf.log"))
		return nil, errors.Join(err, g.stop(), fmt.Errorf("the leaf said: %s", tail(said)))
	}
	return g, nil
}

// connect waits for the leaf's streams.
func (g *gatewayProcess) connect(ctx context.Context, address string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := g.open("nats://bench:secret@" + address); err != nil {
		return fmt.Errorf("connect to the leaf: %w", err)
	}
	for {
		_, err := g.js.Stream(ctx, streams.SiteTelemetry)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the leaf's streams: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// open opens JetStream at a server that may still be starting.
func (g *gatewayProcess) open(url string) (err error) {
	if g.nc, err = nats.Connect(url, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond)); err != nil {
		return err
	}
	g.js, err = jetstream.New(g.nc)
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("find a port: %w", err)
	}
	return port, nil
}

// put stores an object as the replicator does.
func (g *gatewayProcess) put(ctx context.Context, object any) error {
	data, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode object: %w", err)
	}
	ref, uid := streams.Ref{Group: v1beta1.GroupName, Resource: v1beta1.ResourceDeviceModels, Namespace: gatewaySite, Name: "fleet"}, "m"
	if d, ok := object.(v1beta1.Device); ok {
		ref.Node, ref.Resource, ref.Name, uid = gatewayNode, v1beta1.ResourceDevices, d.Name, string(d.UID)
	}
	m := streams.Message{Ref: ref, Op: streams.OpPut, UID: uid, Version: "1", Epoch: "1-bench", Object: data}
	_, err = streams.Put(ctx, g.js, streams.DesiredSubject(gatewaySite, ref), m)
	return err
}

// measured is the result of a gateway.
type measured struct {
	samples, statuses, seconds, cores float64
	gaps, bad                         int
	rss, anonymous                    int64
}

// measure follows the telemetry for a while, after every device has been heard.
func (g *gatewayProcess) measure(ctx context.Context, duration time.Duration) (m measured, err error) {
	consumer, err := g.js.OrderedConsumer(ctx, streams.SiteTelemetry, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		return m, fmt.Errorf("follow telemetry: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		return m, fmt.Errorf("follow telemetry: %w", err)
	}
	defer messages.Stop()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second+duration)
	defer cancel()
	last := map[string]uint64{}
	var start time.Time
	var cpu time.Duration
	var reported uint64
	for start.IsZero() || time.Since(start) < duration {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return m, fmt.Errorf("follow telemetry, %d devices heard: %w", len(last), err)
		}
		var s struct {
			Device   struct{ Name string }
			Sequence uint64
			Samples  []struct{ Quality devices.Quality }
		}
		if err := json.Unmarshal(msg.Data(), &s); err != nil {
			return m, fmt.Errorf("read %s: %w", msg.Subject(), err)
		}
		if len(s.Samples) == 0 {
			continue
		}
		was := last[s.Device.Name]
		last[s.Device.Name] = s.Sequence
		if start.IsZero() {
			if len(last) == fleetDevices {
				start = time.Now()
				if cpu, _, _, err = g.usage(); err != nil {
					return m, err
				}
				if reported, err = g.reported(ctx); err != nil {
					return m, err
				}
			}
			continue
		}
		if s.Sequence != was+1 {
			m.gaps++
		}
		m.samples += float64(len(s.Samples))
		for _, x := range s.Samples {
			if x.Quality != devices.Good {
				m.bad++
			}
		}
	}
	m.seconds = time.Since(start).Seconds()
	after, rss, anonymous, err := g.usage()
	if err != nil {
		return m, err
	}
	now, err := g.reported(ctx)
	m.cores, m.rss, m.anonymous, m.statuses = (after-cpu).Seconds()/m.seconds, rss, anonymous, float64(now-reported)
	return m, err
}

// reported returns the number of messages that SITE_REPORTED has taken so far.
func (g *gatewayProcess) reported(ctx context.Context) (uint64, error) {
	s, err := g.js.Stream(ctx, streams.SiteReported)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", streams.SiteReported, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// usage returns the processor time so far, and the resident and the anonymous memory in bytes.
func (g *gatewayProcess) usage() (cpu time.Duration, rss, anonymous int64, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(g.cmd.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return 0, 0, 0, fmt.Errorf("read processor time: %w", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, 0, 0, fmt.Errorf("read processor time: %q", stat)
	}
	for _, f := range fields[11:13] { // utime and stime, proc(5), in ticks of 10 ms
		ticks, err := strconv.Atoi(f)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("read processor time: %w", err)
		}
		cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return 0, 0, 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue // not a line about memory
		}
		switch name {
		case "VmRSS":
			rss = kib << 10
		case "RssAnon":
			anonymous = kib << 10
		}
	}
	return cpu, rss, anonymous, nil
}

func (g *gatewayProcess) stop() error {
	if g.nc != nil {
		g.nc.Close()
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop leaf: %w", err)
	}
	var exit *exec.ExitError
	if err := g.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("stop leaf: %w", err)
	}
	return nil
}
