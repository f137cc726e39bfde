import KnetCore

/// What can be told of a table from its listing: its sets, and what the rules were made of. If the same text follows from that,
/// the rules are ours.
struct TableListing {
    private(set) var sets: [String] = []
    private var ranges: [CIDR] = []
    private var serviceRanges: [CIDR] = []

    private let tells: Bool
    private let isBesidePrograms: Bool

    var rules: ServiceRules? {
        ServiceRules(
            ranges: ranges, serviceRanges: serviceRanges, tells: tells, isBesidePrograms: isBesidePrograms)
    }

    /// Whether two listings have the same sets and chains, in whatever order: nft lists them in that of their creation.
    static func isSame(_ a: String, _ b: String) -> Bool {
        func blocks(_ text: String) -> [Substring] {
            var blocks: [Substring] = []
            var start = text.startIndex
            while let end = text[start...].firstRange(of: "\n\t}\n") {
                blocks.append(text[start..<end.upperBound].drop { $0 == "\n" })
                start = end.upperBound
            }
            return blocks.sorted()
        }
        let head = a.prefix { $0 != "\n" }
        // The first block follows the table's name.
        return head == b.prefix { $0 != "\n" }
            && blocks(String(a.dropFirst(head.count))) == blocks(String(b.dropFirst(head.count)))
    }

    init(_ text: String) {
        tells = Refusal.isTold(in: text)
        isBesidePrograms = text.contains(" masquerade \(ServiceTable.ports(true))")
        var chain = ""
        for line in text.split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\t" }
            switch words.first {
            case "set", "map":
                if words.count == 3 { sets.append(String(words[1])) }
            case "chain": chain = words.count > 1 ? String(words[1]) : ""
            case "ip", "ip6":
                // `ip saddr 10.42.1.0/24 goto services`, `ip daddr 10.96.0.0/12 drop`.
                guard words.count >= 4, let block = CIDR(String(words[2])) else { continue }
                if chain == "prerouting", words[1] == "saddr" { ranges.append(block) }
                if chain == "services", words[1] == "daddr", words[3] == "drop" { serviceRanges.append(block) }
            default: break
            }
        }
    }
}
