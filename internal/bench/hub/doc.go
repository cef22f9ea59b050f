// Package hub measures what the layout of the hub's streams costs: REPORTED and TELEMETRY
// shared by all sites, or a stream for each site. For each layout and number of sites it
// starts the stock nats-server with the deployed durability (sync_interval: always), and
// prints memory, goroutines, files, the time of start and graceful shutdown, the publish
// rate, what it costs to follow all sites, and the publish latency of 99 quiet sites while
// one floods the hub, keeps atomic batches open, or fills its limit.
//
// cmd/bench calls it, and the tests of internal/lab/fabric use its attacks.
// docs/decisions/0019-streams-per-site.md has its figures.
package hub
