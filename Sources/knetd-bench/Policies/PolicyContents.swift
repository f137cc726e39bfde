import KnetCore

/// A cluster in which all policies hold for pods of this node. In every namespace there are as many groups of pods as policies, each
/// of which admits one group and lets its pods reach the next.
struct PolicyContents: Sendable {
    let policies: Int
    /// Of this node.
    let localPods: Int
    let remotePods: Int
    let namespaces: Int

    /// Two pods of this node that share a namespace. The policy that lets the first reach the second is, at both, the last that is
    /// asked of those that hold: no order of policies is dearer.
    static let sender = 0
    static let receiver = 1

    static let full = PolicyContents(policies: 1000, localPods: 200, remotePods: 10_000, namespaces: 50)
    static let few = PolicyContents(policies: 20, localPods: 10, remotePods: 100, namespaces: 2)

    static var local: LocalNode {
        LocalNode(name: "node1", podCIDRs: [CIDR(containing: .v4(0x0A2B_0000), prefixLength: 16)], uplinks: [:])
    }

    var title: String { "\(policies) policies, \(localPods) pods here, \(remotePods) elsewhere" }

    var objects: [AnyClusterObject] {
        let spaces = (0..<namespaces).map { AnyClusterObject.namespace(Namespace(metadata: Metadata(name: space($0)))) }
        let here = (0..<localPods).map { AnyClusterObject.pod(localPod($0)) }
        let elsewhere = (0..<remotePods).map { AnyClusterObject.pod(remotePod($0, version: 0)) }
        return spaces + here + elsewhere + (0..<policies).map { AnyClusterObject.networkPolicy(policy($0)) }
    }

    var attachments: [Attachment] { (0..<localPods).map(attachment) }

    // MARK: Of each namespace

    private func space(_ number: Int) -> String { "space-\(number)" }
    private var policiesOfEach: Int { policies / namespaces }
    private var podsOfEach: Int { localPods / namespaces }
    /// Two pods of this node have the same.
    private var applications: Int { (podsOfEach + 1) / 2 }
    /// Every application is the subject of some policies, and the pods with the extra label of as many.
    private var subjects: Int { applications + 1 }
    /// The last policy of the first application's, and of all that hold for its pods.
    private var lastOfFirst: Int { (policiesOfEach - 1) / subjects * subjects }

    private func group(_ number: Int) -> String { "group-\(number % policiesOfEach)" }

    // MARK: Objects

    private func policy(_ index: Int) -> NetworkPolicy {
        let (number, place) = (index % policiesOfEach, space(index / policiesOfEach))
        let subject = number % subjects
        let labels = subject < applications ? ["app": "app-\(subject)"] : ["extra": "yes"]
        let ports = [
            NetworkPolicy.Port(protocol: "TCP", port: .number(Int(Load.port)), endPort: nil),
            NetworkPolicy.Port(protocol: "TCP", port: .number(8080), endPort: nil),
        ]
        func peers(_ group: String) -> [NetworkPolicy.Peer] {
            let selector = LabelSelector(matchLabels: ["group": group])
            return [NetworkPolicy.Peer(podSelector: selector, namespaceSelector: nil, ipBlock: nil)]
        }
        // Policies are asked in the order of their names; these have three digits.
        let metadata = Metadata(name: "policy-\(100 + number)", namespace: place)
        let spec = NetworkPolicy.Spec(
            podSelector: LabelSelector(matchLabels: labels),
            ingress: [NetworkPolicy.IngressRule(ports: ports, from: peers(group(number)))],
            egress: [NetworkPolicy.EgressRule(ports: ports, to: peers(group(number + 1)))],
            policyTypes: ["Ingress", "Egress"])
        return NetworkPolicy(metadata: metadata, spec: spec)
    }

    /// - Parameter isChanged: gives it the extra label where it has none, and takes it away where it has: other policies hold for it.
    func localPod(_ index: Int, isChanged: Bool = false) -> Pod {
        let (number, place) = (index % podsOfEach, space(index / podsOfEach))
        var labels = ["app": "app-\(number / 2)", "group": group(lastOfFirst + number)]
        if (number % 2 == 1) != isChanged { labels["extra"] = "yes" }
        return pod("here-\(index)", place, "node1", labels, localAddresses(index))
    }

    func attachment(_ index: Int) -> Attachment {
        Attachment(
            id: AttachmentID(containerID: "bench-\(index)", interface: "eth0"), network: "knetd",
            podNamespace: space(index / podsOfEach), podName: "here-\(index)", namespacePath: "/nonexistent",
            namespaceCookie: UInt64(index + 1), addresses: localAddresses(index), phase: .attached)
    }

    /// - Parameter version: one more is one group further.
    func remotePod(_ index: Int, version: Int) -> Pod {
        let labels = ["app": "another", "group": group(index / namespaces + version)]
        let addresses = [IPAddress.v4(0x0A2C_0002 + UInt32(index)), IPAddress.v6(Self.range(0x2C) + UInt128(index))]
        return pod("pod-\(index)", space(index % namespaces), "node\(2 + index % 100)", labels, addresses)
    }

    private func pod(
        _ name: String, _ namespace: String, _ node: String, _ labels: [String: String], _ addresses: [IPAddress]
    ) -> Pod {
        let spec = Pod.Spec(nodeName: node, hostNetwork: nil, hostname: nil, subdomain: nil, containers: nil)
        let status = Pod.Status(
            phase: "Running", podIPs: addresses.map { Pod.Status.IP(ip: "\($0)") }, conditions: nil)
        return Pod(
            metadata: Metadata(name: name, namespace: namespace, labels: labels), spec: spec, status: status)
    }

    private func localAddresses(_ index: Int) -> [IPAddress] {
        [.v4(0x0A2B_0002 + UInt32(index)), .v6(Self.range(0x2B) + UInt128(index))]
    }

    /// The first address of fd42:0:0:`number`::/64 that a pod may have.
    private static func range(_ number: UInt128) -> UInt128 { 0xFD42 << 112 | number << 64 | 2 }
}
