import CKnetBPF
import KnetCore
import Synchronization

/// Answers of the policies that the programs remember: about two addresses and a port each. What policies admit goes past the
/// stack; all else is left to the rules in it, which deny, count and tell.
final class Verdicts: Sendable {
    private typealias Question = VerdictExchange.Question

    private struct Contents {
        /// Those that were answered, by either address. The kernel forgets the oldest unseen.
        private var questions: [IPAddress: Set<Question>] = [:]
        private(set) var count = 0

        mutating func note(_ question: Question) {
            if questions[question.source, default: []].insert(question).inserted { count += 1 }
            questions[question.destination, default: []].insert(question)
        }

        mutating func forgetAll() -> Set<Question> {
            let all = questions.values.reduce(into: Set<Question>()) { $0.formUnion($1) }
            (questions, count) = ([:], 0)
            return all
        }

        mutating func forget(_ addresses: Set<IPAddress>) -> Set<Question> {
            let all = addresses.reduce(into: Set<Question>()) { $0.formUnion(questions[$1] ?? []) }
            for question in all {
                for address in [question.source, question.destination] {
                    questions[address]?.remove(question)
                    if questions[address]?.isEmpty == true { questions[address] = nil }
                }
            }
            count -= all.count
            return all
        }
    }

    private let kernel: PathKernel
    private let exchange: VerdictExchange
    /// Held while a question is answered: none is answered by what was true before it was forgotten.
    private let contents = Mutex(Contents())

    init(_ kernel: PathKernel, _ exchange: VerdictExchange) {
        self.kernel = kernel
        self.exchange = exchange
        exchange.remember { [weak self] in self?.forget($0) }
    }

    private var map: BPFMap? { kernel.object?.maps[.verdicts] }

    /// - Parameter links: of both ends, as the question had them.
    func answer(_ question: VerdictExchange.Question, _ links: (UInt32, UInt32)) {
        guard let map else { return }
        contents.withLock { contents in
            contents.note(question)
            // Where it cannot be said, it stays asked until it is forgotten.
            if let isAdmitted = exchange.ask(question) {
                let verdict = MapForm.verdict(isAdmitted ? KNET_ADMITTED : KNET_LEFT, links)
                try? map.set(MapForm.question(question), verdict)
            }
            if contents.count > map.info.capacity * 2 { review(&contents, map) }
        }
    }

    /// Before there are programs it waits for them: those of an earlier process have its answers.
    private func forget(_ addresses: Set<IPAddress>?) {
        guard let map else { return exchange.rememberNothing() }
        contents.withLock { contents in
            guard let addresses else { return review(&contents, map) }
            for question in contents.forget(addresses) { try? map.remove(MapForm.question(question)) }
        }
    }

    /// Asks again about all that the kernel holds, also what another process was told, and has it forget what is not so any more.
    private func review(_ contents: inout Contents, _ map: BPFMap) {
        let before = contents.forgetAll()
        var held: [(key: [UInt8], value: [UInt8])] = []
        do {
            try map.visit { held.append((Array($0), Array($1))) }
        } catch {
            // What cannot be seen must not stay.
            for question in before { try? map.remove(MapForm.question(question)) }
        }
        for (key, value) in held {
            let question = MapForm.question(key, value)
            let isAdmitted = question.flatMap(exchange.ask)
            if let question, isAdmitted.map({ $0 ? KNET_ADMITTED : KNET_LEFT })?.rawValue == MapForm.answer(value) {
                contents.note(question)
            } else {
                try? map.remove(key)
            }
        }
    }
}
