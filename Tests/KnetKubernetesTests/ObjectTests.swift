import FoundationEssentials
import KnetCore
import SwiftProtobuf
import TestSupport
import Testing

@testable import KnetKubernetes

@Suite struct ObjectTests {
    private static func read(_ message: some SwiftProtobuf.Message, _ kind: ObjectKey.Kind) throws -> AnyClusterObject {
        var reader = ObjectReader(kind)
        return try reader.object(try message.serializedData()).object
    }

    @Test func aPodOfTheAPIIsReduced() throws {
        var wire = WirePod()
        wire.metadata.name = "web-1"
        wire.metadata.namespace = "shop"
        wire.metadata.labels = ["app": "web"]
        wire.metadata.annotations = ["long": "text"]
        wire.spec.nodeName = "node1"
        wire.spec.containers = [
            .with {
                $0.ports = [
                    .with {
                        $0.name = "http"; $0.containerPort = 80
                    }
                ]
            }, WireContainer(),
        ]
        wire.status.podIps = [.with { $0.ip = "10.42.1.2" }, .with { $0.ip = "fd42::2" }]
        wire.status.conditions = [
            .with {
                $0.type = "Initialized"; $0.status = "True"
            }
        ]
        guard case .pod(let pod) = try Self.read(wire, .pod) else { throw Envelope.NotAnEnvelope() }
        #expect(pod.key.description == "Pod/shop/web-1" && pod.metadata.labels == ["app": "web"])
        #expect(pod.metadata.annotations == nil && !pod.metadata.isTerminating)
        #expect(pod.addresses.map(\.description) == ["10.42.1.2", "fd42::2"])
        #expect(pod.spec?.containers == [.init(ports: [.init(name: "http", containerPort: 80, protocol: nil)])])
        #expect(!pod.isReady, "a pod of the API without the condition is not ready yet")
    }

    @Test func whatManifestsSaySurvivesTheSnapshotsForm() throws {
        let documents: [(ObjectKey.Kind, String)] = [
            (
                .node,
                #"{"metadata": {"name": "n1", "labels": {"zone": "a"}, "annotations": {"flannel.alpha.coreos.com/public-ip": "1.2.3.4"}}, "spec": {"podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"]}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.1"}], "conditions": [{"type": "NetworkUnavailable", "status": "False"}]}}"#
            ),
            (.namespace, #"{"metadata": {"name": "shop", "labels": {"team": "a"}}}"#),
            (
                .pod,
                #"{"metadata": {"name": "p", "namespace": "shop", "labels": {"a": "b"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "n1", "hostNetwork": true, "hostname": "h", "subdomain": "s", "containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "UDP"}]}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.42.1.2"}], "conditions": [{"type": "Ready", "status": "True"}]}}"#
            ),
            (
                .service,
                #"{"metadata": {"name": "s", "namespace": "shop"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "selector": {"a": "b"}, "publishNotReadyAddresses": true, "externalName": "x.y", "ports": [{"name": "a", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 30000}, {"port": 81, "targetPort": 8081}]}}"#
            ),
            (
                .endpointSlice,
                #"{"metadata": {"name": "e", "namespace": "shop", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.1.2"], "conditions": {"ready": true, "serving": false, "terminating": true}, "hostname": "h", "nodeName": "n1", "zone": "z"}, {"addresses": ["10.42.1.3"]}], "ports": [{"name": "a", "port": 80, "protocol": "TCP"}]}"#
            ),
            (
                .networkPolicy,
                #"{"metadata": {"name": "p", "namespace": "shop"}, "spec": {"podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"ports": [{"protocol": "TCP", "port": 80, "endPort": 90}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}, "namespaceSelector": {}}]}], "egress": [{"to": [{"podSelector": {"matchLabels": {"x": "y"}}}], "ports": [{"port": "named"}]}]}}"#
            ),
        ]
        for (kind, text) in documents {
            let object = try AnyClusterObject(try JSONValue(parsing: Data(text.utf8)), kind)
            var reader = ObjectReader(kind)
            #expect(try reader.object(try object.serialized()).object == object, "\(kind)")
        }
    }

    /// An empty list of peers means nobody in the API's words only where the field is there; protobuf has no such difference.
    @Test func labelsThatRepeatAreKeptOnce() {
        var shared = SharedValues()
        let first = shared.share("a-name-longer-than-fifteen-bytes")
        let second = shared.share(["a-name", "longer-than-fifteen-bytes"].joined(separator: "-"))
        #expect(first == second)
        #expect(shared.share([:]) == nil && shared.share(["a": "b"]) == ["a": "b"])
    }
}
