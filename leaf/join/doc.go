// Package join makes a machine the gateway of a site, with a token of `kubectl petiole site
// create`, and undoes that.
//
// Run checks the machine, creates the gateway's key, which never leaves it, has the bridge add
// it to the Site (streams/join), writes the configuration of the leaf and starts it. It
// guarantees that nothing is left on the machine when the bridge was not asked or has refused,
// that a join which was interrupted after that is completed by the same command, and that files
// of a person are not overwritten. Reset removes what Run has written.
//
// It does not run the leaf, and it installs neither container runtime nor network plugins.
// The command `leaf join` calls it.
package join
