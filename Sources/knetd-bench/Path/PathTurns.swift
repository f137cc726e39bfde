import KnetLinux

/// Paths that are measured in turn.
struct PathTurns {
    private enum Kind: String, CaseIterable {
        case stream = "one TCP stream, each end on a processor of its own"
        case streamTogether = "one TCP stream, both ends on one processor"
        case pinned = "TCP request and response of 1 byte, both ends on one processor"
        case free = "TCP request and response of 1 byte, ends where the scheduler puts them"
        case connections = "TCP connect, 1 byte there and back, close, both ends on one processor"

        var placement: Load.Placement {
            switch self {
            case .stream: .apart
            case .streamTogether, .pinned, .connections: .together
            case .free: .free
            }
        }

        /// Of so many parts is a turn: the more turns there are, the less do those count in which others disturb. The kernel tells
        /// of a stream's work in ticks of milliseconds, which takes long turns; `pinned` has turns of its own.
        var parts: Int { self == .stream ? 1 : 5 }
    }

    /// Seconds of a turn of requests on one processor: what others do on the same core comes and goes in some milliseconds, and in
    /// longer turns tells which path had the better ones.
    private static let turnOfRequests = 0.002

    private enum Figure: String, CaseIterable {
        case throughput, cost
        case throughputTogether = "throughput.one-processor"
        case request, requestAlone = "request.alone"
        case requestRate = "request.rate", requestRateFree = "request.rate.free"
        case connect, connectRate = "connect.rate"

        var title: (text: String, unit: String) {
            switch self {
            case .throughput: (Kind.stream.rawValue, "Gbit/s")
            case .cost: ("\(Kind.stream.rawValue): work of all processors", "ms/Gbit")
            case .throughputTogether: (Kind.streamTogether.rawValue, "Gbit/s")
            case .request: (Kind.pinned.rawValue, "µs")
            case .requestAlone: ("\(Kind.pinned.rawValue), while nobody else used its core", "µs")
            case .requestRate: ("\(Kind.pinned.rawValue): rate", "1/s")
            case .requestRateFree: ("\(Kind.free.rawValue): rate", "1/s")
            case .connect: (Kind.connections.rawValue, "µs")
            case .connectRate: ("\(Kind.connections.rawValue): rate", "1/s")
            }
        }

        var remark: String? {
            switch self {
            case .throughput:
                "Which processor wakes the other when has the most to say here; the path itself shows on one processor."
            case .cost: "What other programs did meanwhile is in it."
            case .requestRateFree: "This tells of the wake-ups of idle processors more than of the paths."
            default: nil
            }
        }
    }

    /// Stands before the figures' names in the tables' ids.
    let id: String
    /// Where the pods are, for titles.
    let place: String
    /// The path that the others are compared with.
    let base: Table.Base
    /// By name, in the order in which they came. Where a path is built at several places, rounds take turns with them.
    private var contenders: [(name: String, places: [Path])] = []
    private let yardstick: Yardstick
    /// On one processor, by turn.
    private var requests: [(path: String, block: Int, turn: Load.Conversation.Turn)] = []
    private var collectors = Dictionary(Figure.allCases.map { ($0, Collector()) }) { $1 }

    init(id: String, place: String, base: Table.Base, yardstick: Yardstick) {
        self.id = id
        self.place = place
        self.base = base
        self.yardstick = yardstick
    }

    /// Builds a path and tries it; under a name that was entered before, one place more of the same path. One that fails is out with
    /// all its places; the others go on.
    mutating func enter(_ name: String, _ build: () throws -> Path) throws {
        try Progress.step("building a path, \(place): \(name)")
        do {
            let path = try build()
            for pod in [path.client, path.server] { try pod.run(Self.prepare) }
            _ = try Load(path: path, placement: .free).connections(seconds: 0)
            if let known = contenders.firstIndex(where: { $0.name == name }) {
                contenders[known].places.append(path)
            } else {
                contenders.append((name, [path]))
            }
            for figure in Figure.allCases { collectors[figure]?.add(name) }
        } catch {
            fail(name, error)
        }
    }

    mutating func fail(_ name: String, _ error: any Error) {
        contenders.removeAll { $0.name == name }
        for figure in Figure.allCases { collectors[figure]?.end(name, .failed("\(error)")) }
        Progress.say("\(name), \(place): \(error)")
    }

    /// A connection that ended would block its ports for a minute.
    private static func prepare() throws { try Sysctl.write("net/ipv4/tcp_max_tw_buckets", "0") }

    // MARK: Turns

    /// - Parameters:
    ///   - rounds: of streams whose work is measured; of all else there are more, and shorter ones.
    ///   - seconds: of one turn of them.
    mutating func run(rounds: Int, seconds: Double) throws {
        for kind in Kind.allCases {
            if kind == .pinned {
                try measureRequests(rounds: rounds == 1 ? 10 : Int(Double(rounds) * seconds / Self.turnOfRequests))
                continue
            }
            let (rounds, seconds) = rounds == 1 ? (1, seconds) : (rounds * kind.parts, seconds / Double(kind.parts))
            for round in 0..<rounds {
                try Progress.step("\(kind.rawValue), \(place): round \(round + 1) of \(rounds)")
                for path in Self.order(paths(round), round) {
                    try Progress.check()
                    do {
                        try measure(kind, path, seconds: seconds)
                    } catch {
                        fail(path.name, error)
                    }
                }
            }
        }
    }

    private func paths(_ round: Int) -> [Path] { contenders.map { $0.places[round % $0.places.count] } }

    /// Each begins a round at times: what comes after a pause finds another machine.
    private static func order<Element>(_ elements: [Element], _ round: Int) -> [Element] {
        elements.indices.map { elements[($0 + round) % elements.count] }
    }

    /// All paths have their connections open, so no turn waits for one. Where in memory a connection lies has a say too: after some
    /// rounds there are new ones, at the next place of those paths that have several.
    private mutating func measureRequests(rounds: Int) throws {
        var left = rounds
        var block = 0
        while left > 0 {
            try Progress.step("\(Kind.pinned.rawValue), \(place): \(left) of \(rounds) rounds left")
            let last = max(left - 100, 0)
            do {
                let loads = paths(block).map { Load(path: $0, placement: Kind.pinned.placement) }
                try Load.converse(loads[...]) { conversations in
                    while left > last {
                        try Progress.check()
                        requests += try Self.order(conversations, left).map {
                            ($0.path, block, try $0.turn(seconds: Self.turnOfRequests, beside: yardstick))
                        }
                        left -= 1
                    }
                }
            } catch let fault as Load.Fault {
                // The others go on without it.
                fail(fault.path, fault.error)
            }
            block += 1
        }
    }

    private mutating func measure(_ kind: Kind, _ path: Path, seconds: Double) throws {
        let load = Load(path: path, placement: kind.placement)
        func add(_ figure: Figure, _ values: [Double]) { collectors[figure]?.add(path.name, values) }
        switch kind {
        case .stream:
            let throughput = try load.stream(seconds: seconds)
            add(.throughput, [throughput.rate])
            add(.cost, [throughput.cost])
        case .streamTogether:
            add(.throughputTogether, [try load.stream(seconds: seconds).rate])
        case .pinned: break  // `measureRequests`: all paths at once.
        case .free:
            let times = try Load.converse([load]) { try $0[0].requests(seconds: seconds) }
            add(.requestRateFree, [Self.rate(times)])
        case .connections:
            let times = try load.connections(seconds: seconds)
            add(.connect, times)
            add(.connectRate, [Self.rate(times)])
        }
    }

    /// Per second, of calls that followed each other at once.
    private static func rate(_ times: [Double]) -> Double { Double(times.count) * 1e6 / times.reduce(0, +) }

    // MARK: Tables

    /// What the yardstick says is better known when all that it was held against is measured.
    var tables: [Table] {
        var collectors = collectors
        var neverAlone = Set(contenders.map(\.name))
        for (path, _, turn) in requests {
            let (times, alone) = (turn.times.map(Double.init), turn.times(where: yardstick.tellsAlone))
            collectors[.request]?.add(path, times)
            collectors[.requestRate]?.add(path, [Self.rate(times)])
            collectors[.requestAlone]?.addTurn(path, alone)
            if !alone.isEmpty { neverAlone.remove(path) }
        }
        for path in neverAlone { collectors[.requestAlone]?.end(path, .skipped("others always used the core too")) }
        let bursts = requests.flatMap(\.turn.bursts)
        let alone = bursts.count { yardstick.tellsAlone($0.yardstick) }
        let remark = "\(alone * 100 / max(bursts.count, 1)) % of all, as other work of the kernel tells."
        return Figure.allCases.map { figure in
            Table(
                id: "\(id).\(figure.rawValue)", title: "\(figure.title.text), \(place)", unit: figure.title.unit,
                bases: [base], rows: collectors[figure]?.rows ?? [],
                remark: figure == .requestAlone
                    ? ([remark] + contenders.compactMap(byPlace)).joined(separator: " ") : figure.remark)
        }
    }

    /// What requests take at each place of a path that has several, of what the base takes in the same rounds.
    private func byPlace(_ name: String, _ places: [Path]) -> String? {
        guard places.count > 1 else { return nil }
        let ratios = places.indices.map { place -> Double? in
            var collector = Collector()
            for (path, block, turn) in requests where block % places.count == place && [name, base.row].contains(path) {
                collector.addTurn(path, turn.times(where: yardstick.tellsAlone))
            }
            let rows = collector.rows
            guard let own = rows.first(where: { $0.name == name }),
                let other = rows.first(where: { $0.name == base.row })
            else { return nil }
            return own.ratio(to: other)
        }
        let texts = ratios.map { knetd_bench.Figure.text($0) }
        return "\(name), by place, × \(base.label): \(texts.joined(separator: ", "))."
    }
}
