package accounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/internal/durable"
)

// previousSuffix is added to the name of a file that Rotate has replaced, until FinishRotation.
const previousSuffix = ".previous"

// Errors of Rotate and FinishRotation.
var (
	// ErrNotRotated reports a file that Rotate cannot replace.
	ErrNotRotated = errors.New("cannot be replaced")
	// ErrRotating reports that a rotation is not finished, or that none is under way.
	ErrRotating = errors.New("rotation")
	// ErrStillUsed reports accounts at the hub that the previous key has signed.
	ErrStillUsed = errors.New("the previous key is still in use")
)

// signers are the keys that sign users, and credentials those users, by the account.
var (
	signers     = map[string]string{FabricKeyFile: FabricAccount, SystemKeyFile: SystemAccount}
	credentials = map[string]string{BridgeCreds: FabricAccount, AdminCreds: FabricAccount, AccountsCreds: SystemAccount, SystemCreds: SystemAccount}
)

// Rotatable returns the names of the files that Rotate can replace, sorted.
func Rotatable() []string {
	names := []string{SigningKeyFile, SiteKeyFile}
	for _, of := range []map[string]string{signers, credentials} {
		for name := range of {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Rotate replaces files that WriteHub has created in dir. The former ones stay valid, beside the new
// ones with the suffix .previous, until FinishRotation. A signing key of an account replaces the
// account's credentials, too. The folder must have OperatorKeyFile for a new SigningKeyFile, and the
// signing key of the account for new credentials. The hub takes the new keys when it is restarted
// with the new OperatorConf. If Rotate is interrupted, it can be called again.
//
// A new SiteKeyFile changes nothing at the hub: the bridge that has it signs the JWTs of users with the
// new key, and accepts the former ones as well until it has the file that FinishRotation leaves. The
// accounts keep their public keys, which sign nothing.
func Rotate(dir string, names ...string) error {
	h, err := openHub(dir)
	if err != nil {
		return err
	}
	files, err := h.toRotate(names)
	if err != nil {
		return err
	}
	fresh := map[string][]byte{}
	// Keys first: they sign what follows.
	for _, name := range files {
		if _, isUser := credentials[name]; isUser {
			continue
		}
		add := h.addKey
		if name == SiteKeyFile {
			add = h.addSiteKey
		}
		if fresh[name], err = add(name); err != nil {
			return err
		}
	}
	for _, name := range files {
		account, isUser := credentials[name]
		if !isUser {
			continue
		}
		signer := signerOf(account)
		if h.keys[signer] == nil {
			if h.keys[signer], err = readSeed(filepath.Join(dir, signer), nkeys.PrefixByteAccount, "an account key, SA…"); err != nil {
				return err
			}
		}
		if fresh[name], err = h.newUser(name, h.accounts[account].Subject, signer); err != nil {
			return err
		}
	}
	if err := h.writeConfFor(files); err != nil {
		return err
	}
	for _, name := range files {
		path := filepath.Join(dir, name)
		// The rename and the new file: if this ends in between, the former one is there.
		if err := os.Rename(path, path+previousSuffix); err != nil {
			return fmt.Errorf("keep the former %s: %w", name, err)
		}
		if err := h.write(name, fresh[name]); err != nil {
			return err
		}
	}
	return nil
}

// FinishRotation ends the validity of what Rotate has replaced, and removes those files. The hub
// refuses them when it is restarted with the new OperatorConf. It returns ErrStillUsed if the hub's
// resolver, whose folder OperatorConf names, has accounts that the previous signing key has signed:
// they would be refused. It finishes the rotation of the named files, without names that of all but
// SiteKeyFile, which waits for a visit to each gateway.
func FinishRotation(dir string, names ...string) error {
	h, err := openHub(dir)
	if err != nil {
		return err
	}
	var files []string
	for _, name := range Rotatable() {
		wanted := slices.Contains(names, name) || len(names) == 0 && name != SiteKeyFile
		if wanted && exists(filepath.Join(dir, name+previousSuffix)) {
			files = append(files, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(files, name) {
			return fmt.Errorf("%w of %s is not under way: %s has no file %s", ErrRotating, name, dir, name+previousSuffix)
		}
	}
	if len(files) == 0 {
		return fmt.Errorf("%w: none is under way: %s has no file *%s, other than of %s, which must be named", ErrRotating, dir, previousSuffix, SiteKeyFile)
	}
	for _, name := range files {
		if err := h.end(name); err != nil {
			return err
		}
	}
	if err := h.writeConfFor(files); err != nil {
		return err
	}
	for _, name := range files {
		if err := os.Remove(filepath.Join(dir, name+previousSuffix)); err != nil {
			return fmt.Errorf("remove the former %s: %w", name, err)
		}
	}
	return nil
}

func signerOf(account string) string {
	for name, of := range signers {
		if of == account {
			return name
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// rotation is what OperatorConf of an existing hub has.
type rotation struct {
	hubFiles
	conf     string
	operator *jwt.OperatorClaims
	// accounts and tokens are those of SystemAccount and FabricAccount by name.
	accounts map[string]*jwt.AccountClaims
	tokens   map[string]string
	// operatorToken is the operator's JWT, operatorChanged is true if it must be signed again.
	operatorToken   string
	operatorChanged bool
	// resolver is the folder in which the hub keeps the accounts.
	resolver string
}

var (
	operatorLine = regexp.MustCompile(`(?m)^operator: "([^"]+)"`)
	preloadLine  = regexp.MustCompile(`(?m)^\s*A[A-Z2-7]{55}: "([^"]+)"`)
	resolverLine = regexp.MustCompile(`(?m)^resolver \{[^}]*\bdir: "([^"]+)"`)
)

// openHub reads OperatorConf.
func openHub(dir string) (*rotation, error) {
	path := filepath.Join(dir, OperatorConf)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the hub's operator: %w", err)
	}
	h := &rotation{
		hubFiles: hubFiles{dir: dir, keys: map[string]nkeys.KeyPair{}}, conf: string(data),
		accounts: map[string]*jwt.AccountClaims{}, tokens: map[string]string{},
	}
	found := operatorLine.FindStringSubmatch(h.conf)
	if found == nil {
		return nil, fmt.Errorf("%s: %w: it has no line 'operator: \"…\"'", path, ErrKey)
	}
	h.operatorToken = found[1]
	if h.operator, err = jwt.DecodeOperatorClaims(found[1]); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrKey, err)
	}
	for _, found := range preloadLine.FindAllStringSubmatch(h.conf, -1) {
		c, err := jwt.DecodeAccountClaims(found[1])
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", path, ErrKey, err)
		}
		h.accounts[c.Name], h.tokens[c.Name] = c, found[1]
	}
	for _, name := range []string{SystemAccount, FabricAccount} {
		if h.accounts[name] == nil {
			return nil, fmt.Errorf("%s: %w: resolver_preload has no account %s", path, ErrKey, name)
		}
	}
	if found := resolverLine.FindStringSubmatch(h.conf); found != nil {
		h.resolver = found[1]
	}
	return h, nil
}

// toRotate returns the files to replace, sorted.
func (h *rotation) toRotate(names []string) ([]string, error) {
	var files []string
	for _, name := range names {
		if !slices.Contains(Rotatable(), name) {
			return nil, fmt.Errorf("%s %w: want %s", name, ErrNotRotated, strings.Join(Rotatable(), ", "))
		}
		files = append(files, name)
		for user, account := range credentials {
			if signers[name] == account {
				files = append(files, user)
			}
		}
	}
	slices.Sort(files)
	files = slices.Compact(files)
	for _, name := range files {
		path := filepath.Join(h.dir, name)
		switch previous := exists(path + previousSuffix); {
		case previous && exists(path):
			return nil, fmt.Errorf("%w of %s is not finished: %s exists", ErrRotating, name, path+previousSuffix)
		case previous:
			// An earlier call ended between the two.
			if err := os.Rename(path+previousSuffix, path); err != nil {
				return nil, fmt.Errorf("take back the former %s: %w", name, err)
			}
		case !exists(path):
			return nil, fmt.Errorf("%s: %w: copy it there, its validity must be ended later", path, fs.ErrNotExist)
		}
	}
	return files, nil
}

// addKey creates another signing key and adds it to the operator or to its account.
func (h *rotation) addKey(name string) ([]byte, error) {
	create := nkeys.CreateAccount
	if name == SigningKeyFile {
		create = nkeys.CreateOperator
	}
	pair, err := create()
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	h.keys[name] = pair
	if account, ok := signers[name]; ok {
		h.accounts[account].SigningKeys.Add(h.public(name))
	} else {
		h.operator.SigningKeys.Add(h.public(name))
		h.operatorChanged = true
	}
	return append(seed, '\n'), nil
}

// addSiteKey creates another key that signs the users of sites, and returns the file that has it after
// the one that the accounts' public keys are derived from and the one that has signed until now.
func (h *rotation) addSiteKey(name string) ([]byte, error) {
	seeds, err := readSiteSeeds(filepath.Join(h.dir, name))
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.CreateAccount()
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	return siteKeyFile(seeds[0], seeds[len(seeds)-1], string(seed)), nil
}

// endSiteKey leaves the key of the accounts' public keys and the one that signs.
func (h *rotation) endSiteKey(name string) error {
	seeds, err := readSiteSeeds(filepath.Join(h.dir, name))
	if err != nil {
		return err
	}
	return h.write(name, siteKeyFile(seeds[0], seeds[len(seeds)-1]))
}

func siteKeyFile(seeds ...string) []byte { return []byte(strings.Join(seeds, "\n") + "\n") }

// end takes the validity from the former file of a name.
func (h *rotation) end(name string) error {
	if name == SiteKeyFile {
		return h.endSiteKey(name)
	}
	path := filepath.Join(h.dir, name+previousSuffix)
	if account, isUser := credentials[name]; isUser {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read credentials: %w", err)
		}
		token, err := jwt.ParseDecoratedJWT(data)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", path, ErrKey, err)
		}
		user, err := jwt.DecodeUserClaims(token)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", path, ErrKey, err)
		}
		h.accounts[account].Revoke(user.Subject)
		return nil
	}
	kind, want := nkeys.PrefixByteAccount, "an account key, SA…"
	if name == SigningKeyFile {
		kind, want = nkeys.PrefixByteOperator, "an operator's signing key, SO…"
	}
	pair, err := readSeed(path, kind, want)
	if err != nil {
		return err
	}
	public, err := pair.PublicKey()
	if err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrKey, err)
	}
	if account, ok := signers[name]; ok {
		delete(h.accounts[account].SigningKeys, public)
		return nil
	}
	if err := h.checkUnused(public); err != nil {
		return err
	}
	h.operator.SigningKeys.Remove(public)
	h.operatorChanged = true
	return nil
}

// checkUnused returns an error if the hub has accounts that a key of the operator has signed. It
// leaves out those of OperatorConf, which is written again.
func (h *rotation) checkUnused(key string) error {
	if h.resolver == "" {
		return nil
	}
	var used []string
	err := filepath.WalkDir(h.resolver, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".jwt" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		c, err := jwt.DecodeAccountClaims(string(data))
		if err != nil {
			return fmt.Errorf("%s: %w: %w", path, ErrKey, err)
		}
		if c.Issuer == key && h.accounts[c.Name] == nil {
			used = append(used, c.Name)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w? The folder of the hub's accounts, %s, is not here: run this where the hub runs", ErrStillUsed, h.resolver)
	}
	if err != nil {
		return fmt.Errorf("look for accounts of the previous key: %w", err)
	}
	if len(used) > 0 {
		const few = 5
		return fmt.Errorf("%w: it has signed %d accounts at the hub, of %s; restart the bridge with the new %s and wait until all Sites are AccountReady",
			ErrStillUsed, len(used), strings.Join(used[:min(few, len(used))], ", "), SigningKeyFile)
	}
	return nil
}

// maxClockSkew is how far the clock may be behind the one that signed OperatorConf.
const maxClockSkew = 10 * time.Second

// awaitNewer waits until what is signed now is newer than OperatorConf. The hub takes no notice of
// other claims: their time has seconds.
func (h *rotation) awaitNewer() error {
	issued := h.operator.IssuedAt
	for _, c := range h.accounts {
		issued = max(issued, c.IssuedAt)
	}
	wait := time.Until(time.Unix(issued+1, 0))
	if wait > maxClockSkew {
		return fmt.Errorf("%s was signed %v in the future: set the clock", filepath.Join(h.dir, OperatorConf), wait.Round(time.Second))
	}
	time.Sleep(wait)
	return nil
}

// writeConfFor is writeConf, unless no file that is replaced is of the hub.
func (h *rotation) writeConfFor(files []string) error {
	if slices.Equal(files, []string{SiteKeyFile}) {
		return nil
	}
	return h.writeConf()
}

// writeConf signs what has changed, and writes OperatorConf.
func (h *rotation) writeConf() error {
	if err := h.awaitNewer(); err != nil {
		return err
	}
	conf := h.conf
	if h.operatorChanged {
		identity, err := readSeed(filepath.Join(h.dir, OperatorKeyFile), nkeys.PrefixByteOperator, "the operator, SO…")
		if err != nil {
			return err
		}
		token, err := h.operator.Encode(identity)
		if err != nil {
			return fmt.Errorf("sign operator: %w", err)
		}
		conf = strings.Replace(conf, h.operatorToken, token, 1)
	}
	if h.keys[SigningKeyFile] == nil {
		pair, err := readSeed(filepath.Join(h.dir, SigningKeyFile), nkeys.PrefixByteOperator, "an operator's signing key, SO…")
		if err != nil {
			return err
		}
		h.keys[SigningKeyFile] = pair
	}
	for name, c := range h.accounts {
		token, err := c.Encode(h.keys[SigningKeyFile])
		if err != nil {
			return fmt.Errorf("sign account %s: %w", name, err)
		}
		conf = strings.Replace(conf, h.tokens[name], token, 1)
	}
	path := filepath.Join(h.dir, OperatorConf)
	if err := durable.WriteFile(path, []byte(conf), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
