import KnetCore
import KnetDataplane
import KnetLinux

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
            all.append(PluginEntry(Overlay.settings) { settings, _ in .dataplane(Overlay(try settings.decode())) })
        #endif
        #if Routed
            all.append(PluginEntry(Routed.settings) { _, _ in .dataplane(Routed()) })
        #endif
        #if ServiceProxy
            all.append(
                PluginEntry(ServiceProxy.settings, needs: ServiceProxy.needs, remove: ServiceKernel.remove) {
                    let kernel = try ServiceKernel(nftables: $1.nftables, pool: $1.pool)
                    let proxy = ServiceProxy(try $0.decode(), kernel: kernel)
                    return .plugin(proxy, table: ServiceKernel.table, service: proxy)
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
        /// - Parameter table: the name of its nftables table; changes of others do not concern it.
        case plugin(any Plugin, table: String, service: any PluginService)
    }

    /// What a plugin may be made of.
    struct Surroundings {
        let nftables: Nftables
        let pool: NetlinkPool
    }

    let settings: PluginSettings
    let needs: ClusterNeeds
    /// From the plugin's part of the configuration, every default filled in.
    let make: @Sendable (JSONValue, Surroundings) throws -> Made
    /// Takes what it left in the kernel away, where it is not enabled; dataplanes look after each other's.
    let remove: (@Sendable (Nftables) throws -> Void)?

    init(
        _ settings: PluginSettings, needs: ClusterNeeds = DataplanePlugin.needs,
        remove: (@Sendable (Nftables) throws -> Void)? = nil,
        make: @escaping @Sendable (JSONValue, Surroundings) throws -> Made
    ) {
        self.settings = settings
        self.needs = needs
        self.remove = remove
        self.make = make
    }
}
