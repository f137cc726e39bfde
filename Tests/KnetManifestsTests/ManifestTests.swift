import FoundationEssentials
import KnetCore
import Testing

@testable import KnetManifests

@Suite struct ManifestTests {
    private func parse(_ text: String, file: String = "a.yaml") -> ParsedManifest {
        ManifestParser.parse(Data(text.utf8), file: file)
    }

    @Test func oneFileMayHoldManyDocumentsListsAndKindsOfNoConcern() {
        let parsed = parse(
            """
            apiVersion: v1
            kind: Node
            metadata: {name: n1}
            spec: {podCIDRs: ["10.42.1.0/24", "fd42:0:0:1::/64"]}
            status: {addresses: [{type: InternalIP, address: 192.168.1.1}, {type: Hostname, address: n1}]}
            ---
            # nothing
            ---
            apiVersion: v1
            kind: List
            items:
            - {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: "7"}}}
            - {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}
            - {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80, targetPort: http}]}}
            """)
        #expect(parsed.faults.isEmpty)
        #expect(parsed.objects.map { $0.key.description } == ["Node/n1", "Namespace/shop", "Service/shop/web"])
        guard case .node(let node)? = parsed.objects.first else { return }
        #expect(node.podCIDRs.map(\.description) == ["10.42.1.0/24", "fd42:0:0:1::/64"])
        #expect(node.internalIP(.v4)?.description == "192.168.1.1")
        #expect(node.internalIP(.v6) == nil)
    }

    @Test func aClusterNetworkPolicyIsReadAndBelongsToNoNamespace() {
        let parsed = parse(
            """
            apiVersion: policy.networking.k8s.io/v1alpha2
            kind: ClusterNetworkPolicy
            metadata: {name: no-metadata-server}
            spec:
              tier: Admin
              priority: 10
              subject: {namespaces: {}}
              egress:
              - {action: Deny, to: [{networks: [169.254.169.254/32]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}
            """)
        #expect(parsed.faults.isEmpty, "\(parsed.faults)")
        #expect(parsed.objects.map { $0.key.description } == ["ClusterNetworkPolicy/no-metadata-server"])
        guard case .clusterNetworkPolicy(let policy)? = parsed.objects.first else { return }
        #expect(policy.spec?.subject == ClusterNetworkPolicy.Subject(namespaces: LabelSelector()))
        #expect(policy.spec?.egress?.first?.peers == [ClusterNetworkPolicy.Peer(networks: ["169.254.169.254/32"])])
    }

    @Test func jsonIsReadToo() {
        let parsed = parse(
            #"{"kind": "Pod", "metadata": {"name": "p"}, "status": {"podIP": "10.42.1.2"}}"#, file: "p.json")
        #expect(parsed.objects.map { $0.key.description } == ["Pod/default/p"])
    }

    @Test(
        arguments: [
            ("kind: Node\nmetadata: {name: x}\nspec: {podCIDRs: [10.42.1.5/24]}", "Node/x: spec.podCIDRs[0]"),
            ("kind: Node\nmetadata: {name: x}\nspec: {podCIDRs: 10.42.1.0/24}", "Node/x: spec.podCIDRs is not a list"),
            ("kind: Node\nmetadata: {labels: {a: b}}", "metadata.name is missing"),
            ("kind: Node", "metadata is missing"),
            (
                "kind: Node\nmetadata: {name: x}\nstatus: {addresses: [{type: InternalIP, address: foo}]}",
                "status.addresses[0]"
            ),
            (
                "kind: Service\nmetadata: {name: s}\nspec: {ports: [{port: eighty}]}",
                "Service/s: spec.ports[0].port is not an integer"
            ),
            ("kind: Pod\nmetadata: {name: p}\nstatus: {podIPs: [{ip: 10.0.0.300}]}", "10.0.0.300"),
            (
                "apiVersion: crd.antrea.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: c}",
                "ClusterNetworkPolicy/c: apiVersion is crd.antrea.io/v1beta1"
            ),
            (
                "kind: ClusterNetworkPolicy\nmetadata: {name: c}\nspec: {egress: [{to: [{networks: 10.0.0.0/8}]}]}",
                "ClusterNetworkPolicy/c: spec.egress[0].to[0].networks is not a list"
            ),
            ("metadata: {name: x}", "no \"kind\""),
            ("kind: [", "a.yaml"),
            ("\tkind: Node", "a.yaml"),
        ])
    func aBadDocumentIsNamedWithWhatIsWrong(text: String, words: String) {
        let parsed = parse(text)
        #expect(parsed.objects.isEmpty)
        #expect(parsed.faults.count == 1)
        #expect("\(parsed.faults)".contains(words), "\(parsed.faults)")
    }

    @Test func aBadDocumentDoesNotTakeOthersWithIt() {
        let parsed = parse("kind: Node\nmetadata: {name: a}\n---\nkind: Node\n---\nkind: Node\nmetadata: {name: b}")
        #expect(parsed.objects.count == 2)
        #expect(parsed.faults.map(\.place) == ["a.yaml, document 2"])
    }
}

@Suite struct ServiceEndpointTests {
    private func objects(_ text: String) -> [ObjectKey: AnyClusterObject] {
        let parsed = ManifestParser.parse(Data(text.utf8), file: "a.yaml")
        #expect(parsed.faults.isEmpty)
        return Dictionary(uniqueKeysWithValues: parsed.objects.map { ($0.key, $0) })
    }

    private static let service = """
        kind: Service
        metadata: {name: web, namespace: shop}
        spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]}
        """

    private static func pod(
        _ name: String, _ addresses: String, port: Int = 8080, extra: String = "", labels: String = "app: web"
    ) -> String {
        """
        kind: Pod
        metadata: {name: \(name), namespace: shop, labels: {\(labels)}\(extra)}
        spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: \(port)}]}]}
        status: {podIPs: [\(addresses)], conditions: [{type: Ready, status: "True"}]}
        """
    }

    @Test func theSelectedPodsBecomeEndpointsByFamily() throws {
        let slices = ServiceEndpoints.slices(
            for: objects(
                [
                    Self.service, Self.pod("a", "{ip: 10.42.1.1}, {ip: \"fd42::1\"}"), Self.pod("b", "{ip: 10.42.1.2}"),
                    Self.pod("c", "{ip: 10.42.1.3}", labels: "app: other"),
                ].joined(separator: "\n---\n")))
        #expect(slices.map(\.addressType) == ["IPv4", "IPv6"])
        #expect(slices.map { ($0.endpoints ?? []).flatMap(\.addresses) } == [["10.42.1.1", "10.42.1.2"], ["fd42::1"]])
        #expect(slices.allSatisfy { $0.serviceName == "web" && $0.metadata.namespace == "shop" })
        #expect(slices[0].ports?.map(\.port) == [8080, 53])
        #expect(slices[0].ports?.map(\.protocol) == ["TCP", "UDP"])
    }

    @Test func podsWithOtherNumbersForAPortNameHaveASliceOfTheirOwn() throws {
        let slices = ServiceEndpoints.slices(
            for: objects(
                [Self.service, Self.pod("a", "{ip: 10.42.1.1}"), Self.pod("b", "{ip: 10.42.1.2}", port: 9090)]
                    .joined(separator: "\n---\n")))
        #expect(slices.map { $0.ports?.first?.port } == [8080, 9090])
        #expect(Set(slices.map(\.metadata.name)).count == 2)
    }

    @Test func aPodThatEndsIsServingButNotReady() throws {
        let slices = ServiceEndpoints.slices(
            for: objects(
                [
                    Self.service,
                    Self.pod("a", "{ip: 10.42.1.1}", extra: ", deletionTimestamp: \"2026-01-01T00:00:00Z\""),
                ]
                .joined(separator: "\n---\n")))
        let conditions = try #require(slices.first?.endpoints?.first?.conditions)
        #expect(conditions == .init(ready: false, serving: true, terminating: true))
    }

    @Test func givenEndpointsAreLeftAsTheyAre() {
        let slice = """
            kind: EndpointSlice
            metadata: {name: mine, namespace: shop, labels: {kubernetes.io/service-name: web}}
            addressType: IPv4
            endpoints: [{addresses: [10.9.9.9]}]
            """
        #expect(
            ServiceEndpoints.slices(
                for: objects([Self.service, slice, Self.pod("a", "{ip: 10.42.1.1}")].joined(separator: "\n---\n"))
            ).isEmpty)
    }
}

@Suite struct ManifestDirectoryTests {
    private let path =
        "\(FileManager.default.temporaryDirectory.path)/knetd-manifests-\(UInt64.random(in: 0...UInt64.max))"

    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }

    private func write(_ name: String, _ text: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: "\(path)/\(name)"), options: .atomic)
    }

    private func node(_ name: String, _ range: String = "10.42.1.0/24") -> String {
        "kind: Node\nmetadata: {name: \(name)}\nspec: {podCIDRs: [\(range)]}\n"
    }

    @Test func onlyWhatChangedIsTold() throws {
        var directory = ManifestDirectory(path: path)
        for index in 0..<50 { try write("n\(index).yaml", node("n\(index)")) }
        #expect(directory.scan().added.count == 50)
        #expect(directory.scan().isEmpty)
        try write("n7.yaml", node("n7", "10.42.7.0/24"))
        try FileManager.default.removeItem(atPath: "\(path)/n8.yaml")
        let changes = directory.scan()
        #expect(changes.added.map(\.key) == [.node("n7")])
        #expect(changes.removed == [.node("n8")])
    }

    @Test func ofTwoFilesWithTheSameObjectTheFirstCounts() throws {
        var directory = ManifestDirectory(path: path)
        try write("b.yaml", node("x", "10.42.2.0/24"))
        try write("a.yaml", node("x", "10.42.1.0/24"))
        let changes = directory.scan()
        guard case .node(let node)? = changes.added.first else { return }
        #expect(node.podCIDRs.map(\.description) == ["10.42.1.0/24"])
        #expect("\(directory.faults)".contains("b.yaml: Node/x stands in a.yaml too"))
    }

    @Test func otherFilesAreNotRead() throws {
        var directory = ManifestDirectory(path: path)
        try write("README.md", node("x"))
        try write(".hidden.yaml", node("y"))
        #expect(directory.scan().isEmpty && directory.faults.isEmpty)
    }

    @Test func aDirectoryThatIsNotThereHoldsNothing() {
        var directory = ManifestDirectory(path: path + "-none")
        #expect(directory.scan().isEmpty && directory.faults.isEmpty)
    }

    @Test func aFolderNamedLikeAManifestIsReported() throws {
        var directory = ManifestDirectory(path: path)
        try FileManager.default.createDirectory(atPath: "\(path)/x.yaml", withIntermediateDirectories: false)
        #expect(directory.scan().isEmpty)
        #expect(directory.faults.map(\.place) == ["x.yaml"])
    }
}
