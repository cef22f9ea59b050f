package lab

import (
	"fmt"
	"path/filepath"
)

// Hints prints commands to try next.
func (l *Lab) Hints() {
	env := filepath.Join(l.dir, "env")
	if rel, err := filepath.Rel(l.root, env); err == nil {
		env = rel
	}
	fmt.Fprintf(l.out.out, `
Try next:
  source %s
  kubectl get nodes,sites
  kubectl apply -f deploy/lab/samples/        # a Deployment, a DeviceModel and a Device
  kubectl get pods -o wide -w
  nats consumer report DESIRED                # a row per site: what it has not stored yet
  nats stream view DESIRED
  go tool task lab:cut SITE=plant-a           # then change things, and see them pending
  go tool task lab:reboot SITE=plant-a        # its pods come back with the link cut
  go tool task lab:heal SITE=plant-a
`, env)
}

// Advice tells a person what to do after a start that failed or was interrupted.
const Advice = `What to do:
  go tool task lab           goes on: it starts what does not run, and keeps all data
  go tool task lab:status    shows each part, and why one does not work
  go tool task lab:down      stops everything; PURGE=1 also removes the data below .lab,
                             which helps when files there are damaged`
