import KnetCore
import KnetDataplane
import KnetLinux
import Logging

#if DNS
    import DNSPlugin
#endif
#if EBPF
    import EBPFPlugin
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
                PluginEntry(EBPF.settings, remove: { _, _ in try PathKernel.remove(NetlinkPool()) }) {
                    let dataplane = try EBPF($0)
                    let kernel = PathKernel(
                        pool: $1.pool, endpoints: dataplane.configuration.endpoints,
                        nodes: dataplane.configuration.nodes, refused: PathKernel.refusedByEnvironment)
                    let path = FastPath(
                        dataplane, network: $1.configuration.network, kernel: kernel,
                        obstacle: $1.configuration.plugins["networkPolicy"] == nil
                            ? nil : "packets go through the host's stack, where networkPolicy filters them")
                    return [.dataplane(dataplane), .plugin(path, events: [.link], service: path)]
                })
        #endif
        #if ServiceProxy
            all.append(
                PluginEntry(
                    ServiceProxy.settings, needs: { _ in ServiceProxy.needs },
                    remove: { nftables, _ in try ServiceKernel.remove(nftables) }
                ) {
                    let kernel = try ServiceKernel(nftables: $1.nftables, pool: $1.pool)
                    let proxy = ServiceProxy(try $0.decode(), kernel: kernel)
                    return [.plugin(proxy, events: [.nftables(table: ServiceKernel.table)], service: proxy)]
                })
        #endif
        #if DNS
            all.append(
                PluginEntry(DNS.settings, needs: { DNS.needs(try $0.decode()) }, remove: DNS.remove) {
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
                    remove: { nftables, _ in try PolicyKernel.remove(nftables) }
                ) {
                    let kernel = try PolicyKernel(nftables: $1.nftables, pool: $1.pool)
                    let policies = NetworkPolicies(try $0.decode(), kernel: kernel, names: $1.names)
                    return [.plugin(policies, events: [.nftables(table: PolicyKernel.table)], service: policies)]
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
        let configuration: Configuration
    }

    let settings: PluginSettings
    /// What it follows of the cluster, as its part of the configuration has it.
    let needs: @Sendable (JSONValue) throws -> ClusterNeeds
    /// What works on its behalf, from its part of the configuration, every default filled in.
    let make: @Sendable (JSONValue, Surroundings) throws -> [Made]
    /// Takes what it left in the kernel away, where it is not enabled; dataplanes look after each other's.
    let remove: (@Sendable (Nftables, KeptDescriptors) throws -> Void)?

    init(
        _ settings: PluginSettings,
        needs: @escaping @Sendable (JSONValue) throws -> ClusterNeeds = { _ in DataplanePlugin.needs },
        remove: (@Sendable (Nftables, KeptDescriptors) throws -> Void)? = nil,
        make: @escaping @Sendable (JSONValue, Surroundings) throws -> [Made]
    ) {
        self.settings = settings
        self.needs = needs
        self.remove = remove
        self.make = make
    }
}
