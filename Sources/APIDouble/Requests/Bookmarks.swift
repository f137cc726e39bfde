import KnetCore

extension StoredObject {
    /// What a bookmark carries: an object with nothing but its kind and a revision, and what Go writes of empty fields.
    /// - Parameter endsInitialEvents: says that all objects there are have been told.
    static func bookmark(_ resource: Resource, revision: Int, endsInitialEvents: Bool) -> StoredObject {
        var content = resource.isCustom ? [:] : emptyContent[resource.kind] ?? [:]
        content["kind"] = .string(resource.kind)
        content["apiVersion"] = .string(resource.apiVersion)
        if endsInitialEvents { content["metadata"] = ["annotations": ["k8s.io/initial-events-end": "true"]] }
        return StoredObject(
            resource: resource, key: ObjectKey(namespace: "", name: ""), revision: revision, json: .object(content))
    }

    private static let emptyContent: [String: [String: JSONValue]] = [
        "Namespace": ["spec": [:], "status": [:]],
        "Node": [
            "spec": [:],
            "status": [
                "daemonEndpoints": ["kubeletEndpoint": ["Port": 0]],
                "nodeInfo": [
                    "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
                    "architecture": "",
                ],
            ],
        ],
        "Pod": ["spec": ["containers": .null], "status": [:]],
        "Service": ["spec": [:], "status": ["loadBalancer": [:]]],
        "EndpointSlice": ["addressType": "", "endpoints": .null, "ports": .null],
        "NetworkPolicy": ["spec": ["podSelector": [:]]],
    ]
}
