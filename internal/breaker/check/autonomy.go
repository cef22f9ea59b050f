package check

// autonomy judges I18: the container of a pod that nobody deletes is never stopped and
// never replaced, whatever dies around it.
type autonomy map[string]Event

func (a autonomy) observe(e Event) []Violation {
	if e.Kind != Runs {
		return nil
	}
	was, known := a[e.Object]
	a[e.Object] = e
	if known && (was.Digest != e.Digest || was.UID != e.UID) {
		return violation("I18", "%s of %s runs in container %.12s (UID %s), and ran in %.12s (UID %s)", e.Object, e.Site, e.Digest, e.UID, was.Digest, was.UID)
	}
	return nil
}

func (a autonomy) finish() []Violation { return nil }
