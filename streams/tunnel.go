package streams

import (
	"fmt"
	"strings"
)

// TunnelSubject returns the subject on which a client at the hub sends the frames of a session to
// a node of a site. They are not stored. Client and session are tokens.
func TunnelSubject(site, node, client, session string) string {
	return strings.Join([]string{tunnelPrefix, EscapeToken(site), EscapeToken(node), client, session}, ".")
}

// TunnelFilter matches the frames of all sessions with a node.
func TunnelFilter(site, node string) string {
	return strings.Join([]string{tunnelPrefix, EscapeToken(site), EscapeToken(node), "*", "*"}, ".")
}

// ParseTunnel returns the client and the session of a TunnelSubject.
func ParseTunnel(subject string) (client, session string, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 5 || t[0] != tunnelPrefix {
		return "", "", fmt.Errorf("subject %q is not %s.<site>.<node>.<client>.<session>: %w", subject, tunnelPrefix, ErrSubject)
	}
	return t[3], t[4], nil
}

// ReturnSubject returns the subject on which a site sends the frames of a session back to a client.
func ReturnSubject(site, client, session string) string {
	return strings.Join([]string{returnPrefix, EscapeToken(site), client, session}, ".")
}

// ReturnFilter matches the frames that a site sends to a client.
func ReturnFilter(site, client string) string {
	return strings.Join([]string{returnPrefix, EscapeToken(site), client, "*"}, ".")
}

// ParseReturn returns the site and the session of a ReturnSubject.
func ParseReturn(subject string) (site, session string, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 4 || t[0] != returnPrefix {
		return "", "", fmt.Errorf("subject %q is not %s.<site>.<client>.<session>: %w", subject, returnPrefix, ErrSubject)
	}
	site, err = UnescapeToken(t[1])
	return site, t[3], err
}

// TunnelImport and ReturnImport match all that a site receives and sends in tunnels: what its
// account may do.
func TunnelImport(site string) string { return tunnelPrefix + "." + EscapeToken(site) + ".>" }

// ReturnImport is described at TunnelImport.
func ReturnImport(site string) string { return returnPrefix + "." + EscapeToken(site) + ".>" }
