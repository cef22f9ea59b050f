package streams

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// The first tokens of the subjects that cross the link, and of the local subjects that the
// leaf's own streams capture. No stream at the hub captures a local subject: if both ends
// stored it, the local acknowledgement would arrive first and the hub might never get the
// message.
const (
	desiredPrefix        = "desired"
	reportedPrefix       = "reported"
	telemetryPrefix      = "telemetry"
	presencePrefix       = "presence"
	requestPrefix        = "request"
	commandPrefix        = "command"
	syncPrefix           = "sync"
	tunnelPrefix         = "tunnel"
	returnPrefix         = "return"
	localReportedPrefix  = "local.reported"
	localTelemetryPrefix = "local.telemetry"

	// eventsToken is the resource of Events in a subject.
	eventsToken = "events"

	// partToken follows the object's subject in the subject of a part.
	partToken = "=part"

	// NoValue stands for an empty node, namespace or (core) group in a subject.
	NoValue = "_"
)

// ErrSubject reports a subject that this package does not define.
var ErrSubject = errors.New("not a petiole subject")

// Ref identifies a Kubernetes object in a subject. Node is the node that the object is
// bound to, empty for an object of the whole site. Group is empty for the core API group,
// Namespace for a cluster-scoped resource.
type Ref struct {
	Node, Group, Resource, Namespace, Name string
}

// String returns "resource.group namespace/name".
func (r Ref) String() string {
	s := r.Resource
	if r.Group != "" {
		s = r.Resource + "." + r.Group
	}
	if r.Namespace != "" {
		return s + " " + r.Namespace + "/" + r.Name
	}
	return s + " " + r.Name
}

// Validate returns an error for the first field that cannot be part of a subject.
func (r Ref) Validate() error {
	switch {
	case r.Resource == "":
		return fmt.Errorf("resource is empty in %+v: %w", r, ErrSubject)
	case r.Name == "":
		return fmt.Errorf("name is empty in %+v: %w", r, ErrSubject)
	}
	return nil
}

func (r Ref) tokens() string {
	return strings.Join([]string{
		EscapeToken(r.Node), EscapeToken(r.Group), EscapeToken(r.Resource), EscapeToken(r.Namespace), EscapeToken(r.Name),
	}, ".")
}

func parseRef(tokens []string) (Ref, error) {
	if len(tokens) != 5 {
		return Ref{}, fmt.Errorf("%d tokens where node.group.resource.namespace.name has 5: %w", len(tokens), ErrSubject)
	}
	var v [5]string
	for i, t := range tokens {
		s, err := UnescapeToken(t)
		if err != nil {
			return Ref{}, err
		}
		v[i] = s
	}
	r := Ref{Node: v[0], Group: v[1], Resource: v[2], Namespace: v[3], Name: v[4]}
	return r, r.Validate()
}

// DesiredSubject returns the subject on which the bridge publishes an object for a site.
func DesiredSubject(site string, r Ref) string {
	return desiredPrefix + "." + EscapeToken(site) + "." + r.tokens()
}

// DesiredFilter matches all objects that are desired at a site.
func DesiredFilter(site string) string { return desiredPrefix + "." + EscapeToken(site) + ".>" }

// DesiredResourceFilter matches the objects of one resource at a site: those of one node,
// of the whole site (node NoValue) or of any node (node "*").
func DesiredResourceFilter(site, node, group, resource string) string {
	if node != "*" && node != NoValue {
		node = EscapeToken(node)
	}
	return strings.Join([]string{desiredPrefix, EscapeToken(site), node, EscapeToken(group), EscapeToken(resource), ">"}, ".")
}

// ReportedSubject returns the subject on which a site's forwarder publishes the state of an
// object at the hub.
func ReportedSubject(site string, r Ref) string {
	return reportedPrefix + "." + EscapeToken(site) + "." + r.tokens()
}

// LocalReportedSubject returns the subject on which a producer at a site reports the state
// of an object.
func LocalReportedSubject(r Ref) string { return localReportedPrefix + "." + r.tokens() }

// LocalEventsFilter matches the Events that producers at a site report, and parts of large ones.
const LocalEventsFilter = localReportedPrefix + ".*.*." + eventsToken + ".>"

// IsLocalEvent reports whether LocalEventsFilter matches a subject.
func IsLocalEvent(subject string) bool {
	rest, ok := strings.CutPrefix(subject, localReportedPrefix+".")
	t := strings.SplitN(rest, ".", 4)
	return ok && len(t) == 4 && t[2] == eventsToken
}

// LocalTelemetrySubject returns the subject on which a producer at a site publishes records
// of a kind ("sample", "audit", ...) about a source, for example ("sample", namespace,
// device).
func LocalTelemetrySubject(kind string, source ...string) string {
	return localTelemetryPrefix + "." + joinEscaped(kind, source)
}

// SampleKind is the kind of samples in LocalTelemetrySubject, the only one that may be thinned.
const SampleKind = "sample"

// LocalTelemetryFilter matches all records that wait at a site, of one kind or ("") of any.
func LocalTelemetryFilter(kind string) string {
	if kind == "" {
		return localTelemetryPrefix + ".>"
	}
	return localTelemetryPrefix + "." + EscapeToken(kind) + ".>"
}

// TelemetrySubject returns the subject of the same records at the hub.
func TelemetrySubject(site, kind string, source ...string) string {
	return telemetryPrefix + "." + EscapeToken(site) + "." + joinEscaped(kind, source)
}

// ReportedFilter matches all reports of a site.
func ReportedFilter(site string) string { return reportedPrefix + "." + EscapeToken(site) + ".>" }

// QuarantineFilter matches what the bridge has moved to Quarantine of a site's reports.
func QuarantineFilter(site string) string { return "quarantine." + ReportedFilter(site) }

// ReportedPartsFilter matches the parts of the large objects in a site's reports.
func ReportedPartsFilter(site string) string {
	return reportedPrefix + "." + EscapeToken(site) + ".*.*.*.*.*." + partToken + ".*"
}

// ReportedSite returns the site of a subject of a report, even if the subject does not name
// an object.
func ReportedSite(subject string) (string, error) {
	t := strings.Split(subject, ".")
	if len(t) < 2 || t[0] != reportedPrefix {
		return "", fmt.Errorf("subject %q is not below %s: %w", subject, reportedPrefix, ErrSubject)
	}
	site, err := UnescapeToken(t[1])
	if err == nil && site == "" {
		err = fmt.Errorf("subject %q has no site: %w", subject, ErrSubject)
	}
	return site, err
}

// PresenceFilter and RequestFilter match the heartbeats and the requests of all sites.
const (
	PresenceFilter = presencePrefix + ".*"
	RequestFilter  = requestPrefix + ".*.*"
)

// PresenceSubject returns the subject of a site's heartbeats, which are not stored.
func PresenceSubject(site string) string { return presencePrefix + "." + EscapeToken(site) }

// SiteOfPresence returns the site in the subject of a heartbeat.
func SiteOfPresence(subject string) (string, error) { return siteOf(presencePrefix, subject) }

// RequestSubject returns the subject on which a site sends a request to the bridge.
func RequestSubject(site, verb string) string {
	return requestPrefix + "." + EscapeToken(site) + "." + EscapeToken(verb)
}

// ParseRequest is the inverse of RequestSubject.
func ParseRequest(subject string) (site, verb string, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 3 || t[0] != requestPrefix {
		return "", "", fmt.Errorf("request subject %q: %w", subject, ErrSubject)
	}
	if site, err = UnescapeToken(t[1]); err != nil {
		return "", "", err
	}
	verb, err = UnescapeToken(t[2])
	return site, verb, err
}

// CommandSubject returns the subject on which a device of a site accepts commands: requests
// that are not stored, in the site's account, from the hub or at the site itself.
func CommandSubject(site, namespace, device string) string {
	return commandPrefix + "." + EscapeToken(site) + "." + EscapeToken(namespace) + "." + EscapeToken(device)
}

// CommandFilter matches the commands to all devices of a site.
func CommandFilter(site string) string { return commandPrefix + "." + EscapeToken(site) + ".*.*" }

// ParseCommand is the inverse of CommandSubject.
func ParseCommand(subject string) (site, namespace, device string, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 4 || t[0] != commandPrefix {
		return "", "", "", fmt.Errorf("command subject %q: %w", subject, ErrSubject)
	}
	var v [3]string
	for i := range v {
		if v[i], err = UnescapeToken(t[i+1]); err != nil {
			return "", "", "", fmt.Errorf("command subject %q: %w", subject, err)
		}
	}
	return v[0], v[1], v[2], nil
}

// TelemetryFilter matches all records of a site at the hub.
func TelemetryFilter(site string) string { return telemetryPrefix + "." + EscapeToken(site) + ".>" }

// SyncSubject returns the subject on which the bridge sends a connected site instructions
// that are not stored (HeaderControl).
func SyncSubject(site string) string { return syncPrefix + "." + EscapeToken(site) }

// ForwardSubject returns the subject at the hub on which the forwarder publishes a message
// of a local subject.
func ForwardSubject(site, local string) (string, error) {
	for l, h := range map[string]string{localReportedPrefix: reportedPrefix, localTelemetryPrefix: telemetryPrefix} {
		if rest, ok := strings.CutPrefix(local, l+"."); ok && rest != "" {
			return h + "." + EscapeToken(site) + "." + rest, nil
		}
	}
	return "", fmt.Errorf("local subject %q: %w", local, ErrSubject)
}

// ParseDesired is the inverse of DesiredSubject.
func ParseDesired(subject string) (site string, r Ref, err error) {
	return parseObject(desiredPrefix, subject)
}

// ParseReported is the inverse of ReportedSubject.
func ParseReported(subject string) (site string, r Ref, err error) {
	return parseObject(reportedPrefix, subject)
}

// ParseLocalReported is the inverse of LocalReportedSubject.
func ParseLocalReported(subject string) (Ref, error) {
	rest, ok := strings.CutPrefix(subject, localReportedPrefix+".")
	if !ok {
		return Ref{}, fmt.Errorf("subject %q is not below %s: %w", subject, localReportedPrefix, ErrSubject)
	}
	r, err := parseRef(strings.Split(rest, "."))
	if err != nil {
		return Ref{}, fmt.Errorf("subject %q: %w", subject, err)
	}
	return r, nil
}

// IsPart reports whether a subject is that of a part of a large object. A consumer
// acknowledges such a message and goes on: Load reads the parts.
func IsPart(subject string) bool { return strings.Contains(subject, "."+partToken+".") }

// ParsePart splits the subject of a part of a reported object into the object's subject
// and the part's index. It returns ErrSubject for a subject that is not that of a part.
func ParsePart(subject string) (object string, index int, err error) {
	object = ObjectSubject(subject)
	if _, _, err := ParseReported(object); err != nil {
		return "", 0, err
	}
	index, err = strconv.Atoi(subject[strings.LastIndexByte(subject, '.')+1:])
	if err != nil || index < 0 || index >= MaxBatch || PartSubject(object, index) != subject {
		return "", 0, fmt.Errorf("subject %q is no part of %s: %w", subject, object, ErrSubject)
	}
	return object, index, nil
}

// PartSubject returns the subject of the part with index i of the object with the given
// subject.
func PartSubject(subject string, i int) string {
	return fmt.Sprintf("%s.%s.%d", subject, partToken, i)
}

func parseObject(prefix, subject string) (string, Ref, error) {
	t := strings.Split(subject, ".")
	if len(t) < 2 || t[0] != prefix {
		return "", Ref{}, fmt.Errorf("subject %q is not below %s: %w", subject, prefix, ErrSubject)
	}
	site, err := UnescapeToken(t[1])
	if err != nil {
		return "", Ref{}, fmt.Errorf("subject %q: %w", subject, err)
	}
	if site == "" {
		return "", Ref{}, fmt.Errorf("subject %q has no site: %w", subject, ErrSubject)
	}
	r, err := parseRef(t[2:])
	if err != nil {
		return "", Ref{}, fmt.Errorf("subject %q: %w", subject, err)
	}
	return site, r, nil
}

func siteOf(prefix, subject string) (string, error) {
	t := strings.Split(subject, ".")
	if len(t) != 2 || t[0] != prefix {
		return "", fmt.Errorf("subject %q is not %s.<site>: %w", subject, prefix, ErrSubject)
	}
	return UnescapeToken(t[1])
}

func joinEscaped(kind string, source []string) string {
	t := make([]string, 0, len(source)+1)
	t = append(t, EscapeToken(kind))
	for _, s := range source {
		t = append(t, EscapeToken(s))
	}
	return strings.Join(t, ".")
}

// CheckNodeName returns what is wrong with a name for a node, and nothing if it can be one: a DNS
// subdomain (RFC 1123) as Kubernetes requires it, of at most 63 characters, because it is also the value
// of the label kubernetes.io/hostname.
func CheckNodeName(name string) []string {
	problems := validation.IsDNS1123Subdomain(name)
	if len(name) > validation.LabelValueMaxLength {
		problems = append(problems, validation.MaxLenError(validation.LabelValueMaxLength))
	}
	return problems
}
