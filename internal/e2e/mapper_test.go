package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/petiole-io/petiole/cmd/opcua-mapper/opcuatest"
)

// pressManifests are a model and a device of a protocol that the leaf itself does not
// speak.
const pressManifests = `
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: press}
spec:
  protocol: opcua
  properties:
    - name: setpoint
      type: FLOAT
      accessMode: ReadWrite
      visitors: {protocolName: opcua, configData: {nodeID: ns=1;s=Setpoint}}
    - name: temperature
      type: DOUBLE
      accessMode: ReadOnly
      visitors: {protocolName: opcua, configData: {nodeID: ns=1;s=Temperature}}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: press}
spec:
  deviceModelRef: {name: press}
  nodeName: %s
  protocol: {protocolName: opcua, configData: {url: "opc.tcp://%s"}}
  properties:
    - {name: setpoint, collectCycle: 200, reportToCloud: true}
    - {name: temperature, collectCycle: 200, reportToCloud: true}
`

// TestMapper: a device of another protocol, whose mapper registers at the site's leaf over
// DMI: its values reach DeviceStatus, a desired value the device, and the mapper's end and
// return are seen.
func TestMapper(t *testing.T) {
	site := lab.Sites[0]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	plant := make(chan error, 1)
	go func() { plant <- opcuatest.Serve(t.Context(), address) }()
	t.Cleanup(func() { must(t, <-plant) })

	dir := t.TempDir()
	config := filepath.Join(dir, "mapper.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, "grpc_server: {socket_path: %s/opcua.sock}\ncommon: {edgecore_sock: %s}\n", dir, site.DMISocket()), 0o600))
	start := func() *exec.Cmd {
		c := exec.Command(lab.Bin("opcua-mapper"), "--config", config)
		c.Stderr = os.Stderr
		must(t, c.Start())
		t.Cleanup(func() {
			if c.ProcessState == nil {
				stop(t, c)
			}
		})
		return c
	}
	mapper := start()

	ns := newNamespace(t, "mapper")
	apply(t, ns, fmt.Sprintf(pressManifests, site.Node, address))
	took := eventually(t, 30*time.Second, "the temperature is reported", reports(ns, "press", "temperature", "21.5"))
	t.Logf("MEASURED Device of a mapper created → reported value in DeviceStatus: %s", took.Round(time.Millisecond))
	desire(t, ns, "press", "55.5")
	eventually(t, 20*time.Second, "the desired value is applied", observed(ns, "press", "setpoint", "55.5"))

	stop(t, mapper)
	eventually(t, 60*time.Second, "the device is offline without its mapper", deviceIs(ns, "press", "offline"))
	start()
	eventually(t, 60*time.Second, "the device is online with its mapper", deviceIs(ns, "press", "online"))
}

// stop ends a program at once.
func stop(t *testing.T, c *exec.Cmd) {
	t.Helper()
	must(t, c.Process.Kill())
	if err := c.Wait(); err == nil {
		t.Errorf("%s ended by itself", c.Path)
	}
}
