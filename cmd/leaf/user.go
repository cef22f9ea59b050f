package main

import (
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"regexp"

	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/leaf/credential"
)

// userCommand is the argument with which leaf makes the credential of a user of leaf.conf.
const userCommand = "user"

var userName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

func runUser(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("leaf user", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: leaf user [-dir DIR] [-password] NAME\n\nMakes what authenticates NAME, a user of leaf.conf: DIR/NAME.conf, which leaf.conf includes, and\nDIR/NAME.nk, the seed of its nkey. What is there already is kept. Files have the mode 0600.\n\n")
		flags.PrintDefaults()
	}
	dir := flags.String("dir", "/etc/petiole/users", "`folder` of the credentials")
	password := flags.Bool("password", false, "a password instead of an nkey, for programs that use MQTT")
	if err := flags.Parse(args); err != nil {
		return configfile.ExitCode
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return configfile.ExitCode
	}
	name := flags.Arg(0)
	if !userName.MatchString(name) {
		fmt.Fprintf(stderr, "NAME: %q: must be lower case letters, digits and hyphens\n", name)
		return configfile.ExitCode
	}
	create, kind := credential.KeyUser, "its nkey, the seed beside it in "+name+".nk"
	if *password {
		create, kind = credential.PasswordUser, "its password"
	}
	if err := create(*dir, name); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintf(stdout, "%s: %s\n", filepath.Join(*dir, name+".conf"), kind)
	return 0
}
