/// What a runtime asks of one attachment beyond a link and addresses: the capabilities `portMappings`, `bandwidth` and
/// `mac` (https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md), and the interface of an earlier plugin.
public struct AttachmentOptions: Hashable, Sendable, Codable {
    public var hostPorts: [HostPort]
    public var bandwidth: Bandwidth?
    /// Of the pod's interface; `nil` leaves it to knetd.
    public var mac: MACAddress?
    /// Set where an earlier plugin of the chain made the interface: knetd adds to it and leaves it alone otherwise.
    public var chained: ChainedLink?

    public init(
        hostPorts: [HostPort] = [], bandwidth: Bandwidth? = nil, mac: MACAddress? = nil, chained: ChainedLink? = nil
    ) {
        self.hostPorts = hostPorts
        self.bandwidth = bandwidth
        self.mac = mac
        self.chained = chained
    }
}

/// A port of the node that leads to a port of a pod.
public struct HostPort: Hashable, Sendable, Codable {
    public enum Transport: String, Sendable, Codable, CaseIterable {
        case tcp, udp, sctp

        /// IANA's protocol number.
        public var number: UInt8 {
            switch self {
            case .tcp: 6
            case .udp: 17
            case .sctp: 132
            }
        }
    }

    public let transport: Transport
    public let port: UInt16
    public let podPort: UInt16
    /// `nil`: every address of the node. `0.0.0.0` and `::`: every address of the family.
    public let address: IPAddress?

    public init(transport: Transport, port: UInt16, podPort: UInt16, address: IPAddress? = nil) {
        self.transport = transport
        self.port = port
        self.podPort = podPort
        self.address = address
    }

    /// Whether both would take the same packets.
    public func conflicts(with other: HostPort) -> Bool {
        guard transport == other.transport, port == other.port else { return false }
        guard let address, let otherAddress = other.address else { return true }
        guard address.family == otherAddress.family else { return false }
        return address == otherAddress || address.number == 0 || otherAddress.number == 0
    }
}

extension HostPort: CustomStringConvertible {
    /// `tcp 192.0.2.1:8080 to 80`
    public var description: String {
        "\(transport) \(address.map { $0.family == .v6 ? "[\($0)]" : "\($0)" } ?? ""):\(port) to \(podPort)"
    }
}

/// Limits of a pod's traffic. A rate of 0 is no limit.
public struct Bandwidth: Hashable, Sendable, Codable {
    public struct Limit: Hashable, Sendable, Codable {
        /// Bytes per second.
        public let rate: UInt64
        /// Bytes.
        public let burst: UInt32

        public init(rate: UInt64, burst: UInt32) {
            self.rate = rate
            self.burst = burst
        }
    }

    /// To the pod.
    public let ingress: Limit?
    /// From the pod.
    public let egress: Limit?

    public init(ingress: Limit?, egress: Limit?) {
        self.ingress = ingress
        self.egress = egress
    }
}

/// An interface that an earlier plugin made.
public struct ChainedLink: Hashable, Sendable, Codable {
    /// `nil` where the pod's interface has no end on the host.
    public let hostLink: String?
    /// What that plugin gave the pod.
    public let addresses: [IPAddress]

    public init(hostLink: String?, addresses: [IPAddress]) {
        self.hostLink = hostLink
        self.addresses = addresses
    }
}
