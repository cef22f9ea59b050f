// Package names decides which Site has which node name.
//
// A name belongs to a Site from the moment that SiteNodes.Names lists it or a node of that name
// registers, and is recorded in the Site's status before the node is created. It stays the
// Site's when its Node is deleted, and is free again when the Site is deleted, or when the Site
// no longer allows it and no such Node exists. Of two Sites that want one name the one that has
// it keeps it; if none has it, the older Site gets it.
//
// The bridge has one Registry. bridge/writeback claims a name before it registers a node,
// bridge/site records the names of each Site with its status.
package names
