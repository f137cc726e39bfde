import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Domain names as peers: what the node's DNS told a pod is admitted before the pod has the answer.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DomainPolicyTests {
    /// What the upstream says of every name.
    private static let address = IPAddress.v4(0xC000_0201)

    /// DNS is admitted as the cluster's own pods of it would be.
    private static func policy(_ annotations: [String: JSONValue]) -> JSONValue {
        [
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": ["name": "names", "namespace": "default", "annotations": .object(annotations)],
            "spec": [
                "podSelector": [:], "policyTypes": ["Egress"],
                "egress": [
                    [
                        "to": [
                            [
                                "namespaceSelector": ["matchLabels": ["kubernetes.io/metadata.name": "kube-system"]],
                                "podSelector": ["matchLabels": ["k8s-app": "kube-dns"]],
                            ]
                        ],
                        "ports": [["port": 53, "protocol": "UDP"], ["port": 53, "protocol": "TCP"]],
                    ]
                ],
            ],
        ]
    }

    private static let pod: JSONValue = [
        "apiVersion": "v1", "kind": "Pod", "metadata": ["name": "p", "namespace": "default"],
        "spec": ["nodeName": "node1"],
    ]

    private static func cluster(_ names: [String]) -> JSONValue {
        [
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": ["name": "names"],
            "spec": [
                "tier": "Admin", "priority": 1, "subject": ["namespaces": [:]],
                "egress": [["action": "Accept", "to": [["domainNames": .array(names.map(JSONValue.string))]]]],
            ],
        ]
    }

    @Test(arguments: [true, false])
    func anAddressIsAdmittedWithTheAnswerForItsName(byAnnotation: Bool) throws {
        let names = ["ok.listed.test", "*.below.test"]
        let policies =
            byAnnotation
            ? [Self.policy(["knetd.io/egress-domains": .string(names.joined(separator: ", "))])]
            : [Self.policy([:]), Self.cluster(names)]
        try DNSStage.with(
            objects: DNSStage.clusterObjects + policies + [Self.pod], plugins: ["networkPolicy": [:]]
        ) { stage in
            let node = try stage.playground.namespace("node1")
            let pod = try stage.playground.namespace("p")
            _ = try shell("ip address add \(Self.address)/32 dev lo", in: node)
            let server = try EchoServer(in: node)
            defer { server.stop() }
            func connects() throws -> Bool {
                try PolicyProbe.connects(from: pod, to: Self.address, port: EchoServer.port, milliseconds: 300)
            }
            var isOpen = try connects()
            #expect(!isOpen, "before any name is known")
            for name in ["ok.other.test", "below.test", "ok.listed.test.other.test"] {
                _ = try stage.query(name)
                isOpen = try connects()
                #expect(!isOpen, "\(name) is none of the names")
            }
            for name in byAnnotation ? ["OK.listed.test"] : ["ok.a.below.test"] {
                let answer = try stage.query(name)
                #expect(answer.records.contains { $0.hasSuffix(" a \(Self.address)") }, "\(answer)")
                isOpen = try connects()
                #expect(isOpen, "\(name) was told")
            }
            // What the kernel was told by DNS outlasts a full comparison, and the process.
            kill(stage.playground.process(of: "node1"), SIGKILL)
            try stage.playground.startDaemon("node1")
            try stage.playground.waitUntilReady("node1")
            isOpen = try connects()
            #expect(isOpen, "after a restart")
        }
    }

    @Test func namesAreToldToAdmitNothingWithoutThePluginThatAnswers() throws {
        let plugins: JSONValue = ["overlay": [:], "networkPolicy": [:]]
        try withPlayground(["plugins": plugins]) { playground in
            let list: JSONValue = [
                "apiVersion": "v1", "kind": "List",
                "items": [Self.policy(["knetd.io/egress-domains": "example.com, not a name"]), Self.pod],
            ]
            try Data(list.text().utf8).write(
                to: URL(fileURLWithPath: "\(playground.manifests)/names.json"), options: .atomic)
            try playground.addPod("p", node: "node1")
            try eventually {
                let faults = try playground.status(of: "node1").text()
                return faults.contains("which is not enabled: they admit nothing")
                    && faults.contains("metadata.annotations[knetd.io/egress-domains]")
            }
        }
    }
}
