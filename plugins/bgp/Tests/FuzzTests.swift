import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

/// Messages made by the grammar and broken at random. `KNETD_FUZZ_RUNS` says how many.
@Suite struct FuzzTests {
    @Test func whateverIsReadIsReadAgainFromWhatIsWritten() throws {
        var generator = MessageGenerator(seed: 1)
        var counts: [String: Int] = [:]
        for run in 0..<number(ofEnvironment: "KNETD_FUZZ_RUNS", otherwise: 200_000) {
            let context = generator.context()
            let bytes = generator.broken(generator.message(context))
            var frames = MessageFrames()
            frames.append(bytes)
            do throws(Notification) {
                while let frame = try frames.next() {
                    let outcome: String
                    do {
                        outcome = try Self.outcome(frame, context)
                    } catch {
                        outcome = "refused"
                        Issue.record("run \(run): \(bytes): \(error)")
                    }
                    counts[outcome, default: 0] += 1
                }
            } catch {
                #expect(!error.description.isEmpty)
                counts["header", default: 0] += 1
            }
        }
        for outcome in ["header", "open", "bad open", "notification", "keepalive", "refresh", "update"] {
            #expect(counts[outcome, default: 0] > 0, "\(counts)")
        }
        for reaction in [Reaction.attributeDiscard, .treatAsWithdraw, .sessionReset] {
            #expect(counts["\(reaction)", default: 0] > 0, "\(counts)")
        }
    }

    private struct Difference: Error {
        let first: String
        let second: String
    }

    /// - Throws: where what was read is not what is read again.
    private static func outcome(_ frame: Frame, _ context: UpdateContext) throws -> String {
        func check<Value: Equatable>(_ first: Value, _ second: Value?) throws {
            guard first != second else { return }
            throw Difference(first: "\(first)", second: "\(String(describing: second))")
        }
        switch frame.type {
        case .open:
            let open: Open
            do {
                open = try Open.read(frame)
            } catch {
                return "bad open"
            }
            try check(open, try Open.read(try BGPPluginTests.frame(open.bytes)))
            return "open"
        case .notification:
            let notification = Notification.read(frame)
            _ = notification.description
            try check(notification.bytes, frame.bytes)
            return "notification"
        case .keepalive: return "keepalive"
        case .routeRefresh:
            try check(RouteRefresh.read(frame)?.bytes, frame.bytes)
            return "refresh"
        case .update:
            let reading = Update.read(frame, context)
            if let again = try reading.again(context) { try check(reading.update.normalized, again) }
            return reading.reaction.map { "\($0)" } ?? "update"
        }
    }
}
