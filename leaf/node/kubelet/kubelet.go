// Package kubelet runs upstream's unmodified kubelet as a command of the leaf's binary.
//
// It is the only package besides the lab that links k8s.io/kubernetes. A leaf runs it as a
// child process, because a kubelet has global state and may exit on its own: the leaf and
// the devices keep running when it does.
package kubelet

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // the JSON log format of KubeletConfiguration
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of its API client
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kubelet/app"
)

// Run runs the kubelet with upstream's flags until it exits, and returns its exit
// code. It takes over the process: signals, flags and logging.
func Run(ctx context.Context, args []string) int {
	command := app.NewKubeletCommand(ctx)
	os.Args = append([]string{"kubelet"}, args...)
	return cli.Run(command)
}
