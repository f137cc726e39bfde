import HashTreeCollections
public import KnetCore
import KnetLinux
import Synchronization

/// NetworkPolicies and ClusterNetworkPolicies, by one nftables table: what a packet is asked depends on the policies that hold for its
/// sender and receiver, not on how many there are.
public final class NetworkPolicies: Plugin, PluginService {
    /// `plugins.networkPolicy` in the configuration.
    public struct Settings: Codable, Sendable, Equatable {
        /// `keep` or `cut`.
        public let existingConnections: String
        public let checkSources: Bool
        /// The Service whose pods stand for the DNS that the node itself answers.
        public let dnsService: String
        /// Where the node answers DNS, beside that Service's addresses.
        public let dnsAddresses: [String]
        public let logGroup: Int
        public let loggedDropsPerSecond: Int
    }

    public static let settings = PluginSettings(
        name: "networkPolicy", isDataplane: false,
        fields: [
            Field(
                "existingConnections", .text(.oneOf(["keep", "cut"])), default: "keep",
                "What a change of policies means for connections under way: they go on, or each packet is looked at."),
            Field(
                "checkSources", .boolean, default: true,
                "Whether packets are dropped that a pod sends from other addresses than its own."
            ),
            Field(
                "dnsService",
                .text(.readable(what: "namespace/name of a Service") { $0.split(separator: "/").count == 2 }),
                default: "kube-system/kube-dns",
                "The Service that DNS on the node stands for: who may reach its pods may ask the node."),
            Field(
                "dnsAddresses", .list(of: .text(.ipAddress)), default: ["169.254.20.10", "fd00:6b6e:6574::53"],
                "Addresses at which DNS is answered on the node, beside the Service's own."),
            Field(
                "logGroup", .integer(1...65_535), default: 107,
                "The group of nfnetlink_log by which knetd learns of dropped packets."),
            Field(
                "loggedDropsPerSecond", .integer(0...10_000), default: 10,
                "So many dropped packets a second are told, for each way in which pods are denied; 0: none."),
        ])

    public static let needs = ClusterNeeds(
        [.namespace, .pod, .networkPolicy, .clusterNetworkPolicy, .service], podsOfOtherNodes: true)

    public let name = NetworkPolicies.settings.name
    public var needs: ClusterNeeds { Self.needs }

    private let options: Settings
    private let table: PolicyTable
    private let kernel: PolicyKernel
    private let drops = Drops()
    /// While it runs.
    private let listener = Mutex<PacketListener?>(nil)
    private let flows: FlowExchange
    /// As they were when a drop was last told to others.
    private let origins = Mutex<Origins?>(nil)
    private let names: NameExchange
    private let admissions: DomainAdmissions
    private let answers: PolicyAnswers
    private let index = Mutex(PolicyIndex())
    /// Whether everything was known when it was last looked.
    private let isUsable = Mutex(false)

    public init(
        _ settings: Settings, kernel: PolicyKernel, names: NameExchange = NameExchange(),
        verdicts: VerdictExchange = VerdictExchange(), flows: FlowExchange = FlowExchange()
    ) {
        options = settings
        table = PolicyTable(
            keepsConnections: settings.existingConnections == "keep", checksSources: settings.checkSources,
            log: .init(group: UInt16(clamping: settings.logGroup), perSecond: settings.loggedDropsPerSecond))
        self.kernel = kernel
        self.names = names
        self.flows = flows
        admissions = DomainAdmissions(kernel.elements)
        answers = PolicyAnswers(verdicts)
        answers.judge { [weak self] question in
            guard let self else { return nil }
            return index.withLock { answers.answer(question, $0) }
        }
    }

    // MARK: Plugin

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        let (affected, domains) = index.withLock { ($0.follow(keys, in: state), $0.active.domains) }
        admissions.use(domains)
        names.listen(to: Set(domains.keys)) { [admissions] in admissions.admit($0, $1, lifetime: $2) }
        let named: Set<ObjectKey.Kind> = [.networkPolicy, .clusterNetworkPolicy, .attachment]
        if affected.contains(where: { named.contains($0.kind) }) { origins.withLock { $0 = nil } }
        let isUsable = state.local != nil && state.isUsable(needs.kinds)
        let isNew = self.isUsable.withLock { known in
            defer { known = isUsable }
            return isUsable && !known
        }
        answers.follow(affected, in: state, isUsable: isUsable, isNew: isNew)
        return isNew ? affected.union(state.keys) : affected
    }

    public func entries(for key: ObjectKey, in state: ClusterState) throws -> [PolicyEntry] {
        // Until everything is known, pods that are allowed would be denied: what is in the kernel stays.
        guard state.local != nil, state.isUsable(needs.kinds) else { return [] }
        switch key.kind {
        case .local: return table.fixed + dns(in: state)
        case .pod:
            guard let pod = state.pods[key], pod.isInPodNetwork else { return [] }
            return members(PodFacts(pod, in: state), pod.addresses, pod)
        case .attachment: return try state.attachments[key].map { try entries($0, in: state) } ?? []
        case .networkPolicy, .clusterNetworkPolicy:
            let (policy, entries) = index.withLock { index -> (Policy?, [PolicyEntry]) in
                guard let policy = index.policies[key] else { return (nil, []) }
                return (policy, index.isInUse(key) ? table.entries(policy, index.active.numbers) : [])
            }
            var problems = policy?.problems ?? []
            if !names.isServed, policy?.allRules.contains(where: { !$0.peers.domains.isEmpty }) == true {
                problems.append(
                    "domain names are known where the plugin dns answers, which is not enabled: they admit nothing")
            }
            guard !problems.isEmpty else { return entries }
            throw PartlyDesired(entries, reason: problems.joined(separator: "; "))
        case .node, .namespace, .service, .endpointSlice: return []
        }
    }

    /// The sets that the pod is in, by its labels and its ports.
    private func members(_ facts: PodFacts, _ addresses: [IPAddress], _ pod: Pod) -> [PolicyEntry] {
        let (numbers, ports) = index.withLock { ($0.active.matchers(of: facts), $0.active.namedPorts) }
        var entries = addresses.flatMap { address in
            numbers.map { PolicyEntry.element(SetName(.pods, $0, address.family), .address(address)) }
        }
        if ports.isEmpty { return entries }
        for port in pod.ports {
            guard let name = port.name, let number = UInt16(exactly: port.containerPort),
                let transport = HostPort.Transport(rawValue: (port.protocol ?? "TCP").lowercased())?.number
            else { continue }
            for named in [NamedPort(name: name, transport: transport), NamedPort(name: name, transport: nil)] {
                guard let set = ports[named] else { continue }
                entries += addresses.map {
                    .element(SetName(.named, set, $0.family), .port($0, transport: transport, number))
                }
            }
        }
        return entries
    }

    /// The node's own DNS stands for pods of the cluster's.
    private func dns(in state: ClusterState) -> [PolicyEntry] {
        let parts = options.dnsService.split(separator: "/").map(String.init)
        let service = state.services[ObjectKey(.service, namespace: parts[0], name: parts[1])]
        let addresses = Set(
            (options.dnsAddresses + (service?.spec?.clusterIPs ?? service?.spec?.clusterIP.map { [$0] } ?? []))
                .compactMap { IPAddress($0) })
        let labels = service?.spec?.selector ?? ["k8s-app": "kube-dns"]
        let facts = PodFacts(namespace: parts[0], name: parts[1], labels: labels, in: state)
        return index.withLock { $0.active.matchers(of: facts) }.flatMap { number in
            addresses.map { .element(SetName(.pods, number, $0.family), .address($0)) }
        }
    }

    private func entries(_ attachment: Attachment, in state: ClusterState) throws -> [PolicyEntry] {
        let key = ObjectKey.attachment(attachment.id)
        let link = attachment.hostLink
        var entries = attachment.addresses.flatMap { address -> [PolicyEntry] in
            [
                .element(SetName(.sources, 0, address.family), .source(interface: link, address)),
                .element(SetName(.own, 0, address.family), .own(address)),
            ]
        }
        var isHeld = false
        index.withLock { index in
            for direction in Direction.allCases {
                let profile = index.profile(of: key, direction)
                var chain = SetMember.accept
                if profile?.isEmpty != true {
                    isHeld = true
                    let known = profile.flatMap { PolicyTable.podChain($0, direction, index.active.numbers) }
                    chain = known ?? PolicyTable.unknownChain
                }
                if let profile { entries += table.entries(profile, direction, index.policies, index.active.numbers) }
                switch (direction, isOwn: attachment.options.chained == nil) {
                case (.egress, true):
                    entries.append(.element(SetName(.senders), .sender(interface: link, chain: chain)))
                case (.ingress, true):
                    entries.append(.element(SetName(.targets), .target(interface: link, chain: chain)))
                case (.egress, false): break
                case (.ingress, false):
                    entries += attachment.addresses.map {
                        .element(SetName(.receivers, 0, $0.family), .receiver($0, chain: chain))
                    }
                }
            }
        }
        guard let pod = attachment.pod else { return entries }
        if let object = state.pods[pod] {
            if object.isInPodNetwork {
                entries += members(PodFacts(object, in: state), attachment.addresses, object)
            }
        } else if isHeld {
            throw PartlyDesired(entries, reason: "\(pod) is not known; nothing goes to or from it until it is")
        }
        if isHeld, attachment.options.chained != nil {
            throw PartlyDesired(
                entries,
                reason: "its interface is another plugin's: policies hold for what it is sent, not for what it sends")
        }
        return entries
    }

    public func read() throws -> [PolicyEntry] {
        admissions.forget()
        return try kernel.read()
    }

    public func apply(_ changes: KernelChanges<PolicyEntry>) -> KernelOutcome<PolicyEntry> { kernel.apply(changes) }

    // MARK: Service

    public func run() async {
        guard options.loggedDropsPerSecond > 0 else { return }
        let listener = PacketListener(group: table.log.group, setting: "plugins.networkPolicy.logGroup") {
            [weak self] in
            if let self, let drop = drops.note($0) { tell(drop) }
        }
        self.listener.withLock { $0 = listener }
        await listener.run()
    }

    /// Tells others of it.
    private func tell(_ drop: Drop) {
        guard flows.isHeard else { return }
        let packet = drop.packet
        var event = FlowEvent(
            .denied, transport: packet.transport, from: .init(packet.source, port: packet.sourcePort),
            to: .init(packet.destination, port: packet.port))
        event.reason = origins.withLock { origins in
            let now = origins ?? index.withLock { Origins($0) }
            origins = now
            return now.reason(drop.counter)
        }
        flows.tell(event)
    }

    public var faults: [String] { listener.withLock { $0 }?.fault.map { [$0] } ?? [] }

    /// - Parameter words: none; `explain` with both ends, of several connections one after the other; `drops` with the number of the last
    ///   that is known.
    public func describe(_ words: [String], in state: ClusterState) async throws -> JSONValue {
        let description = PolicyDescription(state: state, index: index.withLock { $0 }, kernel: kernel)
        switch words.first {
        case "explain":
            let explainer = try explainer(in: state)
            return .array(
                try stride(from: 1, to: words.count - 1, by: 2).map { try explainer.explain(words[$0], words[$0 + 1]) })
        case "drops": return description.drops(drops, after: words.dropFirst().first.flatMap { Int($0) } ?? 0)
        default: return description.summary()
        }
    }

    func explainer(in state: ClusterState) throws -> Explainer {
        try Explainer(state, index.withLock { $0 }, table, kernel)
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        PolicyMetrics.measure(&page, index.withLock { $0 }, kernel.counters(), drops: drops.count)
    }
}
