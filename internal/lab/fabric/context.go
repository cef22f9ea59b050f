package fabric

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/petiole-io/petiole/internal/lab/render"
)

// Context is one context of the nats command.
type Context struct {
	Name, Description, URL string
	// Credentials authenticate it, the nkey in SeedFile, or User with Password.
	Credentials, SeedFile, User, Password string
	// Domain is the JetStream domain, empty for the server's own.
	Domain string
}

// WriteContexts writes contexts below configHome, the XDG_CONFIG_HOME of the nats
// command, and selects the first.
func WriteContexts(configHome string, contexts []Context) error {
	dir := filepath.Join(configHome, "nats")
	for _, c := range contexts {
		data, err := json.MarshalIndent(map[string]string{
			"description": c.Description, "url": c.URL, "creds": c.Credentials, "nkey": c.SeedFile, "user": c.User, "password": c.Password, "jetstream_domain": c.Domain,
		}, "", "  ")
		if err != nil {
			return fmt.Errorf("encode context %s: %w", c.Name, err)
		}
		if err := render.Secret(filepath.Join(dir, "context", c.Name+".json"), data); err != nil {
			return fmt.Errorf("write context %s: %w", c.Name, err)
		}
	}
	if len(contexts) == 0 {
		return nil
	}
	if err := render.Secret(filepath.Join(dir, "context.txt"), []byte(contexts[0].Name)); err != nil {
		return fmt.Errorf("select context: %w", err)
	}
	return nil
}
