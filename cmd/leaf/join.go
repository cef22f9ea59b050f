package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/internal/version"
	"github.com/petiole-io/petiole/leaf/join"
)

// maxToken bounds a token on standard input, in bytes.
const maxToken = 64 << 10

func newJoinCommand() *cobra.Command {
	o := join.Options{Version: version.String()}
	cmd := &cobra.Command{
		Use: "join URL TOKEN", Short: "Make this machine the gateway of a site",
		Long: `Make this machine the gateway of a site, with the hub's URL and a join token, both of which
'kubectl petiole site create' prints. TOKEN "-" reads the token from standard input, where
nobody sees it in a list of processes.

The command checks the machine first (` + strings.Join(join.Checks(), ", ") + `)
and lists what is missing. It creates the key of the gateway, which never leaves it, lets the
bridge add it to the Site, writes /etc/petiole and a systemd unit, starts the leaf, and waits
until the site is connected. If it is interrupted, the same command completes it; 'leaf reset'
undoes it.`,
		Example: `  leaf join tls://hub.example.com:7422 plant-a.SU…
  leaf join wss://hub.example.com - < token`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.URL, o.Token = args[0], args[1]
			o.Progress = func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) }
			if o.Token == "-" {
				data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxToken))
				if err != nil {
					return exitError{1, fmt.Errorf("read the token: %w", err)}
				}
				o.Token = string(data)
			}
			if !cmd.Flags().Changed("proxy") {
				o.Proxy = proxyFromEnvironment(o.URL)
			}
			m, err := join.Host()
			if err != nil {
				return exitError{1, err}
			}
			if err := join.Run(cmd.Context(), m, o); err != nil {
				return exitError{1, err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Proxy, "proxy", "", "`URL` of an HTTP proxy on the way to the hub, http://USER:PASSWORD@HOST:PORT; default: that of HTTPS_PROXY, which other users of this machine cannot read; \"\": none")
	cmd.Flags().StringVar(&o.Node, "node", "", "`name` of the Kubernetes node; default: the one that the Site has, or else the host's name")
	cmd.Flags().StringVar(&o.RuntimeEndpoint, "runtime-endpoint", "", "`socket` of the container runtime; default: that of CRI-O or containerd")
	cmd.Flags().StringSliceVar(&o.IgnorePreflight, "ignore-preflight", nil, "`checks` whose findings are only printed")
	cmd.Flags().BoolVar(&o.LocalClients, "local-clients", false, "let programs on this machine connect: NATS at 127.0.0.1:4222, MQTT at 127.0.0.1:1883")
	cmd.Flags().BoolVar(&o.Services, "services", false, "prepare this machine for kube-proxy and CoreDNS of deploy/kubernetes/sites: Services, DNS and the API for pods, without which pods have no DNS then")
	cmd.Flags().BoolVar(&o.NoStart, "no-start", false, "do not install and start the systemd unit")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", time.Minute, "`time` for the answer of the bridge, and for the connection")
	return cmd
}

// proxyFromEnvironment returns the HTTP proxy that HTTPS_PROXY and NO_PROXY name for the hub, or "".
func proxyFromEnvironment(hub string) string {
	if _, host, ok := strings.Cut(hub, "://"); ok {
		hub = host
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: hub}})
	if err != nil {
		return os.Getenv("HTTPS_PROXY") // join reports what is wrong with it
	}
	if proxy == nil {
		return ""
	}
	return proxy.String()
}

func newResetCommand() *cobra.Command {
	var yes, keepData bool
	cmd := &cobra.Command{
		Use: "reset", Short: "Undo 'leaf join'",
		Long: `Undo 'leaf join': stop the leaf, and remove its configuration, its key and all that it has
stored. Telemetry that the hub does not have is lost. Containers that run are left to the
container runtime.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return fmt.Errorf("leaf reset deletes the key and the data of this gateway: repeat it with --yes")
			}
			m, err := join.Host()
			if err != nil {
				return exitError{1, err}
			}
			progress := func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) }
			if err := join.Reset(cmd.Context(), m, keepData, progress); err != nil {
				return exitError{1, err}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.Flags().BoolVar(&keepData, "keep-data", false, "keep what the leaf has stored")
	return cmd
}
