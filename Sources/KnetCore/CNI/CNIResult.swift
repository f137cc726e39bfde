/// The answer to ADD, in the terms of the specification's newest version; older versions are written from it.
public struct CNIResult: Hashable, Sendable {
    public struct Interface: Hashable, Sendable {
        public let name: String
        public let mac: MACAddress
        /// Bytes.
        public let mtu: Int
        /// Path of the network namespace; `nil` on the host.
        public let sandbox: String?

        public init(name: String, mac: MACAddress, mtu: Int, sandbox: String?) {
            self.name = name
            self.mac = mac
            self.mtu = mtu
            self.sandbox = sandbox
        }
    }

    /// The host's end, then the pod's.
    public let interfaces: [Interface]
    public let addresses: [IPAddress]
    /// Default gateway of each family.
    public let gateways: [IPFamily: IPAddress]
    /// The network configuration's own `dns`.
    public let dns: JSONValue?

    public init(
        interfaces: [Interface], addresses: [IPAddress], gateways: [IPFamily: IPAddress], dns: JSONValue?
    ) {
        self.interfaces = interfaces
        self.addresses = addresses
        self.gateways = gateways
        self.dns = dns
    }

    /// - Parameter previous: the result of the plugins before this one in a chain, which comes first.
    public func json(version: CNIVersion, after previous: JSONValue? = nil) -> JSONValue {
        let own = json(version: version)
        guard var merged = previous?.object, !merged.isEmpty else { return own }
        let shift = merged["interfaces"]?.array?.count ?? 0
        let addresses = (own["ips"]?.array ?? []).map { address -> JSONValue in
            var members = address.object ?? [:]
            members["interface"] = members["interface"]?.integer.map { .integer($0 + shift) }
            return .object(members)
        }
        merged["cniVersion"] = own["cniVersion"]
        for (key, values) in [
            ("interfaces", own["interfaces"]?.array ?? []), ("ips", addresses), ("routes", own["routes"]?.array ?? []),
        ] {
            merged[key] = .array((merged[key]?.array ?? []) + values)
        }
        if merged["dns"] == nil { merged["dns"] = own["dns"] }
        return .object(merged)
    }

    private func json(version: CNIVersion) -> JSONValue {
        let podInterface = interfaces.lastIndex { $0.sandbox != nil } ?? interfaces.count - 1
        return [
            "cniVersion": .string(version.rawValue),
            "interfaces": .array(
                interfaces.map { interface in
                    var members: [String: JSONValue] = [
                        "name": .string(interface.name), "mac": .string(interface.mac.description),
                    ]
                    members["sandbox"] = interface.sandbox.map(JSONValue.string)
                    if version >= .v110 { members["mtu"] = .integer(interface.mtu) }
                    return .object(members)
                }),
            "ips": .array(
                addresses.map { address in
                    var members: [String: JSONValue] = [
                        "address": .string(CIDR(host: address).description), "interface": .integer(podInterface),
                    ]
                    members["gateway"] = gateways[address.family].map { .string($0.description) }
                    if version < .v100 { members["version"] = address.family == .v4 ? "4" : "6" }
                    return .object(members)
                }),
            "routes": .array(
                gateways.sorted { $0.key < $1.key }.map { family, gateway in
                    ["dst": family == .v4 ? "0.0.0.0/0" : "::/0", "gw": .string(gateway.description)]
                }),
            "dns": dns ?? [:],
        ]
    }
}
