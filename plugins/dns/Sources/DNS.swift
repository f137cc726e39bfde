import Glibc
import HashTreeCollections
public import KnetCore
public import KnetLinux
public import Logging
import NIOCore
import NIOPosix
import Synchronization

/// The cluster's names, and a cache for all others, answered on the node that asks.
public final class DNS: Plugin, PluginService {
    public static let settings = DNSSettings.shape

    /// What names need of the cluster: pods of all nodes only where their names are verified.
    public static func needs(_ settings: DNSSettings) -> ClusterNeeds {
        ClusterNeeds(
            [.node, .service, .endpointSlice, .namespace, .pod], podsOfOtherNodes: settings.pods == .verified)
    }

    public let name = DNS.settings.name
    public var needs: ClusterNeeds { Self.needs(options) }

    private let options: DNSSettings
    private let domains: [DomainName]
    /// The Service whose ClusterIPs are answered.
    private let service: ObjectKey
    private let kernel: DNSKernel
    private let addresses: ServedAddresses
    private let published: Published
    private let servers: [DatagramServer]
    private let streamCounters: StreamCounters
    private let forwarder: Forwarder
    private let recursor: Recursor
    private let cache: AnswerCache
    private let resolvConf: Mutex<ResolvConfFile>
    /// Whether the objects that names are made of were known when it was last looked.
    private let isKnown = Atomic(false)
    private let upstreamFaults = Mutex<[String]>([])
    /// How upstreams fared when it was last looked.
    private let upstreams = Mutex<[(upstream: UpstreamAddress, health: UpstreamHealth)]>([])

    public init(
        _ settings: DNSSettings, nftables: Nftables, pool: NetlinkPool, kept: KeptDescriptors, logger: Logger,
        names: NameExchange = NameExchange()
    ) throws {
        options = settings
        domains = settings.domains.compactMap { DomainName($0) }
        let parts = settings.service.split(separator: "/").map(String.init)
        service = ObjectKey(.service, namespace: parts[0], name: parts[1])
        var file = ResolvConfFile(path: settings.resolvConf)
        file.readAgain()
        resolvConf = Mutex(file)

        var contents = Contents(zone: Zone(domains: domains))
        contents.trustsPodNames = settings.pods == .insecure
        contents.ttl = UInt32(settings.ttl)
        contents.hostDomains = file.contents.search
        let hosts = settings.hosts.map { ($0.name, $0.addresses) } + [("localhost", ["127.0.0.1", "::1"])]
        let table = Dictionary(hosts) { $0 + $1 }
        if let part = DomainNames.part(hosts: table, ttl: Self.hostsTTL) { contents.zone.insert(part) }
        let published = Published(contents)
        self.published = published

        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let cache = AnswerCache(settings.cache.limits)
        self.cache = cache
        let walks = SearchWalks()
        let forwarder = Forwarder(
            settings.forwarding, servers: settings.upstreamServers ?? file.contents.servers, cache: cache, on: loop)
        self.forwarder = forwarder
        let recursor = Recursor(
            forwarder: forwarder, contents: published, cache: cache, walks: walks, names: names,
            waiting: WaitingQueries(most: settings.maxConcurrent))
        self.recursor = recursor
        let serving = ServerSettings(settings, logger)
        let threads = settings.threads > 0 ? settings.threads : min(2, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        servers = try (0..<threads).map { index in
            try DatagramServer(
                recursor: recursor, forwarder: forwarder, published: published, cache: cache, walks: walks,
                names: names, settings: serving,
                name: "knetd-dns-\(index)")
        }
        let counters = StreamCounters(serving)
        streamCounters = counters
        addresses = ServedAddresses(pool: pool, kept: kept, servers: servers) { socket in
            try StreamServer(socket, on: loop) { query, client in await counters.answer(query, client, recursor) }
        }
        kernel = DNSKernel(rules: DNSRules(nftables), addresses: addresses, published: published)
    }

    /// Seconds.
    private static let hostsTTL: UInt32 = 3_600

    /// Takes what it left in the kernel away.
    public static func remove(_ nftables: Nftables, _ kept: KeptDescriptors) throws {
        ServedAddresses.remove(kept)
        try DNSRules.remove(nftables)
    }

    public static var table: String { DNSRules.table }

    // MARK: Plugin

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        let isKnown = state.isUsable([.service, .endpointSlice])
        let wasKnown = self.isKnown.exchange(isKnown, ordering: .relaxed)
        var affected = keys.filter {
            switch $0.kind {
            case .service, .namespace, .attachment, .local: true
            case .pod: options.pods == .verified
            case .node, .endpointSlice, .networkPolicy, .clusterNetworkPolicy: false
            }
        }
        // The addresses wait for what may be told last, whichever kind it is.
        if keys.contains(service) || isKnown != wasKnown { affected.insert(.local) }
        let pods = Set(keys.lazy.filter { $0.kind == .pod }.map { [$0.namespace, $0.name] })
        if !pods.isEmpty {
            for (key, attachment) in state.attachments {
                if let namespace = attachment.podNamespace, let name = attachment.podName,
                    pods.contains([namespace, name])
                {
                    affected.insert(key)
                }
            }
        }
        return affected
    }

    public func entries(for key: ObjectKey, in state: ClusterState) throws -> [DNSEntry] {
        switch key.kind {
        case .local:
            guard state.local != nil, !addresses.isTakenOver || state.isUsable([.service, .endpointSlice]) else {
                return []
            }
            let served = Set(options.listen.compactMap { IPAddress($0) } + serviceAddresses(state)).sorted()
            let names = domains.compactMap { DomainNames.part($0, servers: served, ttl: UInt32(options.ttl)) }
            return [.rules(served)] + served.map { .address($0, isServed: true) }
                + names.enumerated().map { .names(ObjectKey(.local, name: "domain \($0)"), .init(part: $1)) }
        case .service: return try state.services[key].map { try entries($0, in: state) } ?? []
        case .namespace:
            guard state.namespaces[key] != nil else { return [] }
            return names(
                key, DomainNames.part(namespace: key.name, in: domains, withPods: options.pods != .disabled))
        case .pod:
            guard options.pods == .verified, let pod = state.pods[key] else { return [] }
            return names(key, DomainNames.part(pod, in: domains, ttl: UInt32(options.ttl)))
        case .attachment: return state.attachments[key].map { clients($0, in: state) } ?? []
        case .node, .endpointSlice, .networkPolicy, .clusterNetworkPolicy: return []
        }
    }

    private func serviceAddresses(_ state: ClusterState) -> [IPAddress] {
        // Before names are known, another DNS server has to answer.
        guard state.isUsable([.service, .endpointSlice]) else { return [] }
        return state.services[service]?.clusterAddresses ?? []
    }

    private func names(_ key: ObjectKey, _ part: ZonePart?) -> [DNSEntry] {
        part.map { [.names(key, .init(part: $0))] } ?? []
    }

    private func entries(_ service: Service, in state: ClusterState) throws -> [DNSEntry] {
        var table = NameTable(ttl: UInt32(options.ttl))
        var problem: String?
        let slices = service.isHeadless ? state.slices(of: service.key) : []
        for (index, domain) in domains.enumerated() {
            guard let names = ServiceNames(service, slices: slices, in: domain, isPrimary: index == 0, into: table)
            else { continue }
            table = names.table
            problem = names.problem
        }
        let entries = names(service.key, table.part)
        if let problem { throw PartlyDesired(entries, reason: problem) }
        return entries
    }

    private func clients(_ attachment: Attachment, in state: ClusterState) -> [DNSEntry] {
        guard options.completeSearch, let namespace = attachment.podNamespace, let name = attachment.podName else {
            return []
        }
        let pod = state.pods[ObjectKey(.pod, namespace: namespace, name: name)]
        guard pod?.spec?.searchesCluster ?? true else { return [] }
        let client = Client(
            title: attachment.title, namespace: namespace, domains: domains,
            ownDomains: (pod?.spec?.dnsConfig?.searches ?? []).compactMap { DomainName($0) })
        return attachment.addresses.map { .client($0, .init(client: client)) }
    }

    public func settled() { kernel.publish(KernelChanges(), isComplete: isKnown.load(ordering: .relaxed)) }

    public func read() throws -> [DNSEntry] { try kernel.read() }

    public func apply(_ changes: KernelChanges<DNSEntry>) -> KernelOutcome<DNSEntry> {
        kernel.apply(changes, isComplete: isKnown.load(ordering: .relaxed))
    }

    // MARK: Service

    /// Programs of BPF that are being loaded cannot be let go of, and take up to a second on a busy machine.
    public let answersToTheEnd = true

    public func run() async {
        while !Task.isCancelled {
            await useUpstreams()
            try? await Task.sleep(for: .seconds(1))
        }
        for server in servers { await server.stop() }
        addresses.stop()
    }

    private func useUpstreams() async {
        let file = resolvConf.withLock { file in
            file.readAgain()
            return file.contents
        }
        let given = options.upstreamServers
        let own = Set(((try? addresses.read()) ?? []).map(\.address))
        await forwarder.use(given ?? file.servers, own: own)
        let unusable = given == nil ? file.unusable.map { "nameserver \($0) cannot be used: it is no address" } : []
        let faults = await forwarder.faults + unusable
        upstreamFaults.withLock { $0 = faults }
        let states = await forwarder.states
        upstreams.withLock { $0 = states }
        if published.current.hostDomains != file.search { published.change { $0.hostDomains = file.search } }
    }

    /// - Parameter words: a name, a type, and the pod that asks, if one does.
    public func describe(_ words: [String], in state: ClusterState) async throws -> JSONValue {
        try await Explanation(words, in: state).json(recursor)
    }

    public var faults: [String] { upstreamFaults.withLock { $0 } }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        var counts = streamCounters.counts
        for server in servers {
            var more = server.counts
            counts.take(&more)
        }
        DNSMetrics.measure(&page, counts, cache: cache.counts)
        DNSMetrics.measure(&page, upstreams.withLock { $0 }, refusals: recursor.waiting.refusals)
    }
}

extension DNSSettings.Cache {
    var limits: AnswerCache.Limits {
        AnswerCache.Limits(bytes: megabytes << 20, stale: UInt32(staleSeconds), popular: prefetchAfter)
    }
}

extension DNSSettings {
    /// `nil` where they are those of the node.
    var upstreamServers: [UpstreamAddress]? {
        upstreams.isEmpty ? nil : upstreams.compactMap { UpstreamAddress($0) }
    }

    var forwarding: Forwarder.Settings {
        var settings = Forwarder.Settings()
        settings.policy = Forwarder.Policy(rawValue: policy) ?? .sequential
        for stub in stubDomains {
            if let domain = DomainName(stub.domain) {
                settings.stubs[domain] = stub.upstreams.compactMap { UpstreamAddress($0) }
            }
        }
        settings.lifetimes = UpstreamReply.Lifetimes(
            least: UInt32(cache.minTTL), most: UInt32(max(cache.maxTTL, cache.minTTL)),
            mostNegative: UInt32(cache.maxNegativeTTL))
        return settings
    }
}

extension Pod.Spec {
    /// Whether the kubelet gave the pod the cluster's search domains, and this server.
    fileprivate var searchesCluster: Bool {
        switch dnsPolicy {
        case nil, "ClusterFirst": hostNetwork != true
        case "ClusterFirstWithHostNet": true
        default: false
        }
    }
}
