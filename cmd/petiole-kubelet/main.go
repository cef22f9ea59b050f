// Command petiole-kubelet is upstream's unmodified kubelet, with its flags. The leaf runs it as a
// child process, from its own folder (package leaf/node), because a kubelet has global state and
// may exit on its own: the leaf and the devices keep running when it does.
//
// It is a program of its own because the pages of a program that a process reads once, at its
// start, stay in its memory: linked into the leaf, the kubelet doubled the leaf's
// (docs/decisions/0037-kubelet-binary.md). This one gives its own back. Besides the lab it is all that links k8s.io/kubernetes.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // the JSON log format of KubeletConfiguration
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of its API client
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/petiole-io/petiole/internal/pages"
)

func main() {
	go func() { // until it has run for a while, or the process ends
		if err := pages.ReleaseOnceStarted(context.Background()); err != nil {
			klog.ErrorS(err, "Pages of the program stay in memory")
		}
	}()
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
