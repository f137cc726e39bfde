import KnetCore

/// Many services with ten endpoints each.
struct ServiceContents: Sendable {
    static let endpoints = 10
    static let probeAddress = IPAddress.v4(0x0AFE_0001)

    let services: Int

    static var local: LocalNode {
        LocalNode(name: "node1", podCIDRs: [CIDR(containing: .v4(0x0A2A_0100), prefixLength: 24)], uplinks: [:])
    }

    var objects: [AnyClusterObject] {
        (0..<services).flatMap { [.service(service($0)), .endpointSlice(slice($0, version: 0))] }
    }

    func service(_ number: Int) -> Service {
        Self.service("service-\(number)", .v4(0x0A60_0001 + UInt32(number)))
    }

    private static func service(_ name: String, _ address: IPAddress) -> Service {
        var spec = Service.Spec(type: "ClusterIP", clusterIP: "\(address)", clusterIPs: ["\(address)"])
        spec.ports = [Service.Port(name: nil, protocol: "TCP", port: 80, targetPort: .number(8080), nodePort: nil)]
        return Service(metadata: Metadata(name: name, namespace: "default"), spec: spec)
    }

    /// - Parameter version: another one has another tenth endpoint.
    func slice(_ number: Int, version: Int) -> EndpointSlice {
        let first = UInt32(number * Self.endpoints)
        let addresses = (0..<UInt32(Self.endpoints)).map { index in
            let isLast = index == UInt32(Self.endpoints - 1)
            return IPAddress.v4(0x0B00_0000 + (first + index) + (isLast ? UInt32(version % 16) << 20 : 0))
        }
        return EndpointSlice(
            name: "service-\(number)-x", namespace: "default", service: "service-\(number)", addressType: "IPv4",
            endpoints: addresses.map {
                .init(
                    addresses: ["\($0)"], conditions: .init(ready: true, serving: true, terminating: false),
                    hostname: nil,
                    nodeName: "node\(number % 100)")
            }, ports: [.init(name: nil, port: 8080, protocol: "TCP")])
    }

    func probe(_ endpoint: IPAddress, port: UInt16) -> [AnyClusterObject] {
        let slice = EndpointSlice(
            name: "probe-x", namespace: "default", service: "probe", addressType: "IPv4",
            endpoints: (0..<1).map { _ in
                .init(addresses: ["\(endpoint)"], conditions: nil, hostname: nil, nodeName: "node1")
            }, ports: [.init(name: nil, port: Int(port), protocol: "TCP")])
        return [.service(Self.service("probe", Self.probeAddress)), .endpointSlice(slice)]
    }
}
