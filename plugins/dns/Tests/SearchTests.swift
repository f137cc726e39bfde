import HashTreeCollections
import KnetCore
import TestSupport
import Testing

@testable import DNSPlugin

/// A stub resolver as a C library has it, with the kubelet's resolv.conf: `ndots:5` and a search list.
enum StubResolver: CaseIterable {
    /// Goes on where a name exists without addresses (glibc's res_search).
    case glibc
    /// Stops there (musl's name_from_dns_search).
    case musl

    enum Result: Equatable {
        case addresses(Set<IPAddress>)
        case nothing
        /// Nobody could tell.
        case again
    }

    /// - Parameter types: A, AAAA or both, asked side by side.
    func find(
        _ name: String, _ types: [UInt16], search: [String], ask: (String, UInt16) -> World.Reply
    ) -> Result {
        let isAbsolute = name.hasSuffix(".")
        let candidates = isAbsolute ? [name] : search.map { "\(name).\($0)." } + ["\(name)."]
        var (nothing, again) = (false, false)
        for candidate in candidates {
            let replies = types.map { ask(candidate, $0) }
            let addresses = replies.reduce(into: Set<IPAddress>()) { $0.formUnion($1.addresses) }
            if !addresses.isEmpty { return .addresses(addresses) }
            // To glibc, an alias that leads to no address is an answer, and the end.
            if self == .glibc, replies.contains(where: \.hasAlias) { return .nothing }
            if replies.contains(where: { $0.code == .serverFailure }) {
                if self == .musl { return .again }
                again = true
            } else if replies.contains(where: { $0.code == .noError }) {
                if self == .musl { return .nothing }
                nothing = true
            }
        }
        return nothing ? .nothing : again ? .again : .nothing
    }
}

/// What a resolver finds with its search completed on the server is what it finds by walking the list itself.
@Suite struct SearchTests {
    private static let hostDomains = ["corp.example", "example"]
    private static let labels = [
        "web", "db", "api", "default", "svc", "com", "corp", "example", "cluster", "local", "kube-system", "a",
    ]

    /// A world of names that collide: services and outside names made of few labels.
    private static func world(_ generator: inout some RandomNumberGenerator) -> World {
        var world = World()
        world.contents.hostDomains = hostDomains.map { domainName($0) }
        func randomAddress() -> String {
            Bool.random(using: &generator)
                ? "10.96.\(UInt8.random(in: 0...255, using: &generator)).\(UInt8.random(in: 1...254, using: &generator))"
                : "fd96::\(String(UInt16.random(in: 1...9999, using: &generator), radix: 16))"
        }
        for name in ["web", "db", "a"] where Bool.random(using: &generator) {
            world.add(name, in: Bool.random(using: &generator) ? "default" : "kube-system", [randomAddress()])
        }
        for _ in 0..<12 {
            let count = Int.random(in: 1...4, using: &generator)
            let text = (0..<count).map { _ in pick(labels, &generator) }.joined(separator: ".")
            guard !text.hasSuffix("cluster.local") else { continue }
            let name = domainName(text)
            if Int.random(in: 0..<8, using: &generator) == 0 {
                world.broken.insert(name)
            } else {
                world.outside[name] = (0..<Int.random(in: 0...2, using: &generator)).map { _ in address(randomAddress())
                }
            }
        }
        return world
    }

    private static func pick<Element>(_ all: [Element], _ generator: inout some RandomNumberGenerator) -> Element {
        all[Int.random(in: all.indices, using: &generator)]
    }

    /// A name of few labels, or one that is there, with all of its labels or without its last ones.
    private static func name(_ world: World, _ generator: inout some RandomNumberGenerator) -> String {
        let known =
            world.outside.keys.sorted().map { "\($0)".split(separator: ".") } + [
                ["web", "default"], ["db", "kube-system", "svc"],
            ]
        let parts =
            Bool.random(using: &generator)
            ? pick(known, &generator)
            : (0..<Int.random(in: 1...5, using: &generator)).map { _ in Substring(pick(labels, &generator)) }
        let kept = Bool.random(using: &generator) ? parts.count : Int.random(in: 1...parts.count, using: &generator)
        return parts.prefix(kept).joined(separator: ".")
    }

    private static func search(_ world: World) -> [String] {
        ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"] + hostDomains
    }

    @Test func twoThousandNamesAreFoundAsByWalkingTheList() {
        var generator = SeededGenerator(seed: 6)
        var (absolute, found, spared) = (0, 0, 0)
        for _ in 0..<2_000 {
            let world = Self.world(&generator)
            let isAbsolute = Int.random(in: 0..<4, using: &generator) == 0
            let name = Self.name(world, &generator) + (isAbsolute ? "." : "")
            // A name below the pod's own domain that is told to be absolute cannot be told from a searched one.
            if isAbsolute, name.hasSuffix(".default.svc.cluster.local.") { continue }
            let types = Self.pick([[RecordType.a, RecordType.aaaa], [RecordType.a], [RecordType.aaaa]], &generator)
            for stub in StubResolver.allCases {
                var plain = world
                plain.contents.clients = [:]
                let (walking, completing) = (World.Server(plain), World.Server(world))
                let expected = stub.find(name, types, search: Self.search(world)) { walking.ask($0, $1) }
                let got = stub.find(name, types, search: Self.search(world)) { completing.ask($0, $1) }
                #expect(
                    got == expected,
                    "\(stub) looks for \(name) \(types): \(completing.queries) against \(walking.queries)")
                #expect(completing.queries.count <= walking.queries.count)
                if case .addresses = expected { found += 1 }
                spared += walking.queries.count - completing.queries.count
            }
            absolute += isAbsolute ? 1 : 0
        }
        // The table must hold cases of every kind.
        #expect(
            found > 500 && absolute > 300 && spared > 1_000, "\(found) found, \(absolute) absolute, \(spared) spared")
    }

    @Test(arguments: StubResolver.allCases) func anExternalNameCostsOneQueryOfEachType(stub: StubResolver) {
        var world = World()
        world.outside[domainName("www.example.com")] = [address("192.0.2.1"), address("2001:db8::1")]
        let server = World.Server(world)
        let result = stub.find(
            "www.example.com", [RecordType.a, RecordType.aaaa], search: Self.search(world), ask: { server.ask($0, $1) })
        #expect(result == .addresses([address("192.0.2.1"), address("2001:db8::1")]))
        #expect(server.queries.count == 2)
    }

    @Test func othersThanPodsGetPlainAnswers() {
        var world = World()
        world.outside[domainName("www.example.com")] = [address("192.0.2.1")]
        let reply = World.Server(world).ask(
            "www.example.com.default.svc.cluster.local", RecordType.a, from: address("192.168.77.11"))
        #expect(reply == .init(code: .nameError, addresses: []))
    }

    @Test func aPodsOwnDomainsComeAfterTheNodes() {
        var world = World()
        world.contents.clients[world.pod] = Client(
            title: "default/p", namespace: "default", domains: world.contents.zone.domains,
            ownDomains: [domainName("own.example")])
        world.outside[domainName("www.own.example")] = [address("192.0.2.2")]
        let reply = World.Server(world).ask("www.default.svc.cluster.local", RecordType.a)
        #expect(reply.addresses == [address("192.0.2.2")])
    }

    @Test func otherTypesAreNotCompleted() {
        var world = World()
        world.outside[domainName("www.example.com")] = []
        let server = World.Server(world)
        #expect(
            server.exchange("www.example.com.default.svc.cluster.local", RecordType.txt, from: world.pod).code
                == .nameError)
    }
}
