import KnetCore
import KnetLinux

/// A packet's way through the table, by the rules that this process wrote and the elements that the kernel holds.
struct KernelWalk {
    /// A connection's first packet.
    struct Packet {
        var interface = ""
        /// By which it leaves.
        var target = ""
        let source: IPAddress
        let destination: IPAddress
        let transport: UInt8
        let port: UInt16
    }

    /// What the packet met, for people.
    private(set) var steps: [String] = []
    /// The counter of the rule that decided.
    private(set) var counter: String?

    private let chains: [String: ChainDefinition]
    private let sets: [String: SetDefinition]
    private let elements: SetElements

    private static let longest = 10_000
    private var rules = 0

    init(_ entries: [PolicyEntry], elements: SetElements) {
        var (chains, sets): ([String: ChainDefinition], [String: SetDefinition]) = ([:], [:])
        for entry in entries {
            switch entry {
            case .chain(let chain): chains[chain.name] = chain
            case .set(let set): sets[set.name] = set
            default: break
            }
        }
        self.chains = chains
        self.sets = sets
        self.elements = elements
    }

    /// - Returns: whether the packet passes what begins at this hook.
    mutating func passes(_ packet: Packet, hook: String) throws -> Bool { try run(hook, packet) != .drop }

    /// - Returns: `nil` where the chain ends without a verdict.
    private mutating func run(_ name: String, _ packet: Packet) throws -> RuleVerdict? {
        guard let chain = chains[name] else {
            steps.append("chain \(name) is not one that this process wrote")
            return nil
        }
        for rule in chain.rules {
            rules += 1
            guard rules < Self.longest else { return .drop }
            guard let verdict = try apply(rule, packet) else { continue }
            let words = rule.comment.split(separator: " ", maxSplits: 1).dropFirst().joined()
            switch verdict {
            case .accept, .drop:
                steps.append(
                    "\(name): \(verdict == .drop ? "dropped" : "accepted") by \(words.isEmpty ? "a rule" : words)")
                return verdict
            case .return:
                steps.append("\(name): passed on by \(words)")
                return nil
            case .jump(let target):
                if let verdict = try run(target, packet) { return verdict }
            case .goto(let target): return try run(target, packet)
            }
        }
        return nil
    }

    /// - Returns: `nil` where the packet does not agree with the rule, or the rule does not decide.
    private mutating func apply(_ rule: RuleDefinition, _ packet: Packet) throws -> RuleVerdict? {
        var registers = [UInt8](repeating: 0, count: 64)
        func store(_ bytes: [UInt8], _ register: UInt32) {
            let start = Int(register) * 4
            // What is shorter than a register is padded.
            for index in 0..<(bytes.count + 3) & ~3 {
                registers[start + index] = index < bytes.count ? bytes[index] : 0
            }
        }
        func key(_ set: String, _ register: UInt32) -> [UInt8] {
            let length = sets[set]?.keyBytes ?? 0
            return Array(registers[Int(register) * 4..<Int(register) * 4 + length])
        }
        for expression in rule.expressions {
            switch expression {
            case .isFamily(let number):
                if number != (packet.source.family == .v4 ? 2 : 10) { return nil }
            case .isTransport(let number): if number != packet.transport { return nil }
            case .transport(let target): store([packet.transport], target)
            case .isTo(let prefix): if !packet.target.hasPrefix(prefix) { return nil }
            case .isFrom(let prefix): if !packet.interface.hasPrefix(prefix) { return nil }
            case .interface(let target): store(ElementForm.interface(packet.interface), target)
            case .leaving(let target): store(ElementForm.interface(packet.target), target)
            case .isConnection, .isReply: return nil
            case .networkHeader(let offset, _, let target):
                let isSource = offset == 12 || offset == 8
                store((isSource ? packet.source : packet.destination).bytes, target)
            case .transportHeader(_, _, let target): store([UInt8(packet.port >> 8), UInt8(packet.port & 255)], target)
            case .isElement(let set, let register):
                if try !elements.contains(key(set, register), in: set) { return nil }
            case .isNoElement(let set, let register):
                if try elements.contains(key(set, register), in: set) { return nil }
            case .lookUpVerdict(let map, let register):
                return try elements.element(key(map, register), of: map)?.verdict
            case .count(let name): counter = name
            case .verdict(let verdict): return verdict
            case .isByte, .limit, .log, .originalDestination, .originalDestinationPort, .update: break
            }
        }
        return nil
    }
}
