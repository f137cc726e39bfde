import APIDouble
import FoundationEssentials
import KnetCore
import KnetKubernetes
import NIOCore
import SwiftProtobuf
import Testing

@Suite struct FormatTests {
    /// The message in an answer's envelope, whose type must be `kind`.
    private func message<Message: SwiftProtobuf.Message>(
        _ type: Message.Type, _ kind: String, in bytes: [UInt8]
    ) throws -> Message {
        try #require(bytes.starts(with: Array("k8s\0".utf8)))
        let envelope = try WireUnknown(serializedBytes: Array(bytes.dropFirst(4)))
        #expect(envelope.typeMeta.kind == kind)
        return try Message(serializedBytes: envelope.raw)
    }

    private func one<Message: SwiftProtobuf.Message>(
        _ type: Message.Type, _ kind: String, _ path: String, _ client: Client
    ) async throws -> Message {
        let answer = try await client.get(path, accept: Client.protobuf)
        #expect(answer.headers["Content-Type"] == Client.protobuf)
        return try message(type, kind, in: answer.body)
    }

    @Test("a pod's protobuf says what its JSON says")
    func pod() async throws {
        try await Client.with { client in
            try client.server.put(
                Example.pod("a", node: "n", labels: ["x": "y"])
                    .with("deletionTimestamp", .string("2026-01-02T03:04:05Z")))
            let pod = try await one(WirePod.self, "Pod", "/api/v1/namespaces/default/pods/a", client)
            #expect(pod.metadata.name == "a")
            #expect(pod.metadata.namespace == "default")
            #expect(pod.metadata.resourceVersion == "1001")
            #expect(pod.metadata.labels == ["x": "y"])
            #expect(pod.metadata.deletionTimestamp.seconds == 1_767_323_045)
            #expect(pod.spec.nodeName == "n")
            #expect(pod.spec.containers.first?.ports.first?.name == "web")
            #expect(pod.spec.containers.first?.ports.first?.containerPort == 80)
            #expect(pod.status.podIps.map(\.ip) == ["10.0.0.1", "fd00::1"])
            #expect(pod.status.conditions.map(\.status) == ["True"])
        }
    }

    @Test("a node's, a service's, a slice's and a policy's protobuf says what their JSON says")
    func others() async throws {
        try await Client.with { client in
            try client.server.putMany([
                Example.node("n"), Example.service("s"), Example.endpointSlice("e"), Example.networkPolicy("p"),
            ])
            let node = try await one(WireNode.self, "Node", "/api/v1/nodes/n", client)
            #expect(node.spec.podCidrs == ["10.1.0.0/24", "fd01::/64"])
            #expect(node.status.addresses.map(\.address) == ["192.0.2.1", "n"])
            let service = try await one(WireService.self, "Service", "/api/v1/namespaces/default/services/s", client)
            #expect(service.spec.clusterIps == ["10.96.0.10"])
            #expect(service.spec.ports.map(\.targetPort.type) == [1, 0])
            #expect(service.spec.ports.map(\.targetPort.strVal) == ["http", ""])
            #expect(service.spec.ports.map(\.targetPort.intVal) == [0, 5353])
            let slice = try await one(
                WireEndpointSlice.self, "EndpointSlice",
                "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/e", client)
            #expect(slice.addressType == "IPv4")
            #expect(slice.ports.map(\.port) == [8080])
            #expect(slice.endpoints.first?.addresses == ["10.0.0.1"])
            #expect(slice.endpoints.first?.conditions.ready == true)
            #expect(slice.endpoints.first?.conditions.hasTerminating == true)
            #expect(slice.endpoints.first?.hasHostname == false)
            #expect(slice.endpoints.first?.nodeName == "a")
            let policy = try await one(
                WireNetworkPolicy.self, "NetworkPolicy",
                "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/p", client)
            #expect(policy.spec.podSelector.matchLabels == ["app": "a"])
            #expect(policy.spec.ingress.first?.ports.map(\.port.strVal) == ["web", ""])
            #expect(policy.spec.ingress.first?.ports.map(\.endPort) == [0, 90])
            #expect(policy.spec.ingress.first?.from.first?.ipBlock.except == ["10.1.0.0/16"])
            #expect(
                policy.spec.ingress.first?.from.last?.namespaceSelector.matchExpressions.first?.values == ["x", "y"])
            #expect(policy.spec.egress.first?.to.first?.hasPodSelector == true)
            #expect(policy.spec.policyTypes == ["Ingress", "Egress"])
        }
    }

    @Test("fields that are no pointers in Go are there even when empty")
    func defaults() async throws {
        try await Client.with { client in
            try client.server.put(try JSONValue(text: #"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#))
            let pod = try await one(WirePod.self, "Pod", "/api/v1/namespaces/default/pods/a", client)
            #expect(pod.spec.hasNodeName)
            #expect(pod.spec.hasHostNetwork)
            #expect(pod.status.hasPodIp)
            #expect(!pod.metadata.hasDeletionTimestamp)
        }
    }

    @Test("a list and an error are messages in an envelope too")
    func list() async throws {
        try await Client.with { client in
            try client.server.putMany([Example.pod("a"), Example.pod("b"), Example.pod("c")])
            let list = try await one(WireObjectList.self, "PodList", "/api/v1/pods?limit=2", client)
            #expect(list.metadata.resourceVersion == "1003")
            #expect(!list.metadata.continue.isEmpty)
            let names = try list.items.map { try WirePod(serializedBytes: $0).metadata.name }
            #expect(names == ["a", "b"])
            let status = try await one(WireStatus.self, "Status", "/api/v1/namespaces/default/pods/none", client)
            #expect(status.code == 404)
            #expect(status.reason == "NotFound")
            #expect(status.details.kind == "pods")
        }
    }

    @Test("a watch is frames of a length and an event whose object is in an envelope of its own")
    func watch() async throws {
        try await Client.with { client in
            try client.server.put(Example.pod("a"))
            let path = "/api/v1/pods?watch=1&resourceVersion=1000&allowWatchBookmarks=true&timeoutSeconds=1"
            let answer = try await client.get(path, accept: Client.protobuf + ";stream=watch")
            #expect(answer.headers["Content-Type"] == Client.protobuf + ";stream=watch")
            var rest = ByteBuffer(bytes: answer.body)
            var events: [WireWatchEvent] = []
            while let length: UInt32 = rest.readInteger(), let frame = rest.readBytes(length: Int(length)) {
                events.append(try WireWatchEvent(serializedBytes: frame))
            }
            #expect(rest.readableBytes == 0)
            #expect(events.map(\.type) == ["ADDED", "BOOKMARK"])
            let pods = try events.map { try message(WirePod.self, "Pod", in: Array($0.object.raw)) }
            #expect(pods.map(\.metadata.name) == ["a", ""])
            #expect(pods.map(\.metadata.resourceVersion) == ["1001", "1001"])
        }
    }

    @Test(
        "the best format that both know is chosen",
        arguments: [
            ("application/vnd.kubernetes.protobuf,application/json", Client.protobuf),
            ("application/json;q=0.9, application/vnd.kubernetes.protobuf", Client.protobuf),
            ("application/vnd.kubernetes.protobuf;q=0.5, application/json;q=0.8", Client.json),
            ("application/json;as=Table;v=v1;g=meta.k8s.io, application/json", Client.json), ("*/*", Client.json),
        ])
    func negotiation(accept: String, chosen: String) async throws {
        try await Client.with { client in
            let answer = try await client.get("/api/v1/nodes", accept: accept)
            #expect(answer.headers["Content-Type"] == chosen)
        }
    }

    @Test("custom resources have no protobuf")
    func custom() async throws {
        try await Client.with { client in
            client.server.register(.clusterNetworkPolicies)
            try client.server.put(Example.clusterNetworkPolicy("p"))
            let path = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
            #expect(try await client.get(path, accept: Client.protobuf).code == 406)
            let list = try await client.get(path, accept: "\(Client.protobuf),\(Client.json)").json
            #expect(list?["kind"]?.string == "ClusterNetworkPolicyList")
            #expect(list?["items"]?.array?.first?["kind"]?.string == "ClusterNetworkPolicy")
        }
    }
}

extension JSONValue {
    /// With one more member of its metadata.
    fileprivate func with(_ key: String, _ value: JSONValue) -> JSONValue {
        var members = object ?? [:]
        var metadata = members["metadata"]?.object ?? [:]
        metadata[key] = value
        members["metadata"] = .object(metadata)
        return .object(members)
    }
}
