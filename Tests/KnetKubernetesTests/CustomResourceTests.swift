import APIDouble
import KnetCore
import Testing

@testable import KnetKubernetes

/// A kind that the API server has only where its CustomResourceDefinition is installed.
@Suite struct CustomResourceTests {
    private static let kind = ObjectKey.Kind.clusterNetworkPolicy

    private func followed(
        isInstalled: Bool, timing: Timing = Follower.quick,
        _ body: @Sendable (APIDouble, Follower) async throws -> Void
    ) async throws {
        try await withKubeconfig { kubeconfig in
            let double = try await APIDouble.start()
            if isInstalled {
                double.register(.clusterNetworkPolicies)
                try double.put(Example.object(Self.kind, "c", value: 1))
            }
            let follower = Follower(double, kinds: [Self.kind], kubeconfig: kubeconfig, timing: timing)
            try await follower.run { try await body(double, follower) }
            await double.stop()
        }
    }

    private static func eventually(
        sourceLocation: SourceLocation = #_sourceLocation, _ condition: @Sendable () -> Bool
    ) async throws {
        let deadline = ContinuousClock.now + .seconds(5)
        while !condition(), ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(2)) }
        #expect(condition(), sourceLocation: sourceLocation)
    }

    /// Nothing is there, and nothing is wrong.
    private static func isAbsent(_ follower: Follower) -> Bool {
        let (state, report) = (follower.store.current, follower.reflectors[0].report)
        return state.isComplete([kind]) && state.clusterNetworkPolicies.isEmpty && report.isLive
            && report.trouble == nil
    }

    @Test func whereItIsInstalledItIsFollowedInJSON() async throws {
        try await followed(isInstalled: true) { double, follower in
            await follower.agrees(with: double)
            #expect(double.requests.first?.accept == "application/json")
            try double.put(Example.object(Self.kind, "c", value: 2))
            try double.put(Example.object(Self.kind, "d", value: 3))
            await follower.agrees(with: double)
            double.delete(.clusterNetworkPolicies, name: "c")
            await follower.agrees(with: double)
            #expect(follower.store.current.clusterNetworkPolicies.count == 1)
        }
    }

    @Test func whereItIsNotInstalledThereAreNoneAndThatIsNoTrouble() async throws {
        var timing = Follower.quick
        timing.absence = .seconds(60)
        try await followed(isInstalled: false, timing: timing) { double, follower in
            try await Self.eventually { Self.isAbsent(follower) }
            try await Task.sleep(for: .milliseconds(200))
            #expect(double.requests.map(\.code) == [404], "it is asked for again only after a while")
        }
    }

    @Test func whatIsInstalledLaterIsFollowed() async throws {
        try await followed(isInstalled: false) { double, follower in
            try await Self.eventually { Self.isAbsent(follower) }
            double.register(.clusterNetworkPolicies)
            try double.put(Example.object(Self.kind, "c", value: 1))
            await follower.agrees(with: double)
            #expect(follower.store.current.clusterNetworkPolicies.count == 1)
        }
    }

    @Test func whatIsTakenAwayAgainIsGone() async throws {
        try await followed(isInstalled: true) { double, follower in
            await follower.agrees(with: double)
            double.faults.unknown = [APIDouble.Resource.clusterNetworkPolicies.name]
            try await double.restart()
            try await Self.eventually { Self.isAbsent(follower) }
            double.faults = .none
            await follower.agrees(with: double)
            #expect(follower.store.current.clusterNetworkPolicies.count == 1)
        }
    }

    @Test func anotherKindThatIsMissingIsTrouble() async throws {
        try await withKubeconfig { kubeconfig in
            let double = try await APIDouble.start()
            double.faults.unknown = [APIDouble.Resource.networkPolicies.name]
            let follower = Follower(double, kinds: [.networkPolicy], kubeconfig: kubeconfig)
            try await follower.run {
                try await Self.eventually { follower.reflectors[0].report.trouble?.kind == .notServed }
                #expect(!follower.store.current.isComplete([.networkPolicy]))
            }
            await double.stop()
        }
    }

    @Test func oneThatCannotBeReadIsNamedAndKeepsNoOtherBack() async throws {
        try await followed(isInstalled: true) { double, follower in
            await follower.agrees(with: double)
            var bad = Example.object(Self.kind, "bad", value: 1).object ?? [:]
            bad["spec"] = ["priority": "high"]
            try double.put(.object(bad))
            try double.put(Example.object(Self.kind, "d", value: 2))
            try await Self.eventually { follower.store.current.clusterNetworkPolicies.count == 2 }
            #expect(follower.faults.count == 1)
            let fault = follower.faults.first ?? ""
            #expect(fault.hasPrefix("ClusterNetworkPolicy/bad: ") && fault.contains("priority"), "\(fault)")
            double.delete(.clusterNetworkPolicies, name: "bad")
            // What is skipped is not in the state that is compared.
            try await Self.eventually { follower.faults.isEmpty }
            await follower.agrees(with: double)
        }
    }

    @Test func whatNobodyReadsIsNotKept() throws {
        var object = Example.object(Self.kind, "c", value: 1).object ?? [:]
        object["metadata"] = [
            "name": "c", "labels": ["a": "b"], "resourceVersion": "7",
            "annotations": ["kubectl.kubernetes.io/last-applied-configuration": "{}", "knetd.io/log": "true"],
        ]
        var reader = ObjectReader(Self.kind)
        let told = try reader.object(.object(object))
        guard case .clusterNetworkPolicy(let policy) = told.object else { throw Envelope.NotAnEnvelope() }
        #expect(told.revision == "7")
        #expect(policy.metadata == Metadata(name: "c", annotations: ["knetd.io/log": "true"]))
    }
}
