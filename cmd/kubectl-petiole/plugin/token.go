package plugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams/join"
)

// The bounds of a join token's lifetime.
const (
	defaultTokenTTL = time.Hour
	minTokenTTL     = time.Minute
	maxTokenTTL     = 7 * 24 * time.Hour
)

// tokenFlags are the flags of the commands that make join tokens.
type tokenFlags struct {
	ttl       time.Duration
	printOnly bool
}

func (f *tokenFlags) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.ttl, "ttl", defaultTokenTTL, "Time after which the token is no longer good, at most 168h")
	cmd.Flags().BoolVar(&f.printOnly, "print-token", false, "Print the token alone, for 'leaf join URL -'")
}

// joinSecret is the key of a join token, and what the Site has of it.
type joinSecret struct {
	key    nkeys.KeyPair
	public string
	spec   map[string]any
}

// newJoinSecret creates the key of a join token.
func newJoinSecret(f tokenFlags, replace bool) (joinSecret, error) {
	if f.ttl < minTokenTTL || f.ttl > maxTokenTTL {
		return joinSecret{}, fmt.Errorf("--ttl %s: must be %s to %s", f.ttl, minTokenTTL, maxTokenTTL)
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return joinSecret{}, fmt.Errorf("create the token's key: %w", err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return joinSecret{}, fmt.Errorf("create the token's key: %w", err)
	}
	return joinSecret{key, public, map[string]any{
		"key": public, "expires": metav1.NewTime(time.Now().Add(f.ttl)).UTC().Format(time.RFC3339), "replace": replace,
	}}, nil
}

// printToken waits until the hub knows the token and prints it. If that fails, the token is
// withdrawn: nobody has it.
func (s *session) printToken(ctx context.Context, c dynamic.Interface, site string, secret joinSecret, f tokenFlags) error {
	var access *v1alpha1.SiteJoinAccess
	err := s.awaitAccount(ctx, c, site, func(o *v1alpha1.Site) bool {
		if o.Status.Access == nil || o.Status.Access.Join == nil || o.Status.Access.Join.Key != secret.public {
			return false
		}
		access = o.Status.Access.Join
		return true
	})
	if err != nil {
		withdrawErr := patchSite(context.WithoutCancel(ctx), c, site, map[string]any{}, map[string]any{"join": nil})
		return errors.Join(fmt.Errorf("no join token: %w; when that is repaired, run 'kubectl petiole site rejoin %s'", err, site), withdrawErr)
	}
	token, err := join.NewToken(site, secret.key, access.JWT, []byte(access.Authorities))
	if err != nil {
		return err
	}
	if f.printOnly {
		_, err = fmt.Fprintln(s.Out, token)
		return err
	}
	url, hint := access.URL, ""
	if url == "" {
		url, hint = "tls://HUB:7422", "\nHUB is the host by which gateways reach the hub's leaf listener (gateways.url in bridge.yaml).\n"
	}
	_, err = fmt.Fprintf(s.Out, `Run this on the gateway, as root. The token is a secret, good for one gateway until %s:
%s
  leaf join %s %s
`, token.Expires().Local().Format(time.RFC1123), hint, url, token)
	return err
}

func stringsToAny(in []string) (out []any) {
	for _, s := range in {
		out = append(out, s)
	}
	return out
}
