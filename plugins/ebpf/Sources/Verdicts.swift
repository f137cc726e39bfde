import CKnetBPF
import KnetCore
import Synchronization

/// Answers of the policies that the programs remember: about two addresses and a port each. What policies admit goes past the
/// stack; all else is left to the rules in it, which deny, count and tell.
final class Verdicts: Sendable {
    private typealias Question = VerdictExchange.Question

    private struct Contents {
        /// Those that were answered, by either address. The kernel forgets some of them unseen.
        var questions: [IPAddress: Set<Question>] = [:]
        var count = 0
    }

    private let map: BPFMap
    private let exchange: VerdictExchange
    /// Held while a question is answered: none is answered by what was true before it was forgotten.
    private let contents = Mutex(Contents())

    init(_ map: BPFMap, _ exchange: VerdictExchange) {
        self.map = map
        self.exchange = exchange
        exchange.remember { [weak self] in self?.forget($0) }
    }

    /// - Parameter links: of both ends, as the question had them.
    func answer(_ question: VerdictExchange.Question, _ links: (UInt32, UInt32)) {
        contents.withLock { contents in
            let key = MapForm.question(question)
            guard let isAdmitted = exchange.ask(question) else {
                // It may be asked again.
                try? map.remove(key)
                return
            }
            if contents.count > map.info.capacity * 2 { forgetAll(&contents) }
            contents.questions[question.source, default: []].insert(question)
            contents.questions[question.destination, default: []].insert(question)
            contents.count += 1
            try? map.set(key, MapForm.verdict(isAdmitted ? KNET_ADMITTED : KNET_LEFT, links))
        }
    }

    private func forget(_ addresses: Set<IPAddress>?) {
        contents.withLock { contents in
            guard let addresses else { return forgetAll(&contents) }
            for address in addresses {
                for question in contents.questions.removeValue(forKey: address) ?? [] {
                    let other = question.source == address ? question.destination : question.source
                    contents.questions[other]?.remove(question)
                    if contents.questions[other]?.isEmpty == true { contents.questions[other] = nil }
                    contents.count -= 1
                    try? map.remove(MapForm.question(question))
                }
            }
        }
    }

    /// Also what another process was told.
    private func forgetAll(_ contents: inout Contents) {
        contents = Contents()
        for key in map.keys { try? map.remove(key) }
    }
}
