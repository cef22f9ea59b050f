package controlplane

import (
	"context"

	"k8s.io/client-go/tools/cache"
	schedulerapp "k8s.io/kubernetes/cmd/kube-scheduler/app"
	scheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"

	managerapp "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	manageroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
)

func (c *ControlPlane) runScheduler(ctx context.Context) error {
	opts := scheduleroptions.NewOptions()
	err := parse(*opts.Flags, map[string]string{
		"kubeconfig": c.creds.Scheduler, "leader-elect": "false", "secure-port": "0",
	})
	if err != nil {
		return err
	}
	if opts.InformerName, err = cache.NewInformerName("kube-scheduler"); err != nil {
		return err
	}
	cfg, scheduler, err := schedulerapp.Setup(ctx, opts)
	if err != nil {
		return err
	}
	return schedulerapp.Run(ctx, cfg, scheduler)
}

func (c *ControlPlane) runControllerManager(ctx context.Context) error {
	opts, err := manageroptions.NewKubeControllerManagerOptions()
	if err != nil {
		return err
	}
	known, off, aliases := managerapp.KnownControllers(), managerapp.ControllersDisabledByDefault(), managerapp.ControllerAliases()
	sets := opts.Flags(known, off, aliases)
	opts.ParsedFlags = &sets
	err = parse(sets, map[string]string{
		"kubeconfig": c.creds.ControllerManager, "leader-elect": "false", "secure-port": "0",
		"use-service-account-credentials": "true", "service-account-private-key-file": c.creds.SigningKey,
		"root-ca-file": c.creds.CAFile, "cluster-signing-cert-file": c.creds.CAFile, "cluster-signing-key-file": c.creds.CAKeyFile,
	})
	if err != nil {
		return err
	}
	cfg, err := opts.Config(ctx, known, off, aliases)
	if err != nil {
		return err
	}
	return managerapp.Run(ctx, cfg.Complete())
}
