package main

import (
	"fmt"
	"strings"
	"time"
)

// walkedVersion is the version of the package in docs/install.md, nextVersion the one that it is
// upgraded to.
const (
	walkedVersion = "0.1.0"
	nextVersion   = "0.1.1"
)

// packageTime bounds a step of the package's life.
const packageTime = 5 * time.Minute

// functions are those of the gateway's steps: containers prints the processes of all containers (one that
// was restarted is another process) and fails if there is none, running prints those of the package, and
// awaitReady returns when the leaf is ready. There is no curl.
const functions = `awaitReady() { until (exec 5<>/dev/tcp/127.0.0.1/10443; printf 'GET /readyz HTTP/1.0\r\n\r\n' >&5; grep -q ' 200 ' <&5) 2>/dev/null; do sleep 0.5; done; }
containers() { pgrep -f '^(/bin/)?sleep infinity' | sort -n; }
running() { pgrep -x leaf || pgrep -x petiole-kubelet; }
`

// packageSteps are the life of the gateway and of its package after the document's last command.
var packageSteps = []struct {
	on, commands string
}{
	// A reload, with a configuration that cannot be used first, ends neither the leaf nor the kubelet.
	{onGateway, functions + `processes() { pgrep -x leaf && pgrep -x petiole-kubelet && containers; }
before=$(processes)
cp /etc/petiole/leaf.conf /tmp/leaf.conf
echo 'ping_interval: "soon"' >> /etc/petiole/leaf.conf
systemctl reload petiole-leaf
until journalctl -u petiole-leaf --grep 'configuration not reloaded.*leaf[.]conf.*ping_interval.*soon'; do sleep 0.5; done
{ cat /tmp/leaf.conf; echo 'max_connections: 1000'; } > /etc/petiole/leaf.conf
systemctl reload petiole-leaf
until journalctl -u petiole-leaf --grep 'configuration of the nats-server reloaded'; do sleep 0.5; done
awaitReady
test "$(processes)" = "$before"`},
	{onHub, `cd ~/petiole
go tool task package VERSION=` + nextVersion + ` ARCHITECTURES=amd64`},
	{onGateway, `pgrep -x leaf; pgrep -x petiole-kubelet
before=$(containers)
leaf=$(systemctl show -p MainPID --value petiole-leaf)
dpkg-query -W -f '${Version}\n' petiole-leaf | grep -x '` + walkedVersion + `.*'
apt-get install -y ./petiole-leaf_` + nextVersion + `_amd64.deb
dpkg-query -W -f '${Version}\n' petiole-leaf | grep -x '` + nextVersion + `.*'
test "$(systemctl show -p MainPID --value petiole-leaf)" != "$leaf"
awaitReady
test "$(containers)" = "$before"`},
	// What is applied after the upgrade arrives, and the pod's container was not restarted.
	{onHub, `kubectl wait node/plant-a-1 --for=condition=Ready --timeout=120s
kubectl get pods -A -o jsonpath='{range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{"\n"}{end}' | tee /tmp/restarts
awk '$2 != 0 { exit 1 }' /tmp/restarts
kubectl create configmap after-upgrade --from-literal=version=` + nextVersion + `
kubectl run after-upgrade --image=docker.io/library/busybox:1 --overrides='{"spec": {"nodeName": "plant-a-1", "automountServiceAccountToken": false, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "docker.io/library/busybox:1", "envFrom": [{"configMapRef": {"name": "after-upgrade"}}]}]}}'
kubectl wait pod/after-upgrade --for=condition=Ready --timeout=120s`},
	// Without the package nothing of it runs; pods do, and what the gateway has stored stays.
	{onGateway, `before=$(containers)
apt-get remove -y petiole-leaf
test ! -e /usr/bin/leaf; test -s /etc/petiole/leaf.yaml; test -d /var/lib/petiole
test -z "$(running)"
test "$(systemctl is-active petiole-leaf)" = inactive
test "$(containers)" = "$before"`},
	{onGateway, `apt-get install -y ./petiole-leaf_` + nextVersion + `_amd64.deb
systemctl enable --now petiole-leaf
awaitReady
test "$(containers)" = "$before"`},
	{onHub, `kubectl wait node/plant-a-1 --for=condition=Ready --timeout=120s`},
	{onGateway, `apt-get purge -y petiole-leaf
test ! -e /usr/bin/leaf; test ! -e /usr/bin/petiole-kubelet; test ! -e /etc/petiole; test ! -e /var/lib/petiole
test "$(systemctl show -p LoadState --value petiole-leaf)" = not-found
test ! -e /etc/systemd/system/multi-user.target.wants/petiole-leaf.service
test -z "$(running)"`},
}

// upgrade upgrades the package while pods run, removes it, installs it again and purges it.
func (w *walker) upgrade() error {
	for i, s := range packageSteps {
		if _, err := w.shells[s.on].run(fmt.Sprintf("# the installed gateway, %d of %d\n%s", i+1, len(packageSteps), s.commands), packageTime); err != nil {
			return err
		}
		if strings.Contains(s.commands, "task package") {
			if err := w.carryPackage(nextVersion); err != nil {
				return err
			}
		}
	}
	w.out.say("the package was upgraded, removed and purged, and no container was restarted")
	return nil
}
