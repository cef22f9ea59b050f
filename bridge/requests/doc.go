// Package requests answers the requests of sites: tokens of service accounts, requests for
// certificates of pods, comparisons of inventories, and how much of a leaf's stream the hub has stored.
//
// Each verb has its own workers and its own queue, of which one site can occupy a share only.
// A request is answered at once or not at all; the site retries. The bridge runs one Server
// while it leads, and gives it a Handler for each verb.
package requests
