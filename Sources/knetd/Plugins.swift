import KnetCore
import KnetDataplane

#if Overlay
    import OverlayPlugin
#endif
#if Routed
    import RoutedPlugin
#endif

/// The plugins of this build, one line each. The only file that asks for traits.
enum Plugins {
    static let all: [PluginEntry] = {
        var all: [PluginEntry] = []
        #if Overlay
            all.append(PluginEntry(Overlay.settings) { .dataplane(Overlay(try $0.decode())) })
        #endif
        #if Routed
            all.append(PluginEntry(Routed.settings) { _ in .dataplane(Routed()) })
        #endif
        return all
    }()

    static let configuration = ConfigurationReader(compiledIn: all.map(\.settings))
}

/// A plugin as the daemon makes it.
struct PluginEntry: Sendable {
    enum Made {
        case dataplane(any Dataplane)
    }

    let settings: PluginSettings
    /// From the plugin's part of the configuration, every default filled in.
    let make: @Sendable (JSONValue) throws -> Made

    init(_ settings: PluginSettings, make: @escaping @Sendable (JSONValue) throws -> Made) {
        self.settings = settings
        self.make = make
    }
}
