import FoundationEssentials
import KnetCore
import NIOHTTP1

/// Writes what plugins have to say of Services to the API server.
final class StatusWriter: ClusterWriter {
    private let client: APIClient
    private let lease: LeaseHolder
    private let nodeName: String

    init(client: APIClient, lease: LeaseHolder, nodeName: String) {
        self.client = client
        self.lease = lease
        self.nodeName = nodeName
    }

    var isElected: Bool { lease.isElected }
    var elected: String? { lease.elected }

    func services() async throws -> [Service] {
        guard let resource = Resource(.service) else { return [] }
        var reader = ObjectReader(.service)
        var found: [Service] = []
        var next: String?
        repeat {
            var request = APIClient.Request(path: resource.path)
            request.accept = "\(MediaType.protobuf),\(MediaType.json)"
            // Without a revision: as it is in the server's store, not as its cache has it.
            request.query = [("limit", "500")] + (next.map { [("continue", $0)] } ?? [])
            let (body, isProtobuf) = try await client.bytes(request)
            let page = try ListPage(body, isProtobuf: isProtobuf, &reader)
            for case .service(let service) in page.objects.map(\.object) { found.append(service) }
            next = page.next
        } while next != nil
        return found
    }

    func write(_ status: ServiceAddresses, of service: ObjectKey) async throws {
        guard lease.isElected else { throw NotElected(holder: lease.elected) }
        var condition: JSONValue = [
            "type": .string(ServiceAddresses.conditionType), "$patch": "delete",
        ]
        if let written = status.condition {
            condition = [
                "type": .string(written.type), "status": .string(written.status),
                "reason": .string(written.reason ?? ""), "message": .string(written.message ?? ""),
                "lastTransitionTime": .string(Date().formatted(.iso8601)),
            ]
        }
        var changes: [String: JSONValue] = ["conditions": [condition]]
        if let addresses = status.addresses {
            changes["loadBalancer"] = [
                "ingress": addresses.isEmpty
                    ? .null : .array(addresses.map { .object(["ip": .string($0.description)]) })
            ]
        }
        var request = APIClient.Request(
            method: .PATCH, path: "/api/v1/namespaces/\(service.namespace)/services/\(service.name)/status")
        request.contentType = MediaType.strategicMerge
        request.body = Array(JSONValue.object(["status": .object(changes)]).text().utf8)
        // Longer than that, another may have been elected.
        request.patience = .seconds(3)
        do {
            _ = try await client.bytes(request)
        } catch {
            // One that is gone needs no addresses.
            if error.kind != .notServed { throw error }
        }
    }

    func tell(_ notice: ClusterNotice) async throws {
        let now = JSONValue.string(Date().formatted(.iso8601))
        let unique = String(MicroTime.nanoseconds, radix: 16)
        let event: JSONValue = [
            "apiVersion": "v1", "kind": "Event",
            "metadata": [
                "name": .string("\(notice.object.name).\(unique)"), "namespace": .string(notice.object.namespace),
            ],
            "involvedObject": [
                "apiVersion": "v1", "kind": .string(notice.object.kind.rawValue),
                "namespace": .string(notice.object.namespace), "name": .string(notice.object.name),
            ],
            "reason": .string(notice.reason), "message": .string(notice.message),
            "type": notice.isWarning ? "Warning" : "Normal",
            "source": ["component": "knetd", "host": .string(nodeName)],
            "reportingComponent": "knetd", "reportingInstance": .string(nodeName),
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        ]
        var request = APIClient.Request(
            method: .POST, path: "/api/v1/namespaces/\(notice.object.namespace)/events")
        request.contentType = MediaType.json
        request.body = Array(event.text().utf8)
        _ = try await client.bytes(request)
    }

    private struct NotElected: Error, CustomStringConvertible {
        let holder: String?
        var description: String { "\(holder ?? "nobody") writes for the cluster, not this knetd" }
    }
}
