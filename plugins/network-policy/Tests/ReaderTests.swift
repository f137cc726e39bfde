import FoundationEssentials
import KnetCore
import Testing

@testable import NetworkPolicyPlugin

/// Objects become policies; what is wrong with them admits nothing and is told by its place.
@Suite struct ReaderTests {
    private func network(_ spec: String) throws -> Policy {
        let text = #"{"metadata": {"name": "p", "namespace": "n"}, "spec": \#(spec)}"#
        return NetworkPolicyReader.read(try JSONValue(parsing: Data(text.utf8)).decode())
    }

    private func cluster(_ spec: String) throws -> Policy {
        let text = #"{"metadata": {"name": "p"}, "spec": \#(spec)}"#
        return ClusterNetworkPolicyReader.read(try JSONValue(parsing: Data(text.utf8)).decode())
    }

    @Test(arguments: [
        (#"{}"#, true, false), (#"{"egress": []}"#, true, false), (#"{"egress": [{}]}"#, true, true),
        (#"{"policyTypes": ["Egress"]}"#, false, true), (#"{"policyTypes": ["Ingress"], "egress": [{}]}"#, true, false),
    ])
    func directionsAreThoseOfKubernetes(spec: String, ingress: Bool, egress: Bool) throws {
        let policy = try network(spec)
        #expect((policy.ingress != nil) == ingress && (policy.egress != nil) == egress)
    }

    @Test(arguments: [
        (#"{"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}"#, "spec.ingress[0].from[0].ipBlock.cidr"),
        (
            #"{"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}]}"#,
            "ipBlock.except[0]: 11.0.0.0/8 is not inside of 10.0.0.0/8"
        ),
        (#"{"ingress": [{"from": [{}]}]}"#, "spec.ingress[0].from[0]: found nothing"),
        (
            #"{"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}]}]}"#,
            "podSelector.matchExpressions[0].operator: found \"Is\""
        ),
        (
            #"{"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]}"#,
            "goes with no other field"
        ),
    ])
    func aPeerThatIsWrongIsNobody(spec: String, problem: String) throws {
        let policy = try network(spec)
        #expect(policy.ingress?.first?.peers.isNobody == true)
        #expect(policy.problems.count == 1 && policy.problems[0].contains(problem), "\(policy.problems)")
    }

    @Test(arguments: [
        (#"{"port": 0}"#, "spec.ingress[0].ports[0].port: found 0"), (#"{"port": 70000}"#, "allowed is 1 to 65535"),
        (#"{"port": 90, "endPort": 80}"#, "endPort: found 80, allowed is 90 to 65535"),
        (#"{"endPort": 80}"#, "endPort: goes with a port only"),
        (#"{"port": "web", "endPort": 80}"#, "endPort: goes with a number only"),
        (#"{"port": 80, "protocol": "ICMP"}"#, "protocol: found \"ICMP\""),
    ])
    func aPortThatIsWrongIsNone(port: String, problem: String) throws {
        let policy = try network(#"{"ingress": [{"ports": [\#(port)]}]}"#)
        #expect(policy.ingress?.first?.ports.isNone == true)
        #expect(policy.problems.count == 1 && policy.problems[0].contains(problem), "\(policy.problems)")
    }

    @Test func aSelectorThatIsWrongSelectsMore() throws {
        let policy = try network(
            #"{"podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In"}]}}"#)
        #expect(policy.subject.pods.description == "a=b")
        #expect(policy.problems == ["spec.podSelector.matchExpressions[0].values: found none, In needs some"])
    }

    @Test func manyPeersAreOneSet() throws {
        let blocks = (0..<2_000).map { #"{"ipBlock": {"cidr": "10.\#($0 / 250).\#($0 % 250).0/25"}}"# }
        let policy = try network(#"{"ingress": [{"from": [\#(blocks.joined(separator: ","))]}]}"#)
        #expect(policy.problems.isEmpty && policy.ingress?.first?.peers.ranges.count == 2_000)
    }

    @Test func whatTheAPIWouldNotTakeDeniesAll() throws {
        let rule = #"{"action": "Accept", "from": [{"namespaces": {}}]}"#
        for spec in [
            #"{"tier": "Network", "priority": 1, "subject": {"namespaces": {}}, "ingress": [\#(rule)]}"#,
            #"{"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}, "ingress": [\#(rule)]}"#,
            #"{"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [\#(Array(repeating: rule, count: 26).joined(separator: ","))]}"#,
        ] {
            let policy = try cluster(spec)
            #expect(policy.ingress?.map(\.action) == [.deny] && policy.ingress?.first?.peers.isAnyone == true)
            #expect(policy.egress == nil && policy.problems.count == 1, "\(policy.problems)")
        }
    }

    @Test(arguments: [("Accept", false), ("Deny", true), ("Pass", true), ("Allow", true)])
    func aRuleThatIsWrongFailsClosed(action: String, denies: Bool) throws {
        let policy = try cluster(
            #"{"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [{"action": "\#(action)", "to": [{"networks": ["10.0.0.0/8", "x"]}]}]}"#
        )
        let rule = try #require(policy.egress?.first)
        #expect(denies ? rule.action == .deny && rule.peers.isAnyone : rule.action == .accept && rule.peers.isNobody)
        #expect(!policy.problems.isEmpty)
    }

    @Test func holesAreTakenOutOfABlock() throws {
        func span(_ text: String) throws -> AddressSpan { AddressSpan(try #require(CIDR(text))) }
        let whole = try span("10.0.0.0/8")
        let rest = whole.subtracting([try span("10.0.0.0/9"), try span("10.255.255.255/32"), try span("fd00::/8")])
        #expect(rest.map { "\($0.first)-\($0.last)" } == ["10.128.0.0-10.255.255.254"])
        let everywhere = try span("0.0.0.0/0")
        #expect(whole.subtracting([everywhere]).isEmpty)
        let touching = AddressSpan.disjoint([try span("10.1.0.0/16"), try span("10.0.0.0/16"), try span("10.0.3.0/24")])
        #expect(touching.map { "\($0.first)-\($0.last)" } == ["10.0.0.0-10.1.255.255"])
        let everything = try span("::/0").subtracting([try span("ffff::/16")])
        #expect(everything.map { "\($0.first)-\($0.last)" } == ["::-fffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"])
    }

    @Test(arguments: [
        ("Example.COM.", "example.com"), ("*.example.com", "*.example.com"), ("example", nil), ("*.*.com", nil),
        ("exa mple.com", nil), ("a..b", nil),
    ])
    func domainNamesAreChecked(text: String, normalised: String?) {
        #expect(DomainPattern.normalised(text) == normalised)
    }
}
