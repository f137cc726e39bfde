import FoundationEssentials
import HashTreeCollections
import KnetCore
import Testing

@Suite struct ClusterNetworkPolicyTests {
    private static let text = """
        {
          "apiVersion": "policy.networking.k8s.io/v1alpha2",
          "kind": "ClusterNetworkPolicy",
          "metadata": {"name": "tenants", "annotations": {"knetd.io/log": "true"}},
          "spec": {
            "tier": "Baseline", "priority": 30,
            "subject": {"pods": {
              "namespaceSelector": {"matchLabels": {"tenant": "a"}},
              "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]}}},
            "ingress": [
              {"name": "monitoring", "action": "Accept", "from": [{"namespaces": {"matchLabels": {"team": "ops"}}}],
               "protocols": [{"tcp": {"destinationPort": {"number": 9100}}}, {"destinationNamedPort": "metrics"}]},
              {"action": "Deny", "from": [{"namespaces": {}}, {"pods": {"namespaceSelector": {}, "podSelector": {}}}]}
            ],
            "egress": [
              {"name": "out", "action": "Pass",
               "to": [{"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::/8"]}, {"domainNames": ["*.example."]}, {}],
               "protocols": [{"udp": {"destinationPort": {"range": {"start": 5000, "end": 5010}}}}, {"sctp": {}}]}
            ]
          }
        }
        """

    private typealias Peer = ClusterNetworkPolicy.Peer
    private typealias Protocols = ClusterNetworkPolicy.ProtocolMatch
    private typealias Transport = ClusterNetworkPolicy.Transport
    private typealias Port = ClusterNetworkPolicy.Port
    private typealias Pods = ClusterNetworkPolicy.NamespacedPods

    private static let web = LabelSelector.Requirement(key: "app", operator: "In", values: ["web", "api"])
    private static let subject = ClusterNetworkPolicy.Subject(
        pods: Pods(
            namespaceSelector: LabelSelector(matchLabels: ["tenant": "a"]),
            podSelector: LabelSelector(matchExpressions: [web])))
    private static let monitoring = ClusterNetworkPolicy.Rule(
        name: "monitoring", action: "Accept", peers: [Peer(namespaces: LabelSelector(matchLabels: ["team": "ops"]))],
        protocols: [
            Protocols(tcp: Transport(destinationPort: Port(number: 9100))), Protocols(destinationNamedPort: "metrics"),
        ])
    private static let others = ClusterNetworkPolicy.Rule(
        action: "Deny",
        peers: [
            Peer(namespaces: LabelSelector()),
            Peer(pods: Pods(namespaceSelector: LabelSelector(), podSelector: LabelSelector())),
        ])
    private static let range = Port(range: ClusterNetworkPolicy.PortRange(start: 5000, end: 5010))
    private static let out = ClusterNetworkPolicy.Rule(
        name: "out", action: "Pass",
        peers: [
            Peer(nodes: LabelSelector()), Peer(networks: ["10.0.0.0/8", "fd00::/8"]), Peer(domainNames: ["*.example."]),
            Peer(),
        ],
        protocols: [Protocols(udp: Transport(destinationPort: range)), Protocols(sctp: Transport())])
    private static let policy = ClusterNetworkPolicy(
        metadata: Metadata(name: "tenants", annotations: ["knetd.io/log": "true"]),
        spec: ClusterNetworkPolicy.Spec(
            tier: "Baseline", priority: 30, subject: subject, ingress: [monitoring, others], egress: [out]))

    private static func read(_ text: String) throws -> ClusterNetworkPolicy {
        try JSONValue(parsing: Data(text.utf8)).decode()
    }

    @Test func everyFieldIsReadAndSurvivesWriting() throws {
        let policy = try Self.read(Self.text)
        #expect(policy == Self.policy)
        #expect(policy.key.description == "ClusterNetworkPolicy/tenants" && policy.defect == nil)
        #expect(try JSONValue(encoding: policy).decode(ClusterNetworkPolicy.self) == policy)
    }

    @Test func whatIsNotThereDiffersFromWhatIsEmpty() throws {
        let policy = try Self.read(
            #"""
            {"metadata": {"name": "c"},
             "spec": {"subject": {}, "ingress": [], "egress": [{"to": []}, {"from": [{"namespaces": {}}]}, {"to": [{}]}]}}
            """#)
        #expect(policy.spec?.subject == ClusterNetworkPolicy.Subject())
        #expect(policy.spec?.tier == nil && policy.spec?.priority == nil)
        #expect(policy.spec?.ingress == [])
        let peers = (policy.spec?.egress ?? []).map(\.peers)
        #expect(peers == [[], nil, [Peer()]], "egress does not come from anywhere")
        #expect(try Self.read(#"{"metadata": {"name": "c"}}"#).spec == nil)
    }

    @Test func theStateHoldsPoliciesAsItHoldsOtherKinds() {
        var state = ClusterState()
        let key = Self.policy.key
        state.set(.clusterNetworkPolicy(Self.policy))
        #expect(state.clusterNetworkPolicies[key] == Self.policy)
        #expect(state.object(key) == .clusterNetworkPolicy(Self.policy))
        #expect(state.count(of: .clusterNetworkPolicy) == 1 && state.count(of: .networkPolicy) == 0)
        #expect(state.keys == [key] && state.keys(of: .clusterNetworkPolicy) == [key])
        state.remove(key)
        #expect(state.clusterNetworkPolicies.isEmpty && state.keys.isEmpty)
    }
}
