import KnetBFD
import TestSupport
import Testing

/// Two ends of a session and a link between them, in simulated time.
struct SimulatedLink {
    var ends: [LivenessSession]
    private(set) var now = Duration.zero
    /// How long a packet is under way.
    var flight = Duration.milliseconds(2)
    /// The share of packets lost, by the end that sent them.
    var loss = [0.0, 0.0]
    /// Ends that neither send nor receive.
    var isStopped = [false, false]
    private(set) var changes: [(at: Duration, end: Int, change: StateChange)] = []
    private(set) var sent: [(at: Duration, end: Int, packet: ControlPacket)] = []
    private(set) var heardAt: [Duration?] = [nil, nil]
    private var underWay: [(arrival: Duration, end: Int, bytes: [UInt8])] = []
    var random: SeededGenerator

    init(_ first: SessionParameters, _ second: SessionParameters, seed: UInt64 = 1) {
        ends = [
            LivenessSession(localDiscriminator: 11, parameters: first, now: .zero),
            LivenessSession(localDiscriminator: 22, parameters: second, now: .zero),
        ]
        random = SeededGenerator(seed: seed)
    }

    var areUp: Bool { ends.allSatisfy { $0.state == .up } }

    /// Lets time pass; true as soon as `condition` holds, false where it does not until the time is over.
    @discardableResult mutating func run(
        for time: Duration, until condition: (SimulatedLink) -> Bool = { _ in false }
    ) -> Bool {
        let end = now + time
        var idle = 0
        while !condition(self) {
            let deadlines = (0...1).compactMap { isStopped[$0] ? nil : ends[$0].nextDeadline }
            guard let next = (deadlines + underWay.map(\.arrival)).min(), next <= end else {
                now = end
                return condition(self)
            }
            idle = next > now ? 0 : idle + 1
            guard idle < 100 else {
                Issue.record("due for ever at \(now): \(ends)")
                return false
            }
            now = max(now, next)
            deliver()
            for index in 0...1 where !isStopped[index] { tick(index) }
        }
        return true
    }

    private mutating func deliver() {
        let arrived = underWay.filter { $0.arrival <= now }
        underWay.removeAll { $0.arrival <= now }
        for (_, index, bytes) in arrived where !isStopped[index] {
            guard let packet = try? ControlPacket(bytes) else { continue }
            heardAt[index] = now
            note(ends[index].receive(packet, now: now), index)
        }
    }

    private mutating func tick(_ index: Int) {
        let tick = ends[index].tick(now: now, using: &random)
        note(tick.change, index)
        for packet in tick.packets {
            sent.append((now, index, packet))
            guard Double.random(in: 0..<1, using: &random) >= loss[index] else { continue }
            underWay.append((now + flight, 1 - index, packet.bytes))
        }
    }

    mutating func note(_ change: StateChange?, _ index: Int) {
        if let change { changes.append((now, index, change)) }
    }

    /// The end's process ends and comes back with nothing but its parameters and another discriminator.
    mutating func restart(_ index: Int, discriminator: UInt32) {
        ends[index] = LivenessSession(
            localDiscriminator: discriminator, parameters: ends[index].parameters, now: now)
        isStopped[index] = false
    }

    /// The packets that an end sent since, in order.
    func sent(by index: Int, since: Duration = .zero) -> [(at: Duration, packet: ControlPacket)] {
        sent.filter { $0.end == index && $0.at >= since }.map { ($0.at, $0.packet) }
    }

    /// What an end went through since, as `Down → Up` texts.
    func history(of index: Int, since: Duration = .zero) -> [String] {
        changes.filter { $0.end == index && $0.at >= since }.map { "\($0.change.from) → \($0.change.to)" }
    }
}

/// Milliseconds and a multiplier.
func parameters(_ transmit: UInt32, _ receive: UInt32, _ multiplier: UInt8 = 3) throws -> SessionParameters {
    guard
        let parameters = SessionParameters(
            desiredMinTxInterval: transmit * 1_000, requiredMinRxInterval: receive * 1_000,
            detectMultiplier: multiplier)
    else { throw ZeroParameter() }
    return parameters
}

struct ZeroParameter: Error {}
