package bridgetest

import "testing"

// TestBridge runs all tests one after the other at one API server.
func TestBridge(t *testing.T) {
	a := startAPI(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *api)
	}{
		{"RegistersNodesAndPublishesTheirClosure", registersAndPublishes},
		{"PublishesOnlyRealChanges", publishesOnlyRealChanges},
		{"DeliversWhatItMissed", deliversWhatItMissed},
		{"RemovesTombstonesThatTheSiteHasStored", removesTombstones},
		{"WritesPodStatusOfTheRightUID", writesPodStatus},
		{"RepairsOnlyForNodesThatAreHeard", repairsForTheHeard},
		{"CarriesOutFinalDeletions", deletesPods},
		{"WritesEventsCSINodesAndMirrorPods", writesTheRest},
		{"WritesDeviceStatus", writesDeviceStatus},
		{"HandsOutTokens", handsOutTokens},
		{"SetsPoisonAside", setsPoisonAside},
		{"KeepsSitesApart", keepsSitesApart},
		{"RenewsLeasesOfTheLiving", renewsLeases},
		{"SaysThatASiteIsSilent", saysSilent},
		{"RemovesASite", removesASite},
		{"TakesInASiteThatComesLate", lateSite},
		{"WaitsForTheHub", waitsForTheHub},
		{"HasOneLeader", oneLeader},
		{"DeliversLargeObjects", largeObjects},
		{"ActsByClassicImpersonation", actsByClassicImpersonation},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, a) })
	}
}
