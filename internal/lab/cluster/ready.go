package cluster

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config reads a kubeconfig, with a request rate for tools rather than controllers.
func Config(kubeconfig string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.QPS, cfg.Burst = 200, 400
	return cfg, nil
}

// AwaitReady blocks until the API server of cfg says that it is ready and the default
// service account exists, which proves that the controllers run.
func AwaitReady(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	var last error
	err = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		if last = client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); last != nil {
			last = unready(last)
			return false, nil
		}
		_, last = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("await API server: %w (last answer: %w)", err, last)
	}
	return nil
}

// failedCheck matches what an answer of /readyz says of a check that fails.
var failedCheck = regexp.MustCompile(`\[-\][^ ]+`)

// unready shortens an answer of /readyz, a line for each of 40 checks, to those that fail.
func unready(err error) error {
	failed := failedCheck.FindAllString(err.Error(), -1)
	if len(failed) == 0 {
		return err
	}
	return fmt.Errorf("not ready yet: %s", strings.Join(failed, " "))
}
