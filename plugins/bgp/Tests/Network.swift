import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

/// Two sessions and what lies between them: delays, attempts that fail, connections that break with or without a word.
struct Network {
    enum Happening {
        case timer(Int, SessionTimer, generation: Int)
        case arrives(ConnectionID, Int)
        case event(Int, SessionEvent)
        case bytes(Int, ConnectionID, [UInt8])
        case breaks
    }

    /// A connection as the network sees it: its id on both sides.
    struct Line {
        let ids: [ConnectionID]
        var isBroken = false
        /// When what was sent to a side last arrives.
        var arrival: [Duration]
        var frames = [MessageFrames(), MessageFrames()]
    }

    var sessions: [Session]
    var now = Duration.zero
    /// When the network stops to do harm.
    let peace: Duration
    private(set) var lines: [Line] = []
    private var queue: [(time: Duration, order: Int, happening: Happening)] = []
    private var order = 0
    private var generations: [[SessionTimer: Int]] = [[:], [:]]
    private var random: SeededGenerator
    private(set) var fault: String?

    init(_ settings: [SessionSettings], seed: UInt64, peace: Duration) {
        sessions = settings.map { Session($0, now: .zero) }
        random = SeededGenerator(seed: seed)
        self.peace = peace
        for side in 0...1 { schedule(.event(side, .start(isRestarting: false)), after: delay()) }
        schedule(.breaks, after: .seconds(1))
    }

    /// Whether both sides have the same one connection.
    var isWhole: Bool {
        let ids = sessions.map { $0.connections.map(\.id) }
        return sessions.allSatisfy { $0.state == .established && $0.connections.count == 1 }
            && lines.contains { !$0.isBroken && [$0.ids[0]] == ids[0] && [$0.ids[1]] == ids[1] }
    }

    /// Lets happen what happens up to then, or until the sessions are whole.
    mutating func run(until end: Duration, untilWhole: Bool = false) {
        while fault == nil, !(untilWhole && isWhole), let next = queue.first, next.time <= end {
            queue.removeFirst()
            now = next.time
            happen(next.happening)
        }
        if !(untilWhole && isWhole) { now = end }
    }

    private mutating func delay() -> Duration { .milliseconds(Int.random(in: 1...400, using: &random)) }

    private mutating func chance(_ percent: Int) -> Bool {
        now < peace && Int.random(in: 0..<100, using: &random) < percent
    }

    private mutating func schedule(_ happening: Happening, after wait: Duration) {
        order += 1
        let time = now + wait
        let place = queue.firstIndex { $0.time > time } ?? queue.count
        queue.insert((time, order, happening), at: place)
    }

    private func line(_ side: Int, _ id: ConnectionID) -> Int? { lines.firstIndex { $0.ids[side] == id } }

    private mutating func happen(_ happening: Happening) {
        switch happening {
        case .timer(let side, let timer, let generation):
            if generations[side][timer] == generation { tell(side, .timer(timer)) }
        case .event(let side, let event): tell(side, event)
        case .arrives(let id, let from):
            if chance(30) {
                if chance(50) { schedule(.event(from, .failed(id, "refused")), after: delay()) }
                return
            }
            var ids = [id, id]
            ids[1 - from] = ConnectionID(side: .incoming, number: order)
            lines.append(Line(ids: ids, arrival: [now, now]))
            deliver(from, .event(from, .opened(id)), line: lines.count - 1)
            tell(1 - from, .opened(ids[1 - from]))
        case .bytes(let side, let id, let bytes): read(side, id, bytes)
        case .breaks: breakSomething()
        }
    }

    private mutating func read(_ side: Int, _ id: ConnectionID, _ bytes: [UInt8]) {
        guard let line = line(side, id), !lines[line].isBroken else { return }
        lines[line].frames[side].append(bytes)
        do throws(Notification) {
            while let frame = try lines[line].frames[side].next() { tell(side, .received(frame, id)) }
        } catch {
            fault = "\(error)"
        }
    }

    private mutating func breakSomething() {
        guard now < peace else { return }
        schedule(.breaks, after: .milliseconds(Int.random(in: 10...30_000, using: &random)))
        guard let line = lines.indices.filter({ !lines[$0].isBroken }).randomElement(using: &random) else { return }
        lines[line].isBroken = true
        for side in 0...1 where chance(60) { schedule(.event(side, .closed(lines[line].ids[side])), after: delay()) }
    }

    /// Puts something behind what is on its way to `side` already.
    private mutating func deliver(_ side: Int, _ happening: Happening, line: Int) {
        let time = max(lines[line].arrival[side], now + delay())
        lines[line].arrival[side] = time
        schedule(happening, after: time - now)
    }

    private mutating func tell(_ side: Int, _ event: SessionEvent) {
        let random = Double.random(in: 0..<1, using: &random)
        for action in sessions[side].handle(event, now: now, random: random) { apply(action, side) }
        if let broken = sessions[side].brokenInvariant { fault = broken }
    }

    private mutating func apply(_ action: SessionAction, _ side: Int) {
        switch action {
        case .connect(let id): schedule(.arrives(id, side), after: delay())
        case .close(let id):
            guard let line = line(side, id), !lines[line].isBroken else { return }
            deliver(1 - side, .event(1 - side, .closed(lines[line].ids[1 - side])), line: line)
        case .send(let message, let id):
            guard let line = line(side, id) else { return }
            guard !lines[line].isBroken else {
                // The other side answers that it knows of no such connection.
                return schedule(.event(side, .closed(id)), after: delay())
            }
            let bytes = message.bytes
            let cut = Int.random(in: 0...bytes.count, using: &random)
            for part in [bytes[..<cut], bytes[cut...]] where !part.isEmpty {
                deliver(1 - side, .bytes(1 - side, lines[line].ids[1 - side], Array(part)), line: line)
            }
        case .setTimer(let timer, let wait):
            generations[side][timer] = order
            schedule(.timer(side, timer, generation: order), after: wait)
        case .cancelTimer(let timer): generations[side][timer] = nil
        default: break
        }
    }
}
