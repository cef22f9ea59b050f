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
		{"RepairsWhatASiteLost", repairsWhatASiteLost},
		{"ResyncsOnRequest", resyncsOnRequest},
		{"ResyncsASiteThatIsAway", resyncsASiteThatIsAway},
		{"ResyncsAfterRepeatedMismatch", resyncsAfterRepeatedMismatch},
		{"RestoresWhatTheHubLost", restoresWhatTheHubLost},
		{"AnswersBehindUntilTheSiteHasAll", answersBehind},
		{"RefusesForgedManifests", refusesForgedManifests},
		{"AnswersPositions", answersPositions},
		{"DeliversToASiteThatWasAway", deliversToASiteThatWasAway},
		{"SurvivesAStormOfChanges", stormOfChanges},
		{"FleetReconnectsWithoutLists", fleetReconnects},
		{"LeaderFlaps", leaderFlaps},
		{"StoppedLeaderReturns", stoppedLeaderReturns},
		{"TakesOverWithin15s", takesOver},
		{"LateWritesAreRefused", lateWritesAreRefused},
		{"FindsMessagesOfOtherBridges", foreignMessagesAreFound},
		{"RelistsAfterExpiry", relistsAfterExpiry},
		{"SurvivesABadAPIServer", survivesABadAPIServer},
		{"SurvivesMissingRoles", survivesMissingRoles},
		{"KilledHubBringsNoOlderReportBack", killedHubBringsNothingBack},
		{"RecreatesUnderOneName", recreatesUnderOneName},
		{"SurvivesARestartOfTheAPIServer", survivesARestartOfTheAPIServer},
		{"TombstonesWaitForTheSite", tombstonesWaitForTheSite},
		{"FloodOfOneSiteHoldsUpNobody", floodOfOneSite},
		{"PutOffReportsArrive", putOffReportsArrive},
		{"SilentSitesTakeNoPlace", silentSitesTakeNoPlace},
		{"BoundsWhatASiteSends", boundsWhatASiteSends},
		{"ObjectThatMovedBackBeginsAnEpoch", objectMovedBack},
		{"EtcdRestoredWhileRunning", etcdRestoredWhileRunning},
		{"EtcdRestoredWhileDown", etcdRestoredWhileDown},
		{"EpochSurvivesRestarts", epochSurvivesRestarts},
		// The last: who may impersonate in the classic way is not asked about the other.
		{"ActsByClassicImpersonation", actsByClassicImpersonation},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, a) })
	}
}
