import KnetCore
import KnetLinux

/// Why a packet to a Service leads nowhere, as the rules tell of it.
enum Refusal: String, CaseIterable {
    case endpoints = "no endpoints"
    case source = "loadBalancerSourceRanges"
    case port = "the Service has no such port"
    case service = "no Service has the address"

    /// Of nfnetlink_log.
    static let group: UInt16 = 108

    private static let prefix = "knetd-service "
    private static let perSecond = 10
    private static let bytes = 128

    /// The statement that tells, as nft prints it.
    var statement: String {
        "limit rate \(Self.perSecond)/second burst \(Self.perSecond) packets "
            + "log prefix \"\(Self.prefix)\(rawValue)\" group \(Self.group) snaplen \(Self.bytes)"
    }

    static func isTold(in text: String) -> Bool { text.contains(prefix) }

    /// - Returns: `nil` where no rule of ours told of the packet.
    static func event(_ packet: LoggedPacket) -> FlowEvent? {
        guard packet.prefix.hasPrefix(prefix) else { return nil }
        var event = FlowEvent(
            .refused, transport: packet.transport, from: .init(packet.source, port: packet.sourcePort),
            to: .init(packet.destination, port: packet.port))
        event.reason = String(packet.prefix.dropFirst(prefix.count))
        return event
    }
}
