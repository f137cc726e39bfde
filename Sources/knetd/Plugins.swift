import KnetBFD
import KnetCore
import KnetDataplane
import KnetLinux
import Logging

#if BGP
    import BGPPlugin
#endif
#if DNS
    import DNSPlugin
#endif
#if EBPF
    import EBPFPlugin
#endif
#if Flows
    import FlowsPlugin
#endif
#if LoadBalancer
    import LoadBalancerPlugin
#endif
#if NetworkPolicy
    import NetworkPolicyPlugin
#endif
#if Overlay
    import OverlayPlugin
#endif
#if Routed
    import RoutedPlugin
#endif
#if ServiceProxy
    import ServiceProxyPlugin
#endif

/// The plugins of this build, one line each. The only file that asks for traits.
enum Plugins {
    static let all: [PluginEntry] = {
        var all: [PluginEntry] = []
        #if Overlay
            all.append(PluginEntry(Overlay.settings) { settings, _ in [.dataplane(Overlay(try settings.decode()))] })
        #endif
        #if Routed
            all.append(PluginEntry(Routed.settings) { _, _ in [.dataplane(Routed())] })
        #endif
        #if EBPF
            all.append(
                PluginEntry(
                    EBPF.settings,
                    remove: {
                        try PathKernel.remove($0.pool)
                        SocketKernel.remove(runDirectory: $0.configuration.agent.runDirectory, $0.kept)
                    }
                ) {
                    let (dataplane, plugins) = (try EBPF($0), $1.configuration.plugins)
                    let settings = dataplane.configuration
                    var sockets: SocketServices?
                    if settings.socketServices, let services = plugins["serviceProxy"] {
                        sockets = try SocketServices(
                            services.decode(), ownCookie: NetworkNamespace.currentCookie(),
                            answered: plugins["dns"]?["service"]?.string,
                            kernel: SocketKernel(
                                settings, runDirectory: $1.configuration.agent.runDirectory, kept: $1.kept,
                                logger: $1.logger))
                    } else {
                        SocketKernel.remove(runDirectory: $1.configuration.agent.runDirectory, $1.kept)
                    }
                    let kernel = PathKernel(settings, pool: $1.pool, logger: $1.logger)
                    let outside =
                        try settings.outsideServices
                        ? plugins["serviceProxy"].map { OutsideServices(try $0.decode(), kernel: kernel) } : nil
                    let policies = plugins["networkPolicy"]
                    let path = FastPath(
                        dataplane, network: $1.configuration.network, kernel: kernel,
                        obstacle: policies?["existingConnections"] == "cut"
                            ? "packets go through the host's stack, where networkPolicy looks at each (existingConnections: cut)"
                            : nil, policies: policies == nil ? nil : $1.verdicts, flows: $1.flows,
                        sockets: sockets, outside: outside)
                    return [.dataplane(dataplane), .plugin(path, events: [.link], service: path)]
                        + (sockets.map { [.plugin($0, events: [], service: $0)] } ?? [])
                        + (outside.map { [.plugin($0, events: [], service: $0)] } ?? [])
                })
        #endif
        #if ServiceProxy
            all.append(
                PluginEntry(
                    ServiceProxy.settings, needs: { _ in ServiceProxy.needs },
                    remove: { try ServiceKernel.remove($0.nftables) }
                ) {
                    let kernel = try ServiceKernel(nftables: $1.nftables, pool: $1.pool)
                    let proxy = ServiceProxy(
                        try $0.decode(), kernel: kernel, flows: $1.flows,
                        isBesidePrograms: $1.configuration.plugins["ebpf"]?["outsideServices"] == true)
                    return [.plugin(proxy, events: [.nftables(table: ServiceKernel.table)], service: proxy)]
                })
        #endif
        #if DNS
            all.append(
                PluginEntry(
                    DNS.settings, needs: { DNS.needs(try $0.decode()) },
                    remove: { try DNS.remove($0.nftables, $0.kept) }
                ) {
                    let dns = try DNS(
                        try $0.decode(), nftables: $1.nftables, pool: $1.pool, kept: $1.kept, logger: $1.logger,
                        names: $1.names)
                    return [.plugin(dns, events: [.nftables(table: DNS.table), .link, .address], service: dns)]
                })
        #endif
        #if NetworkPolicy
            all.append(
                PluginEntry(
                    NetworkPolicies.settings, needs: { _ in NetworkPolicies.needs },
                    remove: { try PolicyKernel.remove($0.nftables) }
                ) {
                    let kernel = try PolicyKernel(nftables: $1.nftables, pool: $1.pool)
                    let policies = NetworkPolicies(
                        try $0.decode(), kernel: kernel, names: $1.names, verdicts: $1.verdicts,
                        flows: $1.flows)
                    return [.plugin(policies, events: [.nftables(table: PolicyKernel.table)], service: policies)]
                })
        #endif
        #if Flows
            all.append(
                PluginEntry(Flows.settings, needs: { _ in Flows.needs }) {
                    let held = HeldFlows(try $0.decode())
                    $1.flows.listen { held.note($0) }
                    let flows = Flows(held)
                    return [.plugin(flows, events: [], service: flows)]
                })
        #endif
        #if BGP
            all.append(
                PluginEntry(
                    BGP.settings, needs: { _ in BGP.needs },
                    remove: { try BGP.remove($0.pool, runDirectory: $0.configuration.agent.runDirectory) }
                ) {
                    let bgp = try BGP(
                        try $0.decode(), network: $1.configuration.network, pool: $1.pool, liveness: $1.liveness,
                        runDirectory: $1.configuration.agent.runDirectory, logger: $1.logger)
                    return [.plugin(bgp, events: [.link], service: bgp)]
                })
        #endif
        #if LoadBalancer
            all.append(
                PluginEntry(LoadBalancer.settings, needs: { LoadBalancer.needs(try $0.decode()) }) {
                    let balancer = try LoadBalancer(
                        try $0.decode(), writing: $1.writing, liveness: $1.liveness, logger: $1.logger)
                    return [.plugin(balancer, events: [.link], service: balancer)]
                })
        #endif
        return all
    }()

    static let configuration = ConfigurationReader(compiledIn: all.map(\.settings))
}

/// A plugin as the daemon makes it.
struct PluginEntry: Sendable {
    enum Made {
        case dataplane(any Dataplane)
        /// - Parameter events: changes of the kernel that concern it.
        case plugin(any Plugin, events: Set<KernelEvent>, service: any PluginService)
    }

    /// What a plugin may be made of.
    struct Surroundings {
        let nftables: Nftables
        let pool: NetlinkPool
        let kept: KeptDescriptors
        let logger: Logger
        let names: NameExchange
        let verdicts: VerdictExchange
        let flows: FlowExchange
        let writing: WriterExchange
        let liveness: LivenessWatch
        let configuration: Configuration
    }

    let settings: PluginSettings
    /// What it follows of the cluster, as its part of the configuration has it.
    let needs: @Sendable (JSONValue) throws -> ClusterNeeds
    /// What works on its behalf, from its part of the configuration, every default filled in.
    let make: @Sendable (JSONValue, Surroundings) throws -> [Made]
    /// Takes what it left in the kernel away, where it is not enabled; dataplanes look after each other's.
    let remove: (@Sendable (Surroundings) throws -> Void)?

    init(
        _ settings: PluginSettings,
        needs: @escaping @Sendable (JSONValue) throws -> ClusterNeeds = { _ in DataplanePlugin.needs },
        remove: (@Sendable (Surroundings) throws -> Void)? = nil,
        make: @escaping @Sendable (JSONValue, Surroundings) throws -> [Made]
    ) {
        self.settings = settings
        self.needs = needs
        self.remove = remove
        self.make = make
    }
}
