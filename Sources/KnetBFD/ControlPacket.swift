/// A BFD Control packet without authentication (RFC 5880 §4.1): 24 bytes in network order.
package struct ControlPacket: Hashable, Sendable {
    /// Bytes on the wire.
    package static let length = 24

    package var diagnostic = Diagnostic.none
    package var state: SessionState
    /// P: the sender wants an answer with F.
    package var isPoll = false
    /// F: this answers a packet with P.
    package var isFinal = false
    /// C: the sender's BFD lives on when its control plane restarts.
    package var isControlPlaneIndependent = false
    /// D: the sender is in demand mode and wants no periodic packets.
    package var isDemand = false
    /// Packets in a row that may be lost: 1…255.
    package var detectMultiplier: UInt8
    /// The sender's own number for the session, never 0.
    package var myDiscriminator: UInt32
    /// The receiver's number for the session; 0 where the sender does not know it.
    package var yourDiscriminator: UInt32
    /// Microseconds that the sender would like between its packets.
    package var desiredMinTxInterval: UInt32
    /// Microseconds that the sender needs between packets it gets; 0: it wants no periodic ones.
    package var requiredMinRxInterval: UInt32
    /// Microseconds that the sender needs between echo packets it gets; 0: it returns none.
    package var requiredMinEchoRxInterval: UInt32 = 0

    /// Why bytes are not a packet to receive: the checks of RFC 5880 §6.8.6 that need no session, in its order.
    package enum Fault: Error, Hashable, CustomStringConvertible {
        case tooShort(bytes: Int)
        case version(UInt8)
        case length(UInt8, payload: Int)
        case multiplierZero
        case multipoint
        case noDiscriminator
        case noPartner(SessionState)
        case authenticated

        package var description: String {
            switch self {
            case .tooShort(let bytes): "\(bytes) bytes are fewer than a packet's 24"
            case .version(let version): "version \(version) is not 1"
            case .length(let length, let payload): "length \(length) is not in 24…\(payload)"
            case .multiplierZero: "a detection multiplier of 0"
            case .multipoint: "the multipoint bit is set"
            case .noDiscriminator: "a discriminator of 0"
            case .noPartner(let state): "state \(state) towards nobody"
            case .authenticated: "authentication, which is not in use here"
            }
        }
    }

    /// Reads the payload of a datagram; bytes after the packet's own length are ignored.
    package init(_ payload: some Collection<UInt8>) throws(Fault) {
        let bytes = Array(payload.prefix(Self.length))
        guard bytes.count == Self.length else { throw .tooShort(bytes: bytes.count) }
        guard bytes[0] >> 5 == 1 else { throw .version(bytes[0] >> 5) }
        let isAuthenticated = bytes[1] & Flag.authentication != 0
        guard Int(bytes[3]) >= (isAuthenticated ? 26 : Self.length), Int(bytes[3]) <= payload.count else {
            throw .length(bytes[3], payload: payload.count)
        }
        guard bytes[2] != 0 else { throw .multiplierZero }
        guard bytes[1] & Flag.multipoint == 0 else { throw .multipoint }
        func word(_ index: Int) -> UInt32 { bytes[index..<index + 4].reduce(0) { $0 << 8 | UInt32($1) } }
        guard word(4) != 0 else { throw .noDiscriminator }
        state = SessionState(bits: bytes[1] >> 6)
        guard word(8) != 0 || state == .down || state == .adminDown else { throw .noPartner(state) }
        guard !isAuthenticated else { throw .authenticated }
        diagnostic = Diagnostic(rawValue: bytes[0] & 0x1F)
        isPoll = bytes[1] & Flag.poll != 0
        isFinal = bytes[1] & Flag.final != 0
        isControlPlaneIndependent = bytes[1] & Flag.controlPlaneIndependent != 0
        isDemand = bytes[1] & Flag.demand != 0
        detectMultiplier = bytes[2]
        myDiscriminator = word(4)
        yourDiscriminator = word(8)
        desiredMinTxInterval = word(12)
        requiredMinRxInterval = word(16)
        requiredMinEchoRxInterval = word(20)
    }

    package init(
        state: SessionState, diagnostic: Diagnostic = .none, detectMultiplier: UInt8, myDiscriminator: UInt32,
        yourDiscriminator: UInt32, desiredMinTxInterval: UInt32, requiredMinRxInterval: UInt32
    ) {
        self.state = state
        self.diagnostic = diagnostic
        self.detectMultiplier = detectMultiplier
        self.myDiscriminator = myDiscriminator
        self.yourDiscriminator = yourDiscriminator
        self.desiredMinTxInterval = desiredMinTxInterval
        self.requiredMinRxInterval = requiredMinRxInterval
    }

    /// The 24 bytes to send.
    package var bytes: [UInt8] {
        var flags = state.rawValue << 6
        if isPoll { flags |= Flag.poll }
        if isFinal { flags |= Flag.final }
        if isControlPlaneIndependent { flags |= Flag.controlPlaneIndependent }
        if isDemand { flags |= Flag.demand }
        let words = [
            myDiscriminator, yourDiscriminator, desiredMinTxInterval, requiredMinRxInterval, requiredMinEchoRxInterval,
        ]
        return [1 << 5 | diagnostic.rawValue, flags, detectMultiplier, UInt8(Self.length)]
            + words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * UInt32($0))) } }
    }

    private enum Flag {
        static let poll: UInt8 = 1 << 5
        static let final: UInt8 = 1 << 4
        static let controlPlaneIndependent: UInt8 = 1 << 3
        static let authentication: UInt8 = 1 << 2
        static let demand: UInt8 = 1 << 1
        static let multipoint: UInt8 = 1 << 0
    }
}

/// How packets of a session between neighbours travel (RFC 5881 §4, §5).
package enum SingleHop {
    /// The UDP port that they are sent to.
    package static let port: UInt16 = 3784
    /// The ports that they may be sent from; a session keeps to one, no two sessions share one.
    package static let sourcePorts: ClosedRange<UInt16> = 49152...65535
    /// The TTL or hop limit that they leave with; one that arrives with less is not a neighbour's and is discarded.
    package static let hopLimit: UInt8 = 255
}
