package accounts

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/join"
)

// The names of the accounts that every hub has.
const (
	FabricAccount = "FABRIC"
	SystemAccount = "SYS"
)

// siteTag marks the accounts of sites. Its value is the name of the site, in lower case as all
// tags are, which names of sites are anyway.
const siteTag = "petiole-site:"

// MaxGateways is the number of gateways that a Site may list: the present one, and the next one
// while it is replaced.
const MaxGateways = 2

const (
	// maxPayload is the largest message of a site, the default of nats-server.
	maxPayload = 1 << 20
	// maxSubscriptions bounds the interest of one gateway at the hub. A leaf has about ten
	// subscriptions there, and one for each request that waits for its answer.
	maxSubscriptions = 1000
	// maxOperators bounds the connections of a site's operators.
	maxOperators = 32
	// maxJoins bounds the connections with a join token: the gateway's, and one more that the hub
	// has not noticed to be dead.
	maxJoins = 2
	// maxJoinSubscriptions and maxJoinPayload are what a join needs, and room.
	maxJoinSubscriptions = 16
	maxJoinPayload       = 64 << 10
)

// Site is what a site's accounts are made from.
type Site struct {
	Name string
	// Gateways and Operators are public user keys, "U…". A site without gateways is revoked:
	// nobody may connect.
	Gateways, Operators []string
	// Join is the token with which the next gateway may ask to be listed, nil if there is none.
	Join *JoinToken
}

// JoinToken is a token of a Site.
type JoinToken struct {
	// Key is its public key, "U…".
	Key     string
	Expires time.Time
}

// has reports whether the site has an account for a role.
func (s Site) has(role string) bool {
	switch role {
	case roleOperator:
		return len(s.Operators) > 0
	case roleJoin:
		return s.Join != nil
	}
	return true
}

// ErrUserKey reports a key in a Site that is not the public key of a user.
var ErrUserKey = errors.New("not the public key of a user, U…")

// Validate returns an error for each invalid key.
func (s Site) Validate() error {
	var errs []error
	if len(s.Gateways) > MaxGateways {
		errs = append(errs, fmt.Errorf("spec.gateways: %d keys: must be at most %d, the present gateway and the next one", len(s.Gateways), MaxGateways))
	}
	for field, keys := range map[string][]string{"gateways": s.Gateways, "operators": s.Operators} {
		for i, key := range keys {
			if !nkeys.IsValidPublicUserKey(key) {
				errs = append(errs, fmt.Errorf("spec.%s[%d]: %q: %w", field, i, key, ErrUserKey))
			}
		}
	}
	if s.Join != nil && !nkeys.IsValidPublicUserKey(s.Join.Key) {
		errs = append(errs, fmt.Errorf("spec.join.key: %q: %w", s.Join.Key, ErrUserKey))
	}
	return errors.Join(errs...)
}

// valid returns the site with its valid keys alone: a key that somebody mistyped must not keep one
// that was taken out.
func (s Site) valid() Site {
	only := func(keys []string) []string {
		return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !nkeys.IsValidPublicUserKey(key) })
	}
	s.Gateways, s.Operators = only(s.Gateways), only(s.Operators)
	s.Gateways = s.Gateways[:min(len(s.Gateways), MaxGateways)]
	if s.Join != nil && !nkeys.IsValidPublicUserKey(s.Join.Key) {
		s.Join = nil
	}
	return s
}

// Claims returns the claims of a site's accounts: the account of the site, that of its operators
// if there are any, and that of its join token if it has one.
func (k *Keys) Claims(s Site) ([]*jwt.AccountClaims, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	account, err := k.gatewayClaims(s)
	if err != nil {
		return nil, err
	}
	all := []*jwt.AccountClaims{account}
	if len(s.Operators) > 0 {
		operators, err := k.operatorClaims(s, account.Subject)
		if err != nil {
			return nil, err
		}
		all = append(all, operators)
	}
	if s.Join != nil {
		joining, err := k.joinClaims(s)
		if err != nil {
			return nil, err
		}
		all = append(all, joining)
	}
	return all, nil
}

// gatewayClaims returns the claims of the account that the site's leaf connects to.
func (k *Keys) gatewayClaims(s Site) (*jwt.AccountClaims, error) {
	c, err := k.newClaims(s, roleGateway, s.Name)
	if err != nil {
		return nil, err
	}
	token := streams.EscapeToken(s.Name)
	for subject, local := range map[string]string{
		// A pseudo domain: the leaf connection itself maps the real one to the site
		// (docs/upstream.md, 19).
		"$JS.API.CONSUMER.RESET.DESIRED." + token:    streams.ResetSubject(s.Name),
		"$JS.API.CONSUMER.MSG.NEXT.DESIRED." + token: streams.PullSubject(s.Name),
	} {
		c.Imports.Add(serviceImport(k.fabric, subject, local))
	}
	for _, subject := range received(s.Name) {
		c.Imports.Add(&jwt.Import{Account: k.fabric, Type: jwt.Stream, Subject: jwt.Subject(subject)})
	}
	for _, subject := range published(s.Name) {
		c.Imports.Add(serviceImport(k.fabric, subject, ""))
	}
	// A site without operators answers nobody. When the first one is listed, the hub closes the gateway's
	// connection, and it comes back with these permissions.
	var requests []string
	if len(s.Operators) > 0 {
		requests = operatorRequests(token)
	}
	for _, subject := range requests {
		c.Exports.Add(serviceExport(subject, responseOf(subject)))
	}
	c.Limits.Imports, c.Limits.Exports = int64(len(c.Imports)), int64(len(c.Exports))
	// When claims change, the server closes the newest leaf nodes above the limit of connections,
	// which would be the next gateway and not the one that is no longer listed.
	c.Limits.LeafNodeConn, c.Limits.Conn = int64(len(s.Gateways)), MaxGateways
	for _, gateway := range s.Gateways {
		err := k.allow(c, s.Name, roleGateway, gateway, func(p *jwt.UserPermissionLimits) {
			p.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeLeafnode, jwt.ConnectionTypeLeafnodeWS}
			// Replies of service imports, which is how the hub's requests arrive.
			p.Pub.Allow = append(jwt.StringList{streams.ResetSubject(s.Name), streams.PullSubject(s.Name), "_R_.>"}, published(s.Name)...)
			// _INBOX_… is where the leaf has its answers sent to.
			p.Sub.Allow = append(append(jwt.StringList{"_INBOX_" + s.Name + ".>"}, received(s.Name)...), requests...)
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// published are the subjects that a site publishes to the bridge.
func published(site string) []string {
	token := streams.EscapeToken(site)
	return []string{
		"$JS.ACK.DESIRED." + token + ".>", streams.ReportedFilter(site), streams.TelemetryFilter(site),
		streams.PresenceSubject(site), "request." + token + ".>", streams.ReturnImport(site),
	}
}

// received are the subjects on which a site receives what the bridge sends to it alone.
func received(site string) []string {
	return []string{streams.SyncSubject(site), streams.TunnelImport(site)}
}

// operatorRequests are the requests that the operators of a site may send to it. They look, and
// command devices. SITE_DESIRED and SITE_QUARANTINE may hold Secrets.
func operatorRequests(token string) []string {
	api := "$JS." + token + ".API."
	return []string{
		api + "INFO", api + "STREAM.NAMES", api + "STREAM.LIST", api + "STREAM.INFO.*",
		api + "CONSUMER.NAMES.*", api + "CONSUMER.LIST.*", api + "CONSUMER.INFO.*.*",
		api + "STREAM.MSG.GET." + streams.SiteReported, api + "STREAM.MSG.GET." + streams.SiteTelemetry,
		api + "DIRECT.GET." + streams.SiteReported, api + "DIRECT.GET." + streams.SiteReported + ".>",
		api + "DIRECT.GET." + streams.SiteTelemetry, api + "DIRECT.GET." + streams.SiteTelemetry + ".>",
		"command." + token + ".>",
	}
}

// responseOf returns how many answers a request of operatorRequests has: a direct get without a
// subject can ask for a batch.
func responseOf(subject string) jwt.ResponseType {
	if strings.HasSuffix(subject, ".DIRECT.GET."+streams.SiteReported) || strings.HasSuffix(subject, ".DIRECT.GET."+streams.SiteTelemetry) {
		return jwt.ResponseTypeStream
	}
	return jwt.ResponseTypeSingleton
}

// operatorClaims returns the claims of the account of a site's operators. It is an account of
// its own, and not a role in the site's account, because nats-server does not check the reply
// subject that a request names: an answer comes back to the operators' account, and never to a
// subject of the site (docs/decisions/0015-accounts-on-a-gateway.md).
func (k *Keys) operatorClaims(s Site, site string) (*jwt.AccountClaims, error) {
	c, err := k.newClaims(s, roleOperator, s.Name+"-operators")
	if err != nil {
		return nil, err
	}
	requests := operatorRequests(streams.EscapeToken(s.Name))
	for _, subject := range requests {
		c.Imports.Add(serviceImport(site, subject, ""))
	}
	c.Limits.Imports, c.Limits.Exports = int64(len(c.Imports)), 0
	c.Limits.LeafNodeConn, c.Limits.Conn = 0, maxOperators
	for _, operator := range s.Operators {
		err := k.allow(c, s.Name, roleOperator, operator, func(p *jwt.UserPermissionLimits) {
			p.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket}
			p.Pub.Allow = requests
			p.Sub.Allow = jwt.StringList{"_INBOX.>"}
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// joinClaims returns the claims of the account of a site's join token. It is an account of its
// own so that whoever has the token, or had it, takes no place of the gateways: it may have one
// kind of message delivered to the bridge, and nothing else.
func (k *Keys) joinClaims(s Site) (*jwt.AccountClaims, error) {
	c, err := k.newClaims(s, roleJoin, s.Name+"-join")
	if err != nil {
		return nil, err
	}
	subject := streams.RequestSubject(s.Name, join.Verb)
	c.Imports.Add(serviceImport(k.fabric, subject, ""))
	c.Limits.Imports, c.Limits.Exports = 1, 0
	c.Limits.LeafNodeConn, c.Limits.Conn = maxJoins, maxJoins
	c.Limits.Subs, c.Limits.Payload = maxJoinSubscriptions, maxJoinPayload
	err = k.allow(c, s.Name, roleJoin, s.Join.Key, func(p *jwt.UserPermissionLimits) {
		p.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeLeafnode, jwt.ConnectionTypeLeafnodeWS}
		p.Pub.Allow = jwt.StringList{subject}
		p.Sub.Allow = jwt.StringList{"_INBOX_" + s.Name + ".>"}
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// newClaims returns the claims of a site's account for a role, without rights.
func (k *Keys) newClaims(s Site, role, name string) (*jwt.AccountClaims, error) {
	public, err := k.identity(s.Name, role)
	if err != nil {
		return nil, err
	}
	c := jwt.NewAccountClaims(public)
	c.Name = name
	c.Tags.Add(siteTag + s.Name)
	c.Limits.Subs, c.Limits.Payload = maxSubscriptions, maxPayload
	c.Limits.DisallowBearer = true
	return c, nil
}

// allow lists the signing keys of a user in an account. They have the permissions that permit sets.
func (k *Keys) allow(c *jwt.AccountClaims, site, role, user string, permit func(*jwt.UserPermissionLimits)) error {
	signers, err := k.signers(site, role, user)
	if err != nil {
		return err
	}
	for _, public := range signers {
		scope := jwt.NewUserScope()
		scope.Key, scope.Role = public, role
		permit(&scope.Template)
		c.SigningKeys.AddScopedSigner(scope)
	}
	return nil
}

// Sign returns claims as a JWT, signed by the operator's signing key.
func (k *Keys) Sign(c *jwt.AccountClaims) (string, error) {
	token, err := c.Encode(k.operator)
	if err != nil {
		return "", fmt.Errorf("sign account %s: %w", c.Name, err)
	}
	return token, nil
}

// GatewayToken returns the user JWT of a gateway. It is no secret: a connection needs the private
// key of the gateway as well. If before is such a JWT already, it is returned.
func (k *Keys) GatewayToken(site, gateway, before string) (string, error) {
	return k.token(site, roleGateway, gateway, before, time.Time{})
}

// OperatorToken is GatewayToken for one of a site's operators.
func (k *Keys) OperatorToken(site, operator, before string) (string, error) {
	return k.token(site, roleOperator, operator, before, time.Time{})
}

// JoinUserToken is GatewayToken for the key of a join token. The hub closes its connection when it
// expires.
func (k *Keys) JoinUserToken(site string, t JoinToken, before string) (string, error) {
	return k.token(site, roleJoin, t.Key, before, t.Expires)
}

// JoinSigner returns the key that signs the answers to requests with a join token.
func (k *Keys) JoinSigner(site, key string) (nkeys.KeyPair, error) {
	pair, _, err := k.signer(site, roleJoin, key)
	return pair, err
}

// token returns the user JWT of a user, which ends at expires unless that is zero.
func (k *Keys) token(site, role, user, before string, expires time.Time) (string, error) {
	signer, issuer, err := k.signer(site, role, user)
	if err != nil {
		return "", err
	}
	account, err := k.identity(site, role)
	if err != nil {
		return "", err
	}
	end := int64(0)
	if !expires.IsZero() {
		end = expires.Unix()
	}
	if c, err := jwt.DecodeUserClaims(before); err == nil && c.Issuer == issuer && c.IssuerAccount == account && c.Subject == user && c.Expires == end {
		return before, nil
	}
	c := jwt.NewUserClaims(user)
	c.Name, c.IssuerAccount, c.Expires = role+" of "+site, account, end
	if role == roleJoin {
		c.Name = join.UserName(site)
	}
	c.SetScoped(true) // the permissions are in the account
	token, err := c.Encode(signer)
	if err != nil {
		return "", fmt.Errorf("sign user %s of site %s: %w", user, site, err)
	}
	return token, nil
}

// FabricClaims returns the claims of the account FABRIC, which has JetStream and the bridge. Its
// exports are public: what a site may import is in its account, which the operator signs.
func FabricClaims(public string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(public)
	c.Name = FabricAccount
	c.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	c.Exports.Add(
		serviceExport("$JS.API.CONSUMER.RESET.DESIRED.*", jwt.ResponseTypeSingleton),
		serviceExport("$JS.API.CONSUMER.MSG.NEXT.DESIRED.*", jwt.ResponseTypeStream),
		serviceExport("$JS.ACK.DESIRED.*.>", jwt.ResponseTypeSingleton),
		&jwt.Export{Subject: "sync.*", Type: jwt.Stream},
		serviceExport("reported.*.>", jwt.ResponseTypeSingleton),
		serviceExport("telemetry.*.>", jwt.ResponseTypeSingleton),
		serviceExport(streams.PresenceFilter, jwt.ResponseTypeSingleton),
		serviceExport("request.*.>", jwt.ResponseTypeSingleton),
		&jwt.Export{Subject: "tunnel.*.>", Type: jwt.Stream},
		serviceExport("return.*.>", jwt.ResponseTypeSingleton),
	)
	return c
}

func serviceExport(subject string, response jwt.ResponseType) *jwt.Export {
	return &jwt.Export{Subject: jwt.Subject(subject), Type: jwt.Service, ResponseType: response}
}

// serviceImport returns an import of a subject, under the same name if local is empty.
func serviceImport(account, subject, local string) *jwt.Import {
	return &jwt.Import{Account: account, Type: jwt.Service, Subject: jwt.Subject(subject), LocalSubject: jwt.RenamingSubject(local)}
}

// Same reports whether two claims give an account the same rights, whenever and by whatever
// signing key they were signed.
func Same(a, b *jwt.AccountClaims) bool {
	return canonical(a) == canonical(b)
}

// canonical returns claims without what differs each time they are signed.
func canonical(c *jwt.AccountClaims) string {
	plain := *c
	plain.ClaimsData = jwt.ClaimsData{Name: c.Name, Subject: c.Subject, Expires: c.Expires, NotBefore: c.NotBefore}
	plain.GenericFields = jwt.GenericFields{Tags: c.Tags}
	plain.Imports, plain.Exports = slices.Clone(c.Imports), slices.Clone(c.Exports)
	sort.Sort(plain.Imports)
	sort.Sort(plain.Exports)
	data, err := json.Marshal(&plain)
	if err != nil {
		return "" // claims that were signed or decoded can be encoded
	}
	return string(data)
}
