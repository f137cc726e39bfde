import KnetCore

/// A large cluster as the API has it: names as long and labels as many as controllers make them.
struct ClusterContents {
    let nodes: Int
    let pods: Int
    let services: Int
    let endpoints = 10

    static let network: JSONValue = ["podCIDRs": ["10.0.0.0/8"]]

    var all: [JSONValue] {
        (0..<50).map(Self.namespace) + (0..<nodes).map(Self.node) + (0..<pods).map { pod($0, version: 0) }
            + (0..<services).flatMap { [service($0), slice($0, version: 0)] }
    }

    private static func namespace(_ index: Int) -> JSONValue {
        [
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": [
                "name": .string(name(ofNamespace: index)),
                "labels": ["kubernetes.io/metadata.name": .string(name(ofNamespace: index)), "team": "platform"],
            ],
        ]
    }

    private static func name(ofNamespace index: Int) -> String { "team-namespace-\(index % 50)" }

    /// The first is the playground's own.
    private static func name(ofNode index: Int) -> String { index == 0 ? "node1" : "worker-pool-a-node-\(index)" }

    static func node(_ index: Int) -> JSONValue {
        [
            "apiVersion": "v1", "kind": "Node",
            "metadata": [
                "name": .string(name(ofNode: index)),
                "labels": [
                    "kubernetes.io/hostname": .string(name(ofNode: index)), "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64", "topology.kubernetes.io/zone": .string("zone-\(index % 3)"),
                ],
            ],
            "spec": ["podCIDRs": [.string("10.\(index / 256 + 1).\(index % 256).0/24")]],
            "status": [
                "addresses": [
                    [
                        "type": "InternalIP",
                        "address": .string(index == 0 ? "192.168.77.11" : "172.16.\(index / 250).\(index % 250 + 1)"),
                    ]
                ]
            ],
        ]
    }

    private func address(_ pod: Int) -> String {
        "10.\(pod % nodes / 256 + 1).\(pod % nodes % 256).\(pod / nodes % 250 + 2)"
    }

    /// - Parameter version: differs from one change of the same pod to the next.
    func pod(_ index: Int, version: Int) -> JSONValue {
        [
            "apiVersion": "v1", "kind": "Pod",
            "metadata": [
                "name": .string("deployment-\(index / 10)-7c9fd6b5d4-\(index % 10)abcd"),
                "namespace": .string(Self.name(ofNamespace: index / 10)),
                "labels": ["app": .string("deployment-\(index / 10)"), "pod-template-hash": "7c9fd6b5d4"],
            ],
            "spec": [
                "nodeName": .string(Self.name(ofNode: index % nodes)),
                "containers": [
                    [
                        "name": "main", "image": "registry.example/image:v1",
                        "ports": [["name": "http", "containerPort": 8080, "protocol": "TCP"]],
                    ]
                ],
            ],
            "status": [
                "phase": "Running", "podIPs": [["ip": .string(address(index))]],
                "conditions": [["type": "Ready", "status": version % 2 == 0 ? "True" : "False"]],
            ],
        ]
    }

    private func service(_ index: Int) -> JSONValue {
        [
            "apiVersion": "v1", "kind": "Service",
            "metadata": [
                "name": .string("deployment-\(index)"), "namespace": .string(Self.name(ofNamespace: index)),
            ],
            "spec": [
                "type": "ClusterIP", "clusterIP": .string("172.20.\(index / 250).\(index % 250 + 1)"),
                "clusterIPs": [.string("172.20.\(index / 250).\(index % 250 + 1)")],
                "selector": ["app": .string("deployment-\(index)")],
                "ports": [["name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"]],
            ],
        ]
    }

    func slice(_ index: Int, version: Int) -> JSONValue {
        [
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": [
                "name": .string("deployment-\(index)-x7k2p"), "namespace": .string(Self.name(ofNamespace: index)),
                "labels": [
                    "kubernetes.io/service-name": .string("deployment-\(index)"),
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                ],
            ],
            "addressType": "IPv4", "ports": [["name": "http", "port": 8080, "protocol": "TCP"]],
            "endpoints": .array(
                (0..<endpoints).map { endpoint in
                    let pod = index * endpoints + endpoint
                    return [
                        "addresses": [.string(address(pod))], "nodeName": .string(Self.name(ofNode: pod % nodes)),
                        "zone": .string("zone-\(pod % nodes % 3)"),
                        "conditions": [
                            "ready": .boolean(endpoint != version % endpoints), "serving": true, "terminating": false,
                        ],
                    ]
                }),
        ]
    }
}
