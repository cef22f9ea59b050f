// Package site shows people how the sites are: it writes the status, the conditions and the
// Events of each Site and its metrics, and answers Backlog objects.
//
// The status follows from what other rooms know: the site's consumer at the hub, its
// heartbeats and its comparisons. Events follow from two statuses, so that successive bridges
// do not repeat them. The bridge runs one Controller and one Backlogs while it leads. Nothing
// here changes what a site receives.
package site
