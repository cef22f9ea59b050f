package services

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// lab is the running lab of all tests, whose sites have kube-proxy and CoreDNS.
var lab *rig.Rig

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "services:", err)
			code = 1
		}
	}
	root, err := rig.FindRoot()
	if err != nil {
		fail(err)
		return code
	}
	program := root + "/.lab/bin/lab"
	if os.Getenv("PETIOLE_USE_LAB") != "1" {
		defer func() { fail(command(root, program, "down")) }()
		if err := command(root, program, "up"); err != nil {
			fail(err)
			return code
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if lab, err = rig.Open(ctx, root); err != nil {
		fail(err)
		return code
	}
	defer func() { fail(lab.Close()) }()
	defer func() { fail(deleteNamespace(context.Background(), sites)) }()
	if err := command(root, program, "services"); err != nil {
		fail(err)
		return code
	}
	return m.Run()
}

// deleteNamespace returns when a namespace is gone, with its pods.
func deleteNamespace(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := lab.Kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return rig.Poll(ctx, "namespace "+name+" is gone", func(ctx context.Context) error {
		if _, err := lab.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stdout, os.Stderr
	return cmd.Run()
}
