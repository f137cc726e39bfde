import FoundationEssentials
import KnetCore
import SwiftProtobuf

// Between the API's messages and the reduced objects, in both directions: the snapshot has the API's form too.

extension Metadata {
    /// Begins the names of annotations that are knetd's own settings.
    static let ownAnnotations = "knetd.io/"

    /// - Parameters:
    ///   - labels: whether the label of that name is kept.
    ///   - annotations: the same of annotations.
    init(
        _ wire: WireObjectMeta, _ shared: inout SharedValues, labels: (String) -> Bool = { _ in true },
        annotations: (String) -> Bool = { _ in false }
    ) {
        self.init(
            name: wire.name, namespace: wire.namespace.nonEmpty.map { shared.share($0) },
            labels: shared.share(wire.labels.filter { labels($0.key) }),
            annotations: shared.share(wire.annotations.filter { annotations($0.key) }))
        isTerminating = wire.hasDeletionTimestamp
    }

    var wire: WireObjectMeta {
        .with {
            $0.name = name
            if let namespace { $0.namespace = namespace }
            $0.labels = labels ?? [:]
            $0.annotations = annotations ?? [:]
            if isTerminating { $0.deletionTimestamp = WireTime() }
        }
    }
}

extension Condition {
    init(_ wire: WireCondition) { self.init(type: wire.type, status: wire.status) }

    var wire: WireCondition {
        .with {
            $0.type = type
            $0.status = status
        }
    }
}

extension Namespace {
    init(_ wire: WireNamespace, _ shared: inout SharedValues) { self.init(metadata: Metadata(wire.metadata, &shared)) }

    var wire: WireNamespace { .with { $0.metadata = metadata.wire } }
}

extension Node {
    /// Other annotations of Nodes are long and change often.
    private static let keptAnnotations = "flannel.alpha.coreos.com/"

    init(_ wire: WireNode, _ shared: inout SharedValues) {
        let conditions = wire.status.conditions.filter { $0.type == Condition.networkUnavailable }
        self.init(
            metadata: Metadata(wire.metadata, &shared, annotations: { $0.hasPrefix(Self.keptAnnotations) }),
            spec: Spec(
                podCIDR: wire.spec.podCidrs.isEmpty ? wire.spec.podCidr.nonEmpty : nil,
                podCIDRs: wire.spec.podCidrs.nonEmpty),
            status: Status(
                addresses: wire.status.addresses.map { .init(type: $0.type, address: $0.address) },
                conditions: conditions.map(Condition.init).nonEmpty))
    }

    var wire: WireNode {
        .with {
            $0.metadata = metadata.wire
            $0.spec.podCidr = spec?.podCIDR ?? ""
            $0.spec.podCidrs = spec?.podCIDRs ?? []
            $0.status.conditions = (status?.conditions ?? []).map(\.wire)
            $0.status.addresses = (status?.addresses ?? []).map { address in
                .with {
                    $0.type = address.type
                    $0.address = address.address
                }
            }
        }
    }
}

extension Pod {
    init(_ wire: WirePod, _ shared: inout SharedValues) {
        self.init(metadata: Metadata(wire.metadata, &shared))
        let containers = wire.spec.containers.compactMap { Container($0) }
        let sidecars = wire.spec.initContainers.filter { $0.restartPolicy == Container.always }
        spec = Spec(
            nodeName: wire.spec.nodeName.nonEmpty.map { shared.share($0) },
            hostNetwork: wire.spec.hostNetwork ? true : nil, hostname: wire.spec.hostname.nonEmpty,
            subdomain: wire.spec.subdomain.nonEmpty, containers: containers.nonEmpty,
            initContainers: sidecars.compactMap { Container($0) }.nonEmpty,
            dnsPolicy: wire.spec.dnsPolicy.nonEmpty.map { shared.share($0) },
            dnsConfig: wire.spec.dnsConfig.searches.nonEmpty.map { DNSConfig(searches: $0) })
        let texts =
            wire.status.podIps.isEmpty ? [wire.status.podIp].filter { !$0.isEmpty } : wire.status.podIps.map(\.ip)
        status = Status(
            phase: wire.status.phase.nonEmpty, podIPs: texts.map { Status.IP(ip: $0) }.nonEmpty,
            // A pod of the API without the condition is not ready yet, unlike one of a manifest.
            conditions: [
                wire.status.conditions.first { $0.type == Condition.ready }.map(Condition.init)
                    ?? Condition(type: Condition.ready, status: "False")
            ])
    }

    var wire: WirePod {
        .with {
            $0.metadata = metadata.wire
            $0.spec = .with {
                $0.nodeName = spec?.nodeName ?? ""
                $0.hostNetwork = spec?.hostNetwork ?? false
                $0.hostname = spec?.hostname ?? ""
                $0.subdomain = spec?.subdomain ?? ""
                $0.dnsPolicy = spec?.dnsPolicy ?? ""
                if let searches = spec?.dnsConfig?.searches { $0.dnsConfig.searches = searches }
                $0.containers = (spec?.containers ?? []).map(\.wire)
                $0.initContainers = (spec?.initContainers ?? []).map(\.wire)
            }
            $0.status.phase = status?.phase ?? ""
            $0.status.podIps = (status?.podIPs ?? []).map { address in .with { $0.ip = address.ip } }
            $0.status.conditions = (status?.conditions ?? []).map(\.wire)
        }
    }
}

extension Pod.Container {
    /// `nil` for one that names no ports: there is nothing else to know of it.
    fileprivate init?(_ wire: WireContainer) {
        let ports = wire.ports.map {
            Pod.Port(name: $0.name.nonEmpty, containerPort: Int($0.containerPort), protocol: $0.protocol.nonEmpty)
        }
        guard !ports.isEmpty else { return nil }
        self.init(ports: ports, restartPolicy: wire.restartPolicy.nonEmpty)
    }

    fileprivate var wire: WireContainer {
        .with {
            $0.ports = (ports ?? []).map(\.wire)
            if let restartPolicy { $0.restartPolicy = restartPolicy }
        }
    }
}

extension Pod.Port {
    fileprivate var wire: WireContainerPort {
        .with {
            $0.name = name ?? ""
            $0.containerPort = Int32(clamping: containerPort)
            $0.protocol = self.protocol ?? ""
        }
    }
}

extension Service {
    private static let keptAnnotations = [
        "service.kubernetes.io/", Metadata.ownAnnotations, "metallb.io/", "metallb.universe.tf/",
    ]

    init(_ wire: WireService, _ shared: inout SharedValues) {
        // Pools of addresses are given by labels.
        let isBalanced = wire.spec.type == "LoadBalancer"
        self.init(
            metadata: Metadata(
                wire.metadata, &shared, labels: { isBalanced || $0.hasPrefix("service.kubernetes.io/") },
                annotations: { key in Self.keptAnnotations.contains { key.hasPrefix($0) } }))
        spec = Spec(
            type: wire.spec.type.nonEmpty, clusterIP: wire.spec.clusterIp.nonEmpty,
            clusterIPs: wire.spec.clusterIps.nonEmpty,
            ports: wire.spec.ports.map {
                Port(
                    name: $0.name.nonEmpty.map { shared.share($0) }, protocol: $0.protocol.nonEmpty, port: Int($0.port),
                    targetPort: $0.hasTargetPort ? PortReference($0.targetPort) : nil,
                    nodePort: $0.nodePort == 0 ? nil : Int($0.nodePort))
            }.nonEmpty, selector: shared.share(wire.spec.selector),
            publishNotReadyAddresses: wire.spec.publishNotReadyAddresses ? true : nil,
            externalName: wire.spec.externalName.nonEmpty)
        spec?.externalIPs = wire.spec.externalIps.nonEmpty
        spec?.sessionAffinity = wire.spec.sessionAffinity.nonEmpty.map { shared.share($0) }
        if wire.spec.hasSessionAffinityConfig {
            let seconds = wire.spec.sessionAffinityConfig.clientIp.timeoutSeconds
            spec?.sessionAffinityConfig = AffinityConfig(clientIP: .init(timeoutSeconds: Int(seconds)))
        }
        spec?.loadBalancerSourceRanges = wire.spec.loadBalancerSourceRanges.nonEmpty
        spec?.externalTrafficPolicy = wire.spec.externalTrafficPolicy.nonEmpty.map { shared.share($0) }
        spec?.internalTrafficPolicy = wire.spec.internalTrafficPolicy.nonEmpty.map { shared.share($0) }
        spec?.healthCheckNodePort = wire.spec.healthCheckNodePort == 0 ? nil : Int(wire.spec.healthCheckNodePort)
        spec?.loadBalancerIP = wire.spec.loadBalancerIp.nonEmpty
        spec?.loadBalancerClass = wire.spec.loadBalancerClass.nonEmpty.map { shared.share($0) }
        if isBalanced {
            spec?.ipFamilies = wire.spec.ipFamilies.nonEmpty
            spec?.ipFamilyPolicy = wire.spec.ipFamilyPolicy.nonEmpty.map { shared.share($0) }
        }
        let ingress = wire.status.loadBalancer.ingress.map {
            Status.Ingress(ip: $0.ip.nonEmpty, ipMode: $0.ipMode.nonEmpty)
        }.nonEmpty
        let conditions = wire.status.conditions.map {
            Status.Condition(
                type: $0.type, status: $0.status, reason: $0.reason.nonEmpty, message: $0.message.nonEmpty)
        }.nonEmpty
        if ingress != nil || conditions != nil {
            status = Status(loadBalancer: ingress.map { .init(ingress: $0) }, conditions: conditions)
        }
    }

    var wire: WireService {
        .with {
            $0.metadata = metadata.wire
            $0.spec = .with {
                $0.type = spec?.type ?? ""
                $0.clusterIp = spec?.clusterIP ?? ""
                $0.clusterIps = spec?.clusterIPs ?? []
                $0.selector = spec?.selector ?? [:]
                $0.publishNotReadyAddresses = spec?.publishNotReadyAddresses ?? false
                $0.externalName = spec?.externalName ?? ""
                $0.ports = (spec?.ports ?? []).map(\.wire)
                $0.externalIps = spec?.externalIPs ?? []
                $0.sessionAffinity = spec?.sessionAffinity ?? ""
                if let seconds = spec?.sessionAffinityConfig?.clientIP?.timeoutSeconds {
                    $0.sessionAffinityConfig.clientIp.timeoutSeconds = Int32(clamping: seconds)
                }
                $0.loadBalancerSourceRanges = spec?.loadBalancerSourceRanges ?? []
                $0.externalTrafficPolicy = spec?.externalTrafficPolicy ?? ""
                $0.internalTrafficPolicy = spec?.internalTrafficPolicy ?? ""
                $0.healthCheckNodePort = Int32(clamping: spec?.healthCheckNodePort ?? 0)
                $0.loadBalancerIp = spec?.loadBalancerIP ?? ""
                $0.loadBalancerClass = spec?.loadBalancerClass ?? ""
                $0.ipFamilies = spec?.ipFamilies ?? []
                $0.ipFamilyPolicy = spec?.ipFamilyPolicy ?? ""
            }
            $0.status.conditions = (status?.conditions ?? []).map { condition in
                .with {
                    $0.type = condition.type
                    $0.status = condition.status
                    $0.reason = condition.reason ?? ""
                    $0.message = condition.message ?? ""
                }
            }
            $0.status.loadBalancer.ingress = (status?.loadBalancer?.ingress ?? []).map { ingress in
                .with {
                    $0.ip = ingress.ip ?? ""
                    $0.ipMode = ingress.ipMode ?? ""
                }
            }
        }
    }
}

extension Service.Port {
    fileprivate var wire: WireServicePort {
        .with {
            $0.name = name ?? ""
            $0.protocol = self.protocol ?? ""
            $0.port = Int32(clamping: port)
            if let targetPort { $0.targetPort = targetPort.wire }
            $0.nodePort = Int32(clamping: nodePort ?? 0)
        }
    }
}

extension PortReference {
    init(_ wire: WireIntOrString) { self = wire.type == 0 ? .number(Int(wire.intVal)) : .name(wire.strVal) }

    var wire: WireIntOrString {
        .with {
            switch self {
            case .number(let number): $0.intVal = Int32(clamping: number)
            case .name(let name):
                $0.type = 1
                $0.strVal = name
            }
        }
    }
}

extension EndpointSlice {
    init(_ wire: WireEndpointSlice, _ shared: inout SharedValues) {
        self.init(
            metadata: Metadata(wire.metadata, &shared, labels: { $0 == Self.serviceLabel }),
            addressType: wire.addressType, endpoints: nil, ports: nil)
        endpoints = wire.endpoints.map { endpoint in
            Endpoint(
                addresses: endpoint.addresses,
                conditions: endpoint.hasConditions ? Endpoint.Conditions(endpoint.conditions) : nil,
                hostname: endpoint.hostname.nonEmpty,
                nodeName: endpoint.nodeName.nonEmpty.map { shared.share($0) },
                zone: endpoint.zone.nonEmpty.map { shared.share($0) },
                hints: endpoint.hasHints ? Endpoint.Hints(endpoint.hints, &shared) : nil)
        }
        ports = wire.ports.map {
            Port(
                name: $0.name.nonEmpty.map { shared.share($0) }, port: $0.hasPort ? Int($0.port) : nil,
                protocol: $0.protocol.nonEmpty)
        }
        triggered = wire.metadata.annotations[Self.triggerAnnotation].flatMap { text in
            let fine = Date.ISO8601FormatStyle(includingFractionalSeconds: true)
            return ((try? Date(text, strategy: .iso8601)) ?? (try? Date(text, strategy: fine)))?.timeIntervalSince1970
        }
    }

    private static let triggerAnnotation = "endpoints.kubernetes.io/last-change-trigger-time"

    var wire: WireEndpointSlice {
        .with {
            $0.metadata = metadata.wire
            $0.addressType = addressType
            $0.endpoints = (endpoints ?? []).map(\.wire)
            $0.ports = (ports ?? []).map { port in
                .with {
                    $0.name = port.name ?? ""
                    if let number = port.port { $0.port = Int32(clamping: number) }
                    $0.protocol = port.protocol ?? ""
                }
            }
        }
    }
}

extension EndpointSlice.Endpoint {
    fileprivate var wire: WireEndpoint {
        .with {
            $0.addresses = addresses
            if let conditions { $0.conditions = conditions.wire }
            $0.hostname = hostname ?? ""
            $0.nodeName = nodeName ?? ""
            $0.zone = zone ?? ""
            if let hints { $0.hints = hints.wire }
        }
    }
}

extension EndpointSlice.Endpoint.Hints {
    fileprivate init(_ wire: WireEndpointHints, _ shared: inout SharedValues) {
        self.init(
            forZones: wire.forZones.map { Name(name: shared.share($0.name)) }.nonEmpty,
            forNodes: wire.forNodes.map { Name(name: shared.share($0.name)) }.nonEmpty)
    }

    fileprivate var wire: WireEndpointHints {
        func names(_ hints: [Name]?) -> [WireNamedHint] { (hints ?? []).map { hint in .with { $0.name = hint.name } } }
        return .with {
            $0.forZones = names(forZones)
            $0.forNodes = names(forNodes)
        }
    }
}

extension EndpointSlice.Endpoint.Conditions {
    fileprivate init(_ wire: WireEndpointConditions) {
        self.init(
            ready: wire.hasReady ? wire.ready : nil, serving: wire.hasServing ? wire.serving : nil,
            terminating: wire.hasTerminating ? wire.terminating : nil)
    }

    fileprivate var wire: WireEndpointConditions {
        .with {
            if let ready { $0.ready = ready }
            if let serving { $0.serving = serving }
            if let terminating { $0.terminating = terminating }
        }
    }
}

// An empty field of a message is one that is not there.
extension String {
    var nonEmpty: String? { isEmpty ? nil : self }
}

extension Array {
    var nonEmpty: [Element]? { isEmpty ? nil : self }
}
