import HashTreeCollections
import KnetCore

@testable import DNSPlugin

/// A cluster's names, and those of the world outside, without sockets.
struct World {
    var contents = Contents(zone: Zone(domains: [domainName("cluster.local")]))
    /// What others answer: the addresses of a name; a name without any exists. Others do not.
    var outside: [DomainName: [IPAddress]] = [:]
    /// Names for which nobody answers.
    var broken: Set<DomainName> = []
    let pod = DNSPluginTests.address("10.42.0.7")

    struct Reply: Equatable {
        let code: ResponseCode
        let addresses: Set<IPAddress>
        var hasAlias = false
    }

    /// Counts the queries.
    final class Server {
        let world: World
        private let resolver = Resolver(cache: AnswerCache(.init()), walks: SearchWalks())
        private(set) var queries: [(name: String, type: UInt16)] = []

        init(_ world: World) { self.world = world }

        func ask(_ name: String, _ type: UInt16, from client: IPAddress? = nil) -> Reply {
            queries.append((name, type))
            let records = exchange(name, type, from: client ?? world.pod)
            return Reply(
                code: records.code,
                addresses: Set(records.records.filter { $0.type == type }.compactMap { IPAddress(bytes: $0.data) }),
                hasAlias: records.records.contains { $0.type == RecordType.cname })
        }

        func exchange(
            _ name: String, _ type: UInt16, from client: IPAddress?, limit: Int = 65_535
        ) -> (code: ResponseCode, records: [ReplyRecord], length: Int, flags: UInt16) {
            let question = Question(domainName(name), type)
            let query = QueryMessage.bytes(question, id: 7, withEDNS: false)
            var material = Resolver.Material(contents: world.contents, now: 0)
            let room = UnsafeMutableRawBufferPointer.allocate(byteCount: limit, alignment: 8)
            defer { room.deallocate() }
            while true {
                let outcome = query.withUnsafeBytes {
                    resolver.answer($0, from: client, isDatagram: limit < 65_535, with: material, into: room)
                }
                switch outcome {
                case .ignore: return (.serverFailure, [], 0, 0)
                case .send(let length):
                    let message = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(room)[..<length])
                    let sections = ReplyRecord.all(message, from: query.count)
                    return (
                        resolver.facts.code, sections.map { $0.answers + $0.authorities } ?? [], length,
                        message.short(2)
                    )
                case .fetch(let question):
                    material.fetched.append((question, .init(answer: world.answer(question), age: 0)))
                }
            }
        }
    }

    func answer(_ question: Question) -> HeldAnswer {
        let name = question.name
        if broken.contains(name) { return .failure(.serverFailure, lifetime: 1) }
        var builder = HeldAnswerBuilder(question, lifetimes: .init())
        let soa = ReplyRecord(
            name: .root, type: RecordType.soa, ttl: 60, data: [0, 0] + [UInt8](repeating: 0, count: 19) + [60])
        guard let addresses = outside[name] else {
            builder.add(answers: [], authorities: [soa], code: .nameError)
            return builder.finish(.nameError, isVerified: false) ?? .failure(.serverFailure, lifetime: 0)
        }
        let records = addresses.filter { RecordType.address($0.family) == question.type }.map {
            ReplyRecord(name: name, type: question.type, ttl: 60, data: $0.bytes)
        }
        builder.add(answers: records, authorities: records.isEmpty ? [soa] : [], code: .noError)
        return builder.finish(.noError, isVerified: false) ?? .failure(.serverFailure, lifetime: 0)
    }

    mutating func add(_ service: Service, slices: [EndpointSlice] = []) {
        let names = ServiceNames(
            service, slices: slices, in: contents.zone.domains[0], isPrimary: true, into: NameTable(ttl: 5))
        if let part = names?.table.part { contents.zone.insert(part) }
    }

    /// A Service with ClusterIPs.
    mutating func add(_ name: String, in namespace: String = "default", _ addresses: [String]) {
        add(
            Service(
                metadata: Metadata(name: name, namespace: namespace),
                spec: Service.Spec(clusterIP: addresses.first, clusterIPs: addresses)))
    }

    /// A world with the pod `default/p` that asks.
    init() {
        contents.zone.isComplete = true
        contents.clients[pod] = Client(title: "default/p", namespace: "default", domains: contents.zone.domains)
        for namespace in ["default", "kube-system"] {
            if let part = DomainNames.part(namespace: namespace, in: contents.zone.domains, withPods: true) {
                contents.zone.insert(part)
            }
        }
    }
}

/// A name that is well-formed.
func domainName(_ text: String) -> DomainName {
    guard let name = DomainName(text) else { preconditionFailure("\(text) is no name") }
    return name
}

/// An address that is well-formed.
func address(_ text: String) -> IPAddress {
    guard let address = IPAddress(text) else { preconditionFailure("\(text) is no address") }
    return address
}
