import HashTreeCollections
import KnetCore

/// Makes answers of what is at hand; where something is missing it says what must be fetched, and is asked again. It belongs to one
/// thread, whose memory it keeps: an answer that is at hand costs no allocation.
final class Resolver {
    enum Outcome {
        /// So many bytes are to be sent.
        case send(Int)
        /// Nobody asked.
        case ignore
        /// The answer must wait for another server's.
        case fetch(Question)
    }

    /// What became of a query, for counting.
    struct Facts {
        var type: UInt16 = 0
        var code = ResponseCode.noError
        /// Whether the cluster's names were enough.
        var isOwn = true
        /// Whether something that was held was used, and whether that says that there is nothing.
        var hit: Bool?
        /// What is in use so often that it should be asked for again before it is out of date.
        var prefetch: Question?
    }

    private(set) var facts = Facts()
    /// What was found on the way, for people; nothing is noted while it is `nil`.
    var trace: [String]?

    private let cache: AnswerCache
    private let walks: SearchWalks
    /// The name asked for, in small letters, and one that is tried.
    private let name = UnsafeMutableRawBufferPointer.allocate(byteCount: 256, alignment: 8)
    private let candidate = UnsafeMutableRawBufferPointer.allocate(byteCount: 256, alignment: 8)
    private var turn = 0

    /// As RFC 1034 §3.6.2 wants loops to be found.
    private static let longestChain = 10

    /// Hears of addresses before they are sent.
    private var watch: NameWatch?

    init(cache: AnswerCache, walks: SearchWalks, names: NameExchange? = nil) {
        self.cache = cache
        self.walks = walks
        watch = names.map(NameWatch.init)
    }

    deinit {
        name.deallocate()
        candidate.deallocate()
    }

    /// What the answer to one query is made of.
    struct Material {
        let contents: Contents
        /// Milliseconds of the monotonic clock.
        var now: Int64
        /// What was fetched for this very query.
        var fetched: [(question: Question, found: AnswerCache.Found)] = []
    }

    /// - Parameters:
    ///   - client: who asks.
    ///   - largest: bytes that the transport takes; over UDP what the query says counts too.
    ///   - refuses: whether this client gets no answer.
    func answer(
        _ message: UnsafeRawBufferPointer, from client: IPAddress?, refuses: Bool = false, isDatagram: Bool,
        with material: borrowing Material, into bytes: UnsafeMutableRawBufferPointer
    ) -> Outcome {
        facts = Facts()
        let query: Query
        switch Query.read(message, name: name) {
        case .nothing: return .ignore
        case .failed(let code, let questionEnd):
            facts.code = code
            var answer = Answer(
                to: Query(failed: message, questionEnd: questionEnd), message, into: bytes, limit: bytes.count)
            answer.code = code
            answer.isAuthoritative = false
            return .send(answer.finish())
        case .query(let read): query = read
        }
        facts.type = query.type
        let payload = min(max(query.edns?.payload ?? 512, 512), Answer.largestPayload)
        var answer = Answer(
            to: query, message, into: bytes, limit: isDatagram ? min(payload, bytes.count) : bytes.count)
        if let code = refuses ? .refused : query.refusal {
            answer.code = code
            answer.isAuthoritative = false
        } else {
            var walk = Walk(query: query, answer: answer)
            let asked = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(name)[..<query.nameLength])
            if let question = follow(asked, client, &walk, material) { return .fetch(question) }
            answer = walk.answer
        }
        facts.code = answer.code
        let count = answer.finish()
        if client != nil {
            let sent = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[..<count])
            watch?.look(at: sent, recordsFrom: query.questionEnd)
        }
        return .send(count)
    }

    private struct Walk {
        let query: Query
        var answer: Answer
        var links = 0
    }

    /// Appends what there is of a name and of those it leads to.
    /// - Parameter client: whose search may be completed; `nil` where it may not.
    /// - Returns: what must be fetched first.
    private func follow(
        _ name: UnsafeRawBufferPointer, _ client: IPAddress?, _ walk: inout Walk, _ material: borrowing Material
    ) -> Question? {
        walk.links += 1
        guard walk.links <= Self.longestChain else {
            note("the chain of names is too long")
            walk.answer.restart()
            walk.answer.code = .serverFailure
            walk.answer.isAuthoritative = false
            return nil
        }
        switch find(name, in: material.contents) {
        case .records(let node, let apex):
            note("\(text(name)): this node's own name")
            return append(node, apex, name, &walk, material)
        case .pod(let address, let apex):
            note("\(text(name)): a pod's address as a name")
            append(address, apex, &walk, material.contents)
        case .nothing(let apex):
            let completion = client.map { completeSearch(name, $0, &walk, material) } ?? .nothing
            switch completion {
            case .found: break
            case .missing(let question): return question
            case .empty: append(startOf: apex, &walk, material.contents)
            case .nothing:
                note("\(text(name)): does not exist in this cluster")
                walk.answer.code = .nameError
                append(startOf: apex, &walk, material.contents)
            }
        case .unknown:
            note("\(text(name)): the cluster's objects have not been read yet")
            walk.answer.restart()
            walk.answer.code = .serverFailure
            walk.answer.isAuthoritative = false
        case .foreign:
            facts.isOwn = false
            let question = Question(sought: name, walk.query.type, Question.Options(walk.query))
            guard let found = held(question, material) else { return question.kept }
            note("\(text(name)): \(found)")
            walk.answer.append(found.answer, age: found.age, stale: found.stale)
        }
        return nil
    }

    // MARK: Own names

    private enum Finding {
        /// - Parameter apex: where in the name its domain begins.
        case records(Zone.Node, apex: Int?)
        case pod(IPAddress, apex: Int)
        /// It is of a domain of ours and does not exist.
        case nothing(apex: Int)
        /// It is of a domain of ours that is not known yet.
        case unknown
        case foreign
    }

    private func find(_ name: UnsafeRawBufferPointer, in contents: Contents) -> Finding {
        if let node = contents.zone.find(name) { return .records(node, apex: contents.zone.apex(of: name)) }
        guard let apex = contents.zone.apex(of: name) else { return .foreign }
        // The domain itself exists, be it empty.
        guard contents.zone.isComplete else { return .unknown }
        if contents.trustsPodNames, let address = PodName.address(name, apex: apex, in: contents.zone) {
            return .pod(address, apex: apex)
        }
        return .nothing(apex: apex)
    }

    private func append(
        _ node: Zone.Node, _ apex: Int?, _ name: UnsafeRawBufferPointer, _ walk: inout Walk,
        _ material: borrowing Material
    ) -> Question? {
        let type = walk.query.type
        let (before, start) = (walk.answer.answers, walk.answer.length)
        var target: Range<Int>?
        var owner = walk.answer.owner
        turn &+= 1
        node.forEachSet { set in
            if set.type == type || type == RecordType.any && walk.answer.answers == before {
                let isRotated = set.count > 1 && (type == RecordType.a || type == RecordType.aaaa)
                walk.answer.append(set, startingAt: isRotated ? turn % set.count : 0)
            } else if set.type == RecordType.cname, type != RecordType.any {
                walk.answer.append(set)
                owner = walk.answer.length - set.bytes.count + 12
                target = owner..<walk.answer.length
            }
        }
        if let target, walk.answer.answers > before, !walk.answer.isFull {
            walk.answer.owner = owner
            return follow(walk.answer.bytes(target), nil, &walk, material)
        }
        if type == RecordType.srv { walk.answer.appendAddresses(ofServersFrom: start, in: material.contents.zone) }
        if walk.answer.answers == before, let apex { append(startOf: apex, &walk, material.contents) }
        return nil
    }

    private func append(_ address: IPAddress, _ apex: Int, _ walk: inout Walk, _ contents: Contents) {
        if walk.query.type == RecordType.address(address.family) || walk.query.type == RecordType.any {
            walk.answer.append(address, ttl: contents.ttl)
        } else {
            append(startOf: apex, &walk, contents)
        }
    }

    private func append(startOf apex: Int, _ walk: inout Walk, _ contents: Contents) {
        walk.answer.appendStart(ofDomainAt: apex, serial: contents.zone.serial, ttl: contents.ttl)
    }

    // MARK: Names of others

    private func held(_ question: Question, _ material: borrowing Material) -> AnswerCache.Found? {
        for (fetched, found) in material.fetched where fetched == question { return found }
        let found = cache.find(question, now: material.now)
        if let found {
            facts.hit = !found.answer.isNegative
            if found.wantsPrefetch { facts.prefetch = question.kept }
        }
        return found
    }

    // MARK: Search

    private enum Completion {
        case found
        /// The first of the names that exists has no addresses of this family. Without an alias that leads to nothing a resolver
        /// does what it would do at that name: musl's stops, glibc's goes on.
        case empty
        /// None exists, or somebody who should know does not tell, or the name is none of a search.
        case nothing
        case missing(Question)
    }

    /// A pod's resolver tries a name in its own namespace's domain first. Where that does not exist, this goes on as the
    /// resolver would, with its next domains and the name itself, to the first that exists; that answers the first query.
    private func completeSearch(
        _ name: UnsafeRawBufferPointer, _ address: IPAddress, _ walk: inout Walk, _ material: borrowing Material
    ) -> Completion {
        guard walk.query.type == RecordType.a || walk.query.type == RecordType.aaaa,
            let client = material.contents.clients[address],
            let domains = client.search.first(where: { (name.start(ofSuffix: $0[0].wire) ?? 0) > 0 }),
            !walks.contains(name, of: address, now: material.now)
        else { return .nothing }
        note("a search of \(client.title), at its first domain")
        let rest = UnsafeRawBufferPointer(rebasing: name[..<(name.count - domains[0].wire.count)])
        let (own, host, pods) = (domains[1...], material.contents.hostDomains, client.ownDomains)
        let completion =
            tryDomains(own, rest, &walk, material) ?? tryDomains(host, rest, &walk, material)
            ?? tryDomains(pods, rest, &walk, material) ?? tryDomains(CollectionOfOne(.root), rest, &walk, material)
            ?? .nothing
        switch completion {
        case .found, .missing: return completion
        case .empty, .nothing: break
        }
        // The resolver goes on by itself, through names that may look like other searches.
        walk.answer.restart()
        for domain in Array(own) + host + pods + [.root] as [DomainName] {
            if let tried = makeCandidate(rest, domain), tried.start(ofSuffix: domains[0].wire) ?? 0 > 0 {
                walks.insert(tried, of: address, now: material.now)
            }
        }
        return completion
    }

    /// - Returns: `nil` where the name exists in none of the domains.
    private func tryDomains(
        _ domains: some Collection<DomainName>, _ rest: UnsafeRawBufferPointer, _ walk: inout Walk,
        _ material: borrowing Material
    ) -> Completion? {
        for domain in domains {
            guard let tried = makeCandidate(rest, domain) else { continue }
            switch exists(tried, walk.query, material) {
            case .no: note("\(text(tried)): does not exist")
            case .unknown: return .nothing
            case .missing(let question): return .missing(question)
            case .yes:
                walk.answer.alias(to: tried, ttl: material.contents.ttl)
                if let question = follow(tried, nil, &walk, material) { return .missing(question) }
                guard walk.answer.code == .noError else { return .nothing }
                return walk.answer.hasAskedType ? .found : .empty
            }
        }
        return nil
    }

    private enum Existence {
        case yes, no
        /// Nobody could tell. The resolver is left to go on by itself, and gets what it would have got.
        case unknown
        case missing(Question)
    }

    private func exists(_ name: UnsafeRawBufferPointer, _ query: Query, _ material: borrowing Material) -> Existence {
        switch find(name, in: material.contents) {
        case .records, .pod: return .yes
        case .unknown: return .unknown
        case .nothing: return .no
        case .foreign:
            facts.isOwn = false
            let question = Question(sought: name, query.type, Question.Options(query))
            guard let found = held(question, material) else { return .missing(question.kept) }
            note("\(text(name)): \(found)")
            return found.answer.isNameError ? .no : found.answer.isFailure ? .unknown : .yes
        }
    }

    /// - Returns: `nil` where the name would be too long.
    private func makeCandidate(_ rest: UnsafeRawBufferPointer, _ domain: DomainName) -> UnsafeRawBufferPointer? {
        let count = rest.count + domain.wire.count
        guard count <= 255 else { return nil }
        candidate.copyMemory(from: rest)
        domain.wire.withUnsafeBytes {
            UnsafeMutableRawBufferPointer(rebasing: candidate[rest.count..<count]).copyMemory(from: $0)
        }
        return UnsafeRawBufferPointer(rebasing: candidate[..<count])
    }

    // MARK: Explanations

    private func note(_ text: @autoclosure () -> String) {
        if trace != nil { trace?.append(text()) }
    }

    private func text(_ name: UnsafeRawBufferPointer) -> String { "\(DomainName(checked: name))" }
}

extension Query {
    /// Why a well-formed query is not answered.
    fileprivate var refusal: ResponseCode? {
        if let edns, edns.version != 0 { return .badVersion }
        if !isInternet { return .refused }
        // Transfers of whole zones, and what is no type of a record (RFC 6895 §3.1).
        switch type {
        case RecordType.any: return nil
        case RecordType.opt: return .formatError
        case 128...254: return .notImplemented
        default: return nil
        }
    }

    /// Of a message that is no query: nothing but what its header says.
    fileprivate init(failed message: UnsafeRawBufferPointer, questionEnd: Int) {
        self.init(
            id: message.short(0), flags: message.short(2), questionEnd: questionEnd, nameLength: 0, type: 0,
            isInternet: true, edns: nil)
    }
}
