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
        wire.spec.initContainers = [
            .with {
                $0.restartPolicy = "Always"
                $0.ports = [.with { $0.containerPort = 15001 }]
            }, .with { $0.ports = [.with { $0.containerPort = 9 }] },
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
        #expect(pod.ports.map(\.containerPort) == [80, 15001], "an init container that ends has no port of the pod")
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
                #"{"metadata": {"name": "p", "namespace": "shop", "labels": {"a": "b"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "n1", "hostNetwork": true, "hostname": "h", "subdomain": "s", "containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "UDP"}]}], "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.42.1.2"}], "conditions": [{"type": "Ready", "status": "True"}]}}"#
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
                #"{"metadata": {"name": "p", "namespace": "shop", "annotations": {"knetd.io/x": "y"}}, "spec": {"podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"ports": [{"protocol": "TCP", "port": 80, "endPort": 90}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}, "namespaceSelector": {}}]}], "egress": [{"to": [{"podSelector": {"matchLabels": {"x": "y"}}}], "ports": [{"port": "named"}]}]}}"#
            ),
            (
                .clusterNetworkPolicy,
                #"{"metadata": {"name": "c", "annotations": {"knetd.io/x": "y"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"tier": "Admin", "priority": 7, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}}, "ingress": [{"name": "i", "action": "Pass", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}, {}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {}}]}], "egress": [{"action": "Deny", "to": [{"networks": ["::/0"]}, {"nodes": {}}, {"domainNames": ["*.example"]}], "protocols": [{"sctp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}, {"destinationNamedPort": "dns"}]}]}}"#
            ),
        ]
        for (kind, text) in documents {
            let object = try AnyClusterObject(try JSONValue(parsing: Data(text.utf8)), kind)
            var reader = ObjectReader(kind)
            #expect(try reader.object(try object.serialized()).object == object, "\(kind)")
        }
    }

    @Test func ofANetworkPolicysAnnotationsKnetdsOwnAreKept() throws {
        var wire = WireNetworkPolicy()
        wire.metadata.name = "p"
        wire.metadata.annotations = ["knetd.io/log": "true", "kubectl.kubernetes.io/last-applied-configuration": "{}"]
        guard case .networkPolicy(let policy) = try Self.read(wire, .networkPolicy) else {
            throw Envelope.NotAnEnvelope()
        }
        #expect(policy.metadata.annotations == ["knetd.io/log": "true"])
    }

    /// Selectors may ask for any.
    @Test func allLabelsOfPodsAndNamespacesAreKept() throws {
        let labels = ["kubernetes.io/metadata.name": "shop", "team": "a", "pod-template-hash": "7c9fd6b5d4"]
        var pod = WirePod()
        pod.metadata.labels = labels
        var namespace = WireNamespace()
        namespace.metadata.labels = labels
        for object in [try Self.read(pod, .pod), try Self.read(namespace, .namespace)] {
            switch object {
            case .pod(let pod): #expect(pod.metadata.labels == labels)
            case .namespace(let namespace): #expect(namespace.metadata.labels == labels)
            default: Issue.record("neither a Pod nor a Namespace")
            }
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
