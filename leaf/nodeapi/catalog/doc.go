// Package catalog knows the resources that a site's node API serves: the built-in ones, with
// their verbs and the reasons for rejecting other writes, and what discovery tells about
// them. It also parses the paths of requests.
//
// The node API calls it. It is pure: it holds no object and does no I/O.
package catalog
