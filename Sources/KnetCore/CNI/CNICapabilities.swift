/// What a runtime asks for beyond a plain attachment, in any of the ways that runtimes have: `runtimeConfig`
/// (capabilities), `args.cni`, `CNI_ARGS`, or the network configuration itself, as the reference plugins portmap,
/// bandwidth, static and tuning read them (https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md).
extension CNIRequest {
    /// - Throws: `CNIError` with the place of what is wrong.
    public func options() throws(CNIError) -> AttachmentOptions {
        AttachmentOptions(
            hostPorts: try hostPorts(), bandwidth: try bandwidth(), mac: try requestedMAC(), chained: try chainedLink())
    }

    // MARK: Addresses

    /// Addresses that the pod must get: `ips`. A prefix length that comes along says nothing here: pods have host routes.
    public func requestedAddresses() throws(CNIError) -> [IPAddress] {
        let places: [(String, [String])] = [
            ("runtimeConfig.ips", try texts(config["runtimeConfig"]?["ips"], "runtimeConfig.ips")),
            ("args.cni.ips", try texts(config["args"]?["cni"]?["ips"], "args.cni.ips")),
            ("CNI_ARGS IP", (arguments["IP"] ?? "").split(separator: ",").map(String.init)),
        ]
        guard let (place, texts) = places.first(where: { !$0.1.isEmpty }) else { return [] }
        var addresses: [IPAddress] = []
        for text in texts {
            guard let address = text.split(separator: "/").first.flatMap({ IPAddress($0) }) else {
                throw CNIError(.invalidConfig, "\(place): \"\(text)\" is not an IP address")
            }
            guard !addresses.contains(where: { $0.family == address.family }) else {
                throw CNIError(
                    .invalidConfig, "\(place) has two addresses of \(address.family)",
                    details: "knetd gives a pod one of each family")
            }
            addresses.append(address)
        }
        return addresses
    }

    private func requestedMAC() throws(CNIError) -> MACAddress? {
        let places: [(String, String?)] = [
            ("runtimeConfig.mac", config["runtimeConfig"]?["mac"]?.string),
            ("args.cni.mac", config["args"]?["cni"]?["mac"]?.string), ("CNI_ARGS MAC", arguments["MAC"]),
        ]
        for case (let place, let text?) in places where !text.isEmpty {
            guard let mac = MACAddress(text), mac.isUnicast else {
                throw CNIError(.invalidConfig, "\(place): \"\(text)\" is not a unicast MAC address")
            }
            return mac
        }
        return nil
    }

    private func texts(_ value: JSONValue?, _ place: String) throws(CNIError) -> [String] {
        guard let value, value != .null else { return [] }
        guard let list = value.array else { throw CNIError(.invalidConfig, "\(place) is \(value.kind), not a list") }
        return list.map { $0.string ?? $0.text() }
    }

    // MARK: Host ports

    private func hostPorts() throws(CNIError) -> [HostPort] {
        guard let value = config["runtimeConfig"]?["portMappings"], value != .null else { return [] }
        guard let list = value.array else {
            throw CNIError(.invalidConfig, "runtimeConfig.portMappings is \(value.kind), not a list")
        }
        var hostPorts: [HostPort] = []
        for (index, element) in list.enumerated() {
            let place = "runtimeConfig.portMappings[\(index)]"
            // kubelet lists every port of a container; those that the node does not have come with 0.
            guard let port = element["hostPort"]?.integer, port != 0 else { continue }
            guard let number = UInt16(exactly: port) else { throw Self.noPort(place + ".hostPort", port) }
            guard let target = element["containerPort"]?.integer, let podPort = UInt16(exactly: target), podPort != 0
            else { throw Self.noPort(place + ".containerPort", element["containerPort"]?.integer ?? 0) }
            let hostPort = HostPort(
                transport: try Self.transport(element["protocol"], place), port: number, podPort: podPort,
                address: try Self.hostAddress(element["hostIP"], place))
            if let other = hostPorts.first(where: hostPort.conflicts), other != hostPort {
                throw CNIError(.invalidConfig, "\(place): \(hostPort) is in the way of \(other)")
            }
            if !hostPorts.contains(hostPort) { hostPorts.append(hostPort) }
        }
        return hostPorts
    }

    private static func noPort(_ place: String, _ number: Int) -> CNIError {
        CNIError(.invalidConfig, "\(place) is \(number), not a port from 1 to 65535")
    }

    private static func transport(_ value: JSONValue?, _ place: String) throws(CNIError) -> HostPort.Transport {
        guard let text = value?.string, !text.isEmpty else { return .tcp }
        guard let transport = HostPort.Transport(rawValue: text.lowercased()) else {
            throw CNIError(.invalidConfig, "\(place).protocol is \"\(text)\"", details: "one of tcp, udp, sctp")
        }
        return transport
    }

    private static func hostAddress(_ value: JSONValue?, _ place: String) throws(CNIError) -> IPAddress? {
        guard let text = value?.string, !text.isEmpty else { return nil }
        guard let address = IPAddress(text) else {
            throw CNIError(.invalidConfig, "\(place).hostIP: \"\(text)\" is not an IP address")
        }
        return address
    }

    // MARK: Bandwidth

    /// Rates are bits per second and bursts bits, as the reference plugin has them.
    private func bandwidth() throws(CNIError) -> Bandwidth? {
        let asked = config["runtimeConfig"]?["bandwidth"].flatMap { $0 == .null ? nil : $0 }
        let (source, place) = asked.map { ($0, "runtimeConfig.bandwidth.") } ?? (config, "")
        let bandwidth = Bandwidth(
            ingress: try Self.limit(source, "ingress", place), egress: try Self.limit(source, "egress", place))
        return bandwidth.ingress == nil && bandwidth.egress == nil ? nil : bandwidth
    }

    private static func limit(_ source: JSONValue, _ way: String, _ place: String) throws(CNIError) -> Bandwidth.Limit?
    {
        func number(_ key: String) throws(CNIError) -> UInt64 {
            guard let value = source[key], value != .null else { return 0 }
            guard let bits = value.integer.flatMap({ UInt64(exactly: $0) }) else {
                throw CNIError(.invalidConfig, "\(place)\(key) is \(value.kind), not a number of bits")
            }
            return bits
        }
        let rate = try number("\(way)Rate")
        let burst = try number("\(way)Burst")
        guard rate > 0 else { return nil }
        guard rate >= 8 else { throw CNIError(.invalidConfig, "\(place)\(way)Rate is less than one byte per second") }
        guard burst > 0 else {
            throw CNIError(.invalidConfig, "\(place)\(way)Rate is set, \(place)\(way)Burst is not")
        }
        return Bandwidth.Limit(rate: rate / 8, burst: UInt32(clamping: max(burst / 8, 1)))
    }

    // MARK: Chains

    /// The interface of this request where an earlier plugin of the chain made it already.
    private func chainedLink() throws(CNIError) -> ChainedLink? {
        guard let previous = config["prevResult"], previous != .null, command == .add else { return nil }
        let interfaces = previous["interfaces"]?.array ?? []
        guard
            let own = interfaces.firstIndex(where: {
                $0["name"]?.string == interface && $0["sandbox"]?.string?.isEmpty == false
            })
        else { return nil }
        let addresses = (previous["ips"]?.array ?? []).filter { ($0["interface"]?.integer ?? own) == own }
            .compactMap { $0["address"]?.string?.split(separator: "/").first.flatMap { IPAddress($0) } }
        guard !addresses.isEmpty else {
            throw CNIError(.invalidConfig, "prevResult has interface \(interface), but no address of it")
        }
        // The pair's end on the host is the last one that an ordinary plugin names: a bridge comes before it.
        let host = interfaces.last { ($0["sandbox"]?.string ?? "").isEmpty }?["name"]?.string
        return ChainedLink(hostLink: host, addresses: addresses)
    }
}
