/// One end of a BFD session in asynchronous mode with a neighbour on the same link (RFC 5880 §6, RFC 5881): no
/// authentication, no echo, no demand mode of its own. Both ends are active: it sends before it hears anything.
///
/// Time is that of a monotonic clock since any fixed instant. The caller gives each packet with the time it arrived at,
/// sleeps until `nextDeadline`, and then reads what has arrived *before* it calls `tick`: a process that was held up
/// for longer than the detection time does not take its own sleep for the neighbour's.
package struct LivenessSession: Sendable {
    /// This end's number for the session: never 0, and no other session's on this machine.
    package let localDiscriminator: UInt32
    package private(set) var parameters: SessionParameters
    package private(set) var state = SessionState.down
    /// Why the session is not Up.
    package private(set) var diagnostic = Diagnostic.none
    package private(set) var neighbor = Neighbor()

    /// The intervals that timers use. They lag behind `contents` until the neighbour has seen those.
    private var inForce: Intervals
    private var poll = PollSequence()
    private var heardAt: Duration?
    private var owesFinal = false
    private var sent: Transmission?
    /// When something last happened to the session: what is due at once is due since then.
    private var steppedAt: Duration

    private struct Intervals: Hashable {
        /// Microseconds: `bfd.DesiredMinTxInterval` and `bfd.RequiredMinRxInterval`.
        var desiredMinTx: UInt32
        var requiredMinRx: UInt32
    }

    private struct Transmission: Hashable {
        /// Without P and F.
        let packet: ControlPacket
        let at: Duration
        /// Which part of the interval passes before the next: 7,500…10,000 of 10,000.
        let share: Int
    }

    /// What a tick led to.
    package struct Tick: Hashable, Sendable {
        /// To be sent at once in this order: one, or an answer and then one; often none.
        package var packets: [ControlPacket] = []
        package var change: StateChange?
    }

    /// Microseconds between packets at the least while the session is not Up (RFC 5880 §6.8.3).
    package static let slowInterval: UInt32 = 1_000_000

    /// A session that is Down, and has a packet to send at once.
    package init(localDiscriminator: UInt32, parameters: SessionParameters, now: Duration) {
        precondition(localDiscriminator != 0)
        self.localDiscriminator = localDiscriminator
        self.parameters = parameters
        inForce = Intervals(
            desiredMinTx: max(parameters.desiredMinTxInterval, Self.slowInterval),
            requiredMinRx: parameters.requiredMinRxInterval)
        steppedAt = now
    }
}

// MARK: What happens to it

extension LivenessSession {
    /// Takes a packet that came over the session's link from the neighbour's address with a hop limit of 255, by the
    /// steps of RFC 5880 §6.8.6. One that names another session is discarded.
    package mutating func receive(_ packet: ControlPacket, now: Duration) -> StateChange? {
        guard packet.yourDiscriminator == 0 || packet.yourDiscriminator == localDiscriminator else { return nil }
        steppedAt = now
        heardAt = now
        let before = neighbor
        neighbor = Neighbor(packet)
        if poll.hears(final: packet.isFinal) { inForce = advertised }
        guard state != .adminDown else { return nil }
        defer { owesFinal = owesFinal || packet.isPoll }
        switch (state, packet.state) {
        case (.initializing, .adminDown), (.up, .adminDown):
            return enter(.down, .neighborSignaledDown, "the neighbour is administratively down")
        case (.down, .down): return enter(.initializing, diagnostic, "the neighbour is heard")
        case (.down, .initializing): return enter(.up, .none, "the neighbour hears this end")
        case (.initializing, .initializing), (.initializing, .up):
            return enter(.up, .none, "the neighbour hears this end")
        case (.up, .down): return enter(.down, .neighborSignaledDown, Self.whyDown(packet, before: before))
        default: return nil
        }
    }

    /// Gives up on a silent neighbour, and says what to send.
    package mutating func tick(now: Duration, using random: inout some RandomNumberGenerator) -> Tick {
        var tick = Tick()
        if let end = detectionDeadline, now >= end {
            steppedAt = now
            tick.change = forgetNeighbor(silentFor: detectionTime)
        }
        if owesFinal {
            owesFinal = false
            var answer = contents
            answer.isFinal = true
            tick.packets.append(answer)
        }
        if let due = nextTransmission, now >= due {
            var packet = contents
            // A neighbour that must not miss a single packet is given time to spare (RFC 5880 §6.8.7).
            let most = packet.detectMultiplier == 1 ? 9_000 : 10_000
            sent = Transmission(packet: packet, at: now, share: .random(in: 7_500...most, using: &random))
            packet.isPoll = poll.isRunning
            tick.packets.append(packet)
        }
        return tick
    }

    /// Takes other parameters; while the session is Up the neighbour confirms them before they slow anything down.
    package mutating func change(_ parameters: SessionParameters, now: Duration) {
        steppedAt = now
        let before = advertised
        self.parameters = parameters
        advertise(before)
    }

    /// Holds the session down (RFC 5880 §6.8.16). The neighbour learns of it as long as `tick` goes on, so that should
    /// go on for `remoteDetectionTime` before the session is dropped.
    package mutating func disable(_ diagnostic: Diagnostic = .administrativelyDown, now: Duration) -> StateChange? {
        guard state != .adminDown else { return nil }
        steppedAt = now
        return enter(.adminDown, diagnostic, "disabled: \(diagnostic)")
    }

    /// Ends what `disable` began.
    package mutating func enable(now: Duration) -> StateChange? {
        guard state == .adminDown else { return nil }
        steppedAt = now
        return enter(.down, .none, "enabled")
    }

    private mutating func enter(_ next: SessionState, _ diagnostic: Diagnostic, _ reason: String) -> StateChange {
        let isPathFailure = state == .up && next == .down && neighbor.state != .adminDown
        let change = StateChange(
            from: state, to: next, diagnostic: diagnostic, isPathFailure: isPathFailure, reason: reason)
        let before = advertised
        state = next
        self.diagnostic = diagnostic
        advertise(before)
        return change
    }

    /// The detection time has passed: RFC 5880 §6.8.4, and §6.8.1 for the discriminator. The rest goes with it, or a
    /// neighbour whose last word was that it wants no packets would never get one again.
    private mutating func forgetNeighbor(silentFor time: Duration) -> StateChange? {
        let was = neighbor
        neighbor = Neighbor()
        heardAt = nil
        owesFinal = false
        poll = PollSequence()
        guard state == .initializing || state == .up else { return nil }
        let agreed = max(inForce.requiredMinRx, was.desiredMinTxInterval)
        return enter(
            .down, .detectionTimeExpired,
            "no packet for \(time) (\(was.detectMultiplier) × \(Duration.microseconds(agreed)))")
    }

    private static func whyDown(_ packet: ControlPacket, before: Neighbor) -> String {
        packet.myDiscriminator == before.discriminator
            ? "the neighbour is down: \(packet.diagnostic)"
            : "the neighbour has restarted: its discriminator was \(before.discriminator), "
                + "is \(packet.myDiscriminator)"
    }
}

// MARK: Intervals

extension LivenessSession {
    /// What packets say of this end's intervals.
    private var advertised: Intervals {
        Intervals(
            desiredMinTx: state == .up
                ? parameters.desiredMinTxInterval : max(parameters.desiredMinTxInterval, Self.slowInterval),
            requiredMinRx: parameters.requiredMinRxInterval)
    }

    /// Lets new intervals take force, at once or after a poll sequence (RFC 5880 §6.8.3).
    private mutating func advertise(_ before: Intervals) {
        let next = advertised
        if next != before, neighbor.discriminator != 0 { poll.begin() }
        // Up: to send less, or to expect more, waits until the neighbour knows.
        if state != .up || next.desiredMinTx < inForce.desiredMinTx { inForce.desiredMinTx = next.desiredMinTx }
        if state != .up || next.requiredMinRx > inForce.requiredMinRx { inForce.requiredMinRx = next.requiredMinRx }
    }

    /// The next packet without P and F (RFC 5880 §6.8.7).
    private var contents: ControlPacket {
        ControlPacket(
            state: state, diagnostic: diagnostic, detectMultiplier: parameters.detectMultiplier,
            myDiscriminator: localDiscriminator, yourDiscriminator: neighbor.discriminator,
            desiredMinTxInterval: advertised.desiredMinTx, requiredMinRxInterval: advertised.requiredMinRx)
    }
}

// MARK: Time

extension LivenessSession {
    /// The time between this end's packets, before jitter.
    package var transmitInterval: Duration {
        .microseconds(max(inForce.desiredMinTx, neighbor.requiredMinRxInterval))
    }

    /// For how long the neighbour may be silent (RFC 5880 §6.8.4); zero where it has not been heard.
    package var detectionTime: Duration {
        .microseconds(max(inForce.requiredMinRx, neighbor.desiredMinTxInterval)) * Int(neighbor.detectMultiplier)
    }

    /// For how long the neighbour bears this end's silence.
    package var remoteDetectionTime: Duration { transmitInterval * Int(parameters.detectMultiplier) }

    /// When to call `tick`; in the past where it is due. `nil`: only a packet can bring anything about.
    package var nextDeadline: Duration? {
        [owesFinal ? steppedAt : nil, detectionDeadline, nextTransmission].compactMap { $0 }.min()
    }

    private var detectionDeadline: Duration? { heardAt.map { $0 + detectionTime } }

    private var nextTransmission: Duration? {
        // News is sent at once (RFC 5880 §6.8.7, the last paragraph before the packet's contents).
        guard let sent, sent.packet == contents else { return steppedAt }
        let isUnwanted =
            neighbor.isInDemandMode && state == .up && neighbor.state == .up && !poll.isRunning
        guard !isUnwanted, neighbor.requiredMinRxInterval != 0 else { return nil }
        return sent.at + transmitInterval * sent.share / 10_000
    }
}
