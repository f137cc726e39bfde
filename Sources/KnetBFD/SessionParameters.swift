/// What an operator sets of a session.
package struct SessionParameters: Hashable, Sendable {
    /// Microseconds between packets that this end would like to send while the session is Up: 1 or more. Elsewhere one
    /// second is the least (RFC 5880 §6.8.3).
    package let desiredMinTxInterval: UInt32
    /// Microseconds between packets that this end can take: 1 or more.
    package let requiredMinRxInterval: UInt32
    /// Packets in a row that the neighbour may miss before it gives up: 1…255.
    package let detectMultiplier: UInt8

    /// `nil` where a value is 0, which the protocol gives other meanings.
    package init?(desiredMinTxInterval: UInt32, requiredMinRxInterval: UInt32, detectMultiplier: UInt8) {
        guard desiredMinTxInterval > 0, requiredMinRxInterval > 0, detectMultiplier > 0 else { return nil }
        self.desiredMinTxInterval = desiredMinTxInterval
        self.requiredMinRxInterval = requiredMinRxInterval
        self.detectMultiplier = detectMultiplier
    }
}

/// What is known of the neighbour: the variables `bfd.Remote…` of RFC 5880 §6.8.1 as they are before it is heard.
package struct Neighbor: Hashable, Sendable {
    /// Its number for the session; 0 where it has not been heard within the detection time.
    package internal(set) var discriminator: UInt32 = 0
    package internal(set) var state = SessionState.down
    package internal(set) var diagnostic = Diagnostic.none
    /// Microseconds.
    package internal(set) var desiredMinTxInterval: UInt32 = 0
    /// Microseconds; 0: it wants no periodic packets.
    package internal(set) var requiredMinRxInterval: UInt32 = 1
    package internal(set) var detectMultiplier: UInt8 = 0
    package internal(set) var isInDemandMode = false
    /// Whether the loss of the session means loss of forwarding even while its control plane restarts (RFC 5882 §4.3.2).
    package internal(set) var isControlPlaneIndependent = false

    init() {}

    init(_ packet: ControlPacket) {
        discriminator = packet.myDiscriminator
        state = packet.state
        diagnostic = packet.diagnostic
        desiredMinTxInterval = packet.desiredMinTxInterval
        requiredMinRxInterval = packet.requiredMinRxInterval
        detectMultiplier = packet.detectMultiplier
        isInDemandMode = packet.isDemand
        isControlPlaneIndependent = packet.isControlPlaneIndependent
    }
}
