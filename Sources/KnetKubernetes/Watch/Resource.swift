import FoundationEssentials
import KnetCore
import SwiftProtobuf

/// A kind of the cluster's objects as the API has it.
struct Resource: Hashable, Sendable {
    let kind: ObjectKey.Kind
    /// Empty for the core group.
    let group: String
    let version: String
    let plural: String
    /// Only the objects that it selects, as `spec.nodeName=node1`.
    var fieldSelector: String?
    /// Whether the server is asked for protobuf; custom resources it has in JSON alone.
    var isProtobuf = true
    /// Whether it comes from a CustomResourceDefinition, which may not be installed.
    let isCustom: Bool

    init?(_ kind: ObjectKey.Kind) {
        self.kind = kind
        isCustom = kind == .clusterNetworkPolicy
        isProtobuf = !isCustom
        switch kind {
        case .node: (group, version, plural) = ("", "v1", "nodes")
        case .namespace: (group, version, plural) = ("", "v1", "namespaces")
        case .pod: (group, version, plural) = ("", "v1", "pods")
        case .service: (group, version, plural) = ("", "v1", "services")
        case .endpointSlice: (group, version, plural) = ("discovery.k8s.io", "v1", "endpointslices")
        case .networkPolicy: (group, version, plural) = ("networking.k8s.io", "v1", "networkpolicies")
        case .clusterNetworkPolicy:
            (group, version, plural) = ("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies")
        case .local, .attachment: return nil
        }
    }

    var path: String {
        (group.isEmpty ? "/api/\(version)" : "/apis/\(group)/\(version)") + "/\(plural)"
    }
}

/// An object as the server told it.
struct ToldObject {
    let object: AnyClusterObject
    let revision: String
}

/// Makes reduced objects of the API's messages.
struct ObjectReader {
    private let kind: ObjectKey.Kind
    private var shared = SharedValues()

    init(_ kind: ObjectKey.Kind) { self.kind = kind }

    mutating func object(_ value: JSONValue) throws -> ToldObject {
        let object =
            try kind == .clusterNetworkPolicy
            ? AnyClusterObject.clusterNetworkPolicy(ClusterNetworkPolicy.told(value)) : AnyClusterObject(value, kind)
        return ToldObject(object: object, revision: value["metadata"]?["resourceVersion"]?.string ?? "")
    }

    /// - Parameter message: an object without its envelope.
    mutating func object(_ message: Data) throws -> ToldObject {
        func wire<Message: WireObject>(_: Message.Type) throws -> Message {
            try Message(serializedBytes: message, options: Envelope.options)
        }
        switch kind {
        case .node:
            let wire = try wire(WireNode.self)
            return told(.node(Node(wire, &shared)), wire)
        case .namespace:
            let wire = try wire(WireNamespace.self)
            return told(.namespace(Namespace(wire, &shared)), wire)
        case .pod:
            let wire = try wire(WirePod.self)
            return told(.pod(Pod(wire, &shared)), wire)
        case .service:
            let wire = try wire(WireService.self)
            return told(.service(Service(wire, &shared)), wire)
        case .endpointSlice:
            let wire = try wire(WireEndpointSlice.self)
            return told(.endpointSlice(EndpointSlice(wire, &shared)), wire)
        case .networkPolicy:
            let wire = try wire(WireNetworkPolicy.self)
            return told(.networkPolicy(NetworkPolicy(wire, &shared)), wire)
        case .clusterNetworkPolicy:
            return ToldObject(object: try AnyClusterObject(JSONValue(parsing: message), kind), revision: "")
        case .local, .attachment: throw Envelope.NotAnEnvelope()
        }
    }

    private func told(_ object: AnyClusterObject, _ wire: some WireObject) -> ToldObject {
        ToldObject(object: object, revision: wire.metadata.resourceVersion)
    }
}
