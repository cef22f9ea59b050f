package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// farewell is a pod that needs three seconds to end, and says on its gateway's disk that it had them.
const farewell = `kubectl wait node/plant-a-1 --for=condition=Ready --timeout=120s
kubectl apply -f - <<'END'
apiVersion: v1
kind: Pod
metadata: {name: farewell}
spec:
  nodeName: plant-a-1
  tolerations: [{operator: Exists}]
  volumes: [{name: out, hostPath: {path: /var/lib/farewell, type: DirectoryOrCreate}}]
  containers:
    - name: c
      image: docker.io/library/busybox:1
      command: [sh, -c, "trap 'sleep 3; echo complete > /out/farewell; exit 0' TERM; while true; do sleep 1; done"]
      volumeMounts: [{name: out, mountPath: /out}]
END
kubectl wait pod/farewell --for=condition=Ready --timeout=120s`

// powerOff has the gateway join once more, with graceful node shutdown, and powers it off: logind
// waits for the kubelet, the pods have their time, and the cloud is told before the link is gone.
func (w *walker) powerOff(ctx context.Context) error {
	hub, gateway := w.shells[onHub], w.shells[onGateway]
	printed, err := hub.run("# a token for a gateway that was purged\nkubectl petiole site rejoin plant-a --only", time.Minute)
	if err != nil {
		return err
	}
	join, err := printedCommand(printed, "leaf join ")
	if err != nil {
		return err
	}
	for _, s := range []struct {
		on       *shell
		commands string
	}{
		{gateway, "apt-get install -y ./petiole-leaf_" + nextVersion + "_amd64.deb\n" + join},
		{gateway, "# graceful node shutdown\nprintf 'shutdownGracePeriod: 20s\\nshutdownGracePeriodCriticalPods: 5s\\n' >> /etc/petiole/kubelet.yaml\n" + allowFullDisk + `
until busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager ListInhibitors | grep '"shutdown" "kubelet"'; do sleep 0.5; done`},
		{hub, "# a pod that takes its time to end\n" + farewell},
		{gateway, "systemctl poweroff --no-block"},
		{hub, `# what the cloud sees
kubectl wait node/plant-a-1 --for=condition=Ready=false --timeout=60s
kubectl wait pod/farewell --for=condition=DisruptionTarget --timeout=60s
kubectl wait pod/farewell --for=jsonpath='{.status.containerStatuses[0].state.terminated.reason}'=Completed --timeout=60s
kubectl get pod/farewell -o jsonpath='{.status.phase}: {.status.conditions[?(@.type=="DisruptionTarget")].message}{"\n"}' | grep '^Succeeded: .*node shutdown'`},
	} {
		if _, err := s.on.run(s.commands, packageTime); err != nil {
			return err
		}
	}
	machine := w.machines[onGateway]
	select {
	case err := <-machine.ended:
		machine.ended <- err
	case <-time.After(packageTime):
		return fmt.Errorf("the gateway is not off after %v", packageTime)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	said, err := os.ReadFile(machine.path("var/lib/farewell/farewell"))
	if err != nil {
		return errors.Join(errors.New("the pod was ended before its time"), err)
	}
	w.out.say("the gateway is off, after its pods: %s", said)
	return nil
}
