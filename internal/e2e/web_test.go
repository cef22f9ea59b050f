package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// The parts of the web pod: where its files are, in the container.
const (
	settingsName    = "settings"
	credentialsName = "credentials"
	settingsDir     = "/etc/settings/"
	passwordFile    = "/scratch/password"
	tokenFile       = "/var/run/tokens/token"
	defaultToken    = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	webPort         = "8080"
)

// webSpec is a pod that uses all that a usual one does, a ConfigMap volume, a Secret in
// the environment, an emptyDir, a projected token, both probes, and serves its own file
// system over HTTP: a test sees what the container sees.
func webSpec(site *rig.Site) corev1.PodSpec {
	grace, expiry := int64(1), int64(3600)
	probe := func() *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: passwordFile, Port: intstr.FromString("http")}},
			PeriodSeconds: 1, FailureThreshold: 10,
		}
	}
	return corev1.PodSpec{
		NodeSelector:                  map[string]string{v1alpha1.SiteLabel: site.Name},
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name: "web", Image: lab.Image("web"),
			// The secret goes from the environment to the emptyDir, where HTTP can see it.
			Command: []string{"/bin/sh", "-c", `printf %s "$PASSWORD" > ` + passwordFile + ` && exec httpd -f -p ` + webPort + ` -h /`},
			Ports:   []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			Env: []corev1.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: credentialsName}, Key: "password",
			}}}},
			ReadinessProbe: probe(), LivenessProbe: probe(),
			VolumeMounts: []corev1.VolumeMount{
				{Name: "settings", MountPath: strings.TrimSuffix(settingsDir, "/")},
				{Name: "scratch", MountPath: "/scratch"},
				{Name: "tokens", MountPath: "/var/run/tokens"},
			},
		}},
		Volumes: []corev1.Volume{
			{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: settingsName},
			}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "tokens", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &expiry}}},
			}}},
		},
	}
}

func webDeployment(site *rig.Site, name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: webSpec(site)},
		},
	}
}

// sleeperPod does nothing in one container, with a service account token unless bare.
func sleeperPod(site *rig.Site, name string, bare bool) *corev1.Pod {
	grace, automount := int64(1), !bare
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{v1alpha1.SiteLabel: site.Name},
			TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &automount,
			Containers: []corev1.Container{{Name: "sleeper", Image: lab.Image("sleeper")}},
		},
	}
}

// readFile reads a file of a web pod's container through its HTTP server, from inside
// the site. The pod's address is the runtime's, so it works with the link cut.
func readFile(ctx context.Context, site *rig.Site, podUID, path string) (string, error) {
	ip, err := site.Runtime.PodIP(ctx, podUID)
	if err != nil {
		return "", err
	}
	text, err := readURL(ctx, site, "http://"+net.JoinHostPort(ip, webPort)+path)
	if err != nil {
		return "", fmt.Errorf("read %s of pod %s: %w", path, podUID, err)
	}
	return text, nil
}

// readURL reads from inside the site.
func readURL(ctx context.Context, site *rig.Site, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := site.HTTP().Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, answer.Status)
	}
	return string(body), nil
}

// fileIs returns nil when the container sees want in the file.
func fileIs(site *rig.Site, podUID, path, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		has, err := readFile(ctx, site, podUID, path)
		if err != nil {
			return err
		}
		if has != want {
			return fmt.Errorf("%s is %.80q, want %.80q", path, has, want)
		}
		return nil
	}
}
