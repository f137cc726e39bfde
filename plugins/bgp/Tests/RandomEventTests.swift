import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

/// Events in any order. `KNETD_RANDOM_RUNS` says how many sequences.
@Suite struct RandomEventTests {
    /// What a driver has in hand, by the actions of a session.
    private struct Driver {
        var session: Session
        /// Connections that were asked for or accepted and are not closed, and whether they are open.
        var open: [ConnectionID: Bool] = [:]
        var isUp = false

        /// - Returns: what is wrong with an action.
        mutating func apply(_ actions: [SessionAction]) -> String? {
            for action in actions {
                switch action {
                case .connect(let id):
                    guard open.updateValue(false, forKey: id) == nil else { return "\(id) again" }
                case .close(let id):
                    guard open.removeValue(forKey: id) != nil else { return "close of \(id)" }
                case .send(_, let id):
                    guard open[id] == true else { return "send over \(id)" }
                case .up(_, let id):
                    guard !isUp, open[id] == true else { return "up over \(id)" }
                    isUp = true
                case .down:
                    guard isUp else { return "down" }
                    isUp = false
                case .update, .refresh: guard isUp else { return "routes" }
                default: break
                }
            }
            guard isUp == (session.state == .established) else { return "up: \(isUp)" }
            guard Set(session.connections.map(\.id)) == Set(open.keys) else { return "connections \(open)" }
            return session.brokenInvariant
        }
    }

    private struct Material {
        let frames: [Frame]
        var random: SeededGenerator
        var incoming = 0

        init(seed: UInt64) throws {
            random = SeededGenerator(seed: seed)
            var settings = SessionSettings(localAS: 64_513, identifier: 5)
            var messages: [[UInt8]] = []
            for identifier in [1, 5] as [UInt32] {
                settings.identifier = identifier
                settings.gracefulRestart = .init()
                messages.append(settings.open(isRestarting: identifier == 1).bytes)
                settings.gracefulRestart = nil
                messages.append(settings.open(isRestarting: false).bytes)
            }
            settings.localAS = 64_514
            messages.append(settings.open(isRestarting: false).bytes)
            messages += [
                [UInt8]
            ](repeating: Message.keepalive.bytes, count: 6)
            let writer = UpdateWriter(context: .external)
            messages += [
                writer.endOfRIB(.v4), writer.endOfRIB(.v6), Frame.message(.update, [0, 1, 0, 0]),
                RouteRefresh(AddressFamily(.v4)).bytes, Notification.cease(.connectionCollision).bytes,
                Notification.cease(.hardReset).bytes, Notification.cease(.administrativeReset).bytes,
            ]
            frames = try messages.map(frame)
        }

        mutating func number(_ range: Range<Int>) -> Int { Int.random(in: range, using: &random) }

        mutating func settings() -> SessionSettings {
            var settings = SessionSettings(localAS: [64_512, 64_513][number(0..<2)], identifier: 3)
            settings.peerAS = number(0..<4) == 0 ? nil : 64_513
            settings.isPassive = number(0..<5) == 0
            settings.isDynamic = number(0..<8) == 0
            if number(0..<5) == 0 { settings.holdTime = 0 }
            if number(0..<3) == 0 { settings.gracefulRestart = nil }
            return settings
        }

        mutating func id(_ driver: Driver) -> ConnectionID {
            guard number(0..<20) > 0, let id = driver.session.connections.randomElement(using: &random)?.id else {
                return ConnectionID(side: number(0..<2) == 0 ? .outgoing : .incoming, number: number(0..<9))
            }
            return id
        }

        /// Such as a driver may tell: connections that it has, timers that run; and others now and then.
        mutating func event(_ driver: inout Driver) -> SessionEvent {
            let id = id(driver)
            switch number(0..<40) {
            case 0...1: return .start(isRestarting: number(0..<2) == 0)
            case 2: return .stop(number(0..<3) == 0 ? .restart : .cease(.administrativeShutdown, text: "now"))
            case 3...6:
                incoming += 1
                let id = ConnectionID(side: .incoming, number: incoming + 100)
                driver.open[id] = true
                return .opened(id)
            case 7...12:
                guard let waiting = driver.open.keys.first(where: { driver.open[$0] == false }) else { break }
                if number(0..<4) == 0 {
                    driver.open[waiting] = nil
                    return .failed(waiting, "refused")
                }
                driver.open[waiting] = true
                return .opened(waiting)
            case 13:
                guard driver.open[id] != nil else { break }
                driver.open[id] = nil
                return .closed(id)
            case 14: return .malformed(.connectionNotSynchronized, id)
            case 15: return .askRefresh(.v4)
            case 16...19:
                return .timer(
                    (number(0..<5) == 0 ? nil : driver.session.timers.randomElement(using: &random)) ?? .hold(id))
            default: return .received(frames[number(0..<frames.count)], id)
            }
            return .sentUpdates(1)
        }
    }

    @Test func noSequenceOfEventsLeadsToAnIllegalState() throws {
        var material = try Material(seed: 7)
        var established = 0
        for run in 0..<number(ofEnvironment: "KNETD_RANDOM_RUNS", otherwise: 20_000) {
            var driver = Driver(session: Session(material.settings(), now: .zero))
            var (now, wasUp, events) = (Duration.zero, false, [SessionEvent]())
            for _ in 0..<40 {
                let event = events.isEmpty ? SessionEvent.start(isRestarting: false) : material.event(&driver)
                events.append(event)
                now += .milliseconds(material.number(0..<40_000))
                let random = Double.random(in: 0..<1, using: &material.random)
                let actions = driver.session.handle(event, now: now, random: random)
                if let fault = driver.apply(actions) {
                    Issue.record("run \(run), \(driver.session.settings): \(fault) by \(actions) after \(events)")
                    return
                }
                wasUp = wasUp || driver.isUp
            }
            if wasUp { established += 1 }
        }
        #expect(established > 0, "no session came up")
    }
}
