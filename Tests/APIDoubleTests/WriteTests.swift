import APIDouble
import KnetCore
import Testing

@Suite struct WriteTests {
    @Test("a created object has an identity, a time and a revision")
    func create() async throws {
        try await Client.with { client in
            let path = "/api/v1/namespaces/default/pods"
            let answer = try await client.request("POST", path, body: try Example.pod("a"))
            #expect(answer.code == 201)
            #expect(answer.json?.revision == 1001)
            #expect(answer.json?.at("metadata", "uid")?.string?.count == 36)
            #expect(answer.json?.at("metadata", "creationTimestamp")?.string?.hasSuffix("Z") == true)
            let again = try await client.request("POST", path, body: try Example.pod("a"))
            #expect(again.code == 409)
            #expect(again.json?["reason"]?.string == "AlreadyExists")
        }
    }

    @Test("a replaced object keeps its identity and its status")
    func replace() async throws {
        try await Client.with { client in
            let old = try client.server.put(Example.node("n"))
            let change = try JSONValue(
                text: #"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","labels":{"a":"b"}}}"#)
            let new = try await client.request("PUT", "/api/v1/nodes/n", body: change).json
            #expect(new?.at("metadata", "uid") == old.at("metadata", "uid"))
            #expect(new?.at("metadata", "labels", "a")?.string == "b")
            #expect(new?["status"] == old["status"])
            #expect(new?["spec"] == nil)
        }
    }

    @Test("a change of another version is 409, of nothing 404")
    func conflict() async throws {
        try await Client.with { client in
            var node = try client.server.put(Example.node("n"))
            try client.server.put(Example.node("n"))
            #expect(try await client.request("PUT", "/api/v1/nodes/n", body: node).code == 409)
            let patch = try JSONValue(text: #"{"metadata":{"resourceVersion":"1001"}}"#)
            let refusal = try await client.request(
                "PATCH", "/api/v1/nodes/n", body: patch, contentType: Client.mergePatch)
            #expect(refusal.json?["reason"]?.string == "Conflict")
            node = try Example.node("other")
            let missing = try await client.request("PUT", "/api/v1/nodes/other", body: node)
            #expect(missing.code == 404)
            #expect(missing.json?["message"]?.string == "nodes \"other\" not found")
        }
    }

    @Test("a merge patch sets, removes by null and replaces lists")
    func mergePatch() async throws {
        try await Client.with { client in
            try client.server.put(Example.pod("a", labels: ["x": "1", "y": "2"]))
            let patch = try JSONValue(
                text: #"{"metadata":{"labels":{"x":null,"z":"3"}},"spec":{"containers":[{"name":"d"}]}}"#)
            let new = try await client.request(
                "PATCH", "/api/v1/namespaces/default/pods/a", body: patch, contentType: Client.mergePatch
            ).json
            #expect(new?.at("metadata", "labels") == .object(["y": .string("2"), "z": .string("3")]))
            #expect(new?.at("spec", "containers") == .array([.object(["name": .string("d")])]))
        }
    }

    @Test("a strategic merge patch of the status merges conditions by type and leaves the rest alone")
    func strategicPatch() async throws {
        try await Client.with { client in
            try client.server.put(Example.node("n"))
            let patch = try JSONValue(
                text: #"""
                    {"metadata":{"annotations":{"a":"b"}},"spec":{"podCIDR":"10.9.0.0/24"},"status":{
                     "$setElementOrder/conditions":[{"type":"NetworkUnavailable"}],
                     "conditions":[{"type":"NetworkUnavailable","status":"False","reason":"Ready"},{"type":"New","status":"True"}]}}
                    """#)
            let new = try await client.request(
                "PATCH", "/api/v1/nodes/n/status", body: patch, contentType: Client.strategicPatch
            ).json
            let conditions = new?.at("status", "conditions")?.array?.map {
                "\($0["type"]?.string ?? "") \($0["status"]?.string ?? "")"
            }
            #expect(conditions == ["Ready True", "NetworkUnavailable False", "New True"])
            #expect(new?.at("metadata", "annotations", "a")?.string == "b")
            #expect(new?.at("spec", "podCIDR")?.string == "10.1.0.0/24")
            #expect(client.server.requests.last?.body?.contains("NetworkUnavailable") == true)
        }
    }

    @Test("a patch that changes nothing is no write")
    func unchanged() async throws {
        try await Client.with { client in
            try client.server.put(Example.node("n"))
            let patch = try JSONValue(text: #"{"spec":{"podCIDR":"10.1.0.0/24"}}"#)
            let answer = try await client.request(
                "PATCH", "/api/v1/nodes/n", body: patch, contentType: Client.mergePatch)
            #expect(answer.code == 200)
            #expect(client.server.revision == 1001)
        }
    }

    @Test("custom resources take no strategic patch, and nobody takes an unknown one")
    func unsupported() async throws {
        try await Client.with { client in
            client.server.register(.clusterNetworkPolicies)
            try client.server.putMany([Example.clusterNetworkPolicy("p"), Example.node("n")])
            let paths = ["/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies/p", "/api/v1/nodes/n"]
            for (path, type) in zip(paths, [Client.strategicPatch, "application/json-patch+json"]) {
                let refusal = try await client.request("PATCH", path, body: .object([:]), contentType: type)
                #expect(refusal.code == 415)
            }
        }
    }

    @Test("a deletion answers what is gone")
    func delete() async throws {
        try await Client.with { client in
            try client.server.put(Example.pod("a"))
            let path = "/api/v1/namespaces/default/pods/a"
            let answer = try await client.request("DELETE", path)
            #expect(answer.json?["status"]?.string == "Success")
            #expect(try await client.request("DELETE", path).code == 404)
            #expect(try await client.get(path).code == 404)
        }
    }

    @Test("unknown groups are 404 as text, unknown resources as a Status")
    func unknown() async throws {
        try await Client.with { client in
            let group = try await client.get("/apis/none.example/v1/things")
            #expect(group.code == 404)
            #expect(group.text == "404 page not found\n")
            let resource = try await client.get("/api/v1/things")
            #expect(resource.json?["message"]?.string == "the server could not find the requested resource")
            client.server.faults.forbidden = ["pods"]
            client.server.faults.unknown = ["services"]
            let forbidden = try await client.get("/api/v1/pods?watch=1")
            #expect(forbidden.code == 403)
            #expect(
                forbidden.json?["message"]?.string?.hasSuffix(
                    "cannot watch resource \"pods\" in API group \"\" at the cluster scope") == true)
            #expect(try await client.get("/api/v1/services").code == 404)
        }
    }

    @Test("requests are remembered as RBAC names them")
    func log() async throws {
        try await Client.with { client in
            _ = try await client.get("/version")
            _ = try await client.get("/apis/networking.k8s.io/v1/namespaces/x/networkpolicies?limit=5")
            _ = try await client.request(
                "PATCH", "/api/v1/nodes/n/status", body: .object([:]), contentType: Client.mergePatch)
            let requests = client.server.requests
            #expect(requests.map(\.verb) == ["", "list", "patch"])
            #expect(requests.map(\.apiGroup) == ["", "networking.k8s.io", ""])
            #expect(requests.map(\.code) == [200, 200, 404])
            #expect(requests[1].namespace == "x")
            #expect(requests[1].query == ["limit": "5"])
            #expect(requests[2].subresource == "status")
            #expect(requests[2].name == "n")
            #expect(requests[2].contentType == Client.mergePatch)
        }
    }
}
