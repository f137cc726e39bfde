import HashTreeCollections
public import KnetCore
import KnetLinux
import Synchronization

/// Who talks to whom: connections as conntrack and other plugins tell of them, with the names of pods and Services.
public final class Flows: Plugin, PluginService {
    /// `plugins.flows` in the configuration.
    public struct Settings: Codable, Sendable, Equatable {
        public let kept: Int
        public let sampleSeconds: Int

        public init(kept: Int = 4096, sampleSeconds: Int = 60) {
            self.kept = kept
            self.sampleSeconds = sampleSeconds
        }
    }

    public static let settings = PluginSettings(
        name: "flows", isDataplane: false, isDefault: false,
        fields: [
            Field(
                "kept", .integer(16...65_536), default: .integer(Settings().kept),
                "So many of the last events are kept for `knetd observe`."),
            Field(
                "sampleSeconds", .integer(0...3600), default: .integer(Settings().sampleSeconds),
                "How often the largest connections that go on are told, of those past the host's stack; 0: never."),
        ])

    /// What is followed for names.
    public static let needs = ClusterNeeds([.pod, .service], podsOfOtherNodes: true)

    /// Nothing of this plugin's is in the kernel.
    public enum Nothing: KernelEntry {
        public var id: Self { switch self {} }
        public var description: String { switch self {} }
    }

    public let name = Flows.settings.name
    /// Nothing waits for names: not a pod's start, nor the node.
    public let needs = ClusterNeeds([])

    private let held: HeldFlows
    private let listener: ConnectionListener

    /// - Parameter held: what other plugins tell is told to it too.
    public init(_ held: HeldFlows) {
        self.held = held
        listener = ConnectionListener { held.note($0) }
    }

    // MARK: Plugin

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        held.follow(keys, in: state)
        return []
    }

    public func entries(for key: ObjectKey, in state: ClusterState) -> [Nothing] { [] }
    public func read() -> [Nothing] { [] }
    public func apply(_ changes: KernelChanges<Nothing>) -> KernelOutcome<Nothing> { KernelOutcome() }

    // MARK: Service

    public func run() async { await listener.run() }

    public var faults: [String] { listener.fault.map { [$0] } ?? [] }

    /// - Parameter words: the number of the last event that is known; then `drop` for what was denied or refused alone, or `pod` with a
    ///   pod's `namespace/name`.
    public func describe(_ words: [String], in state: ClusterState) -> JSONValue {
        let pod = words.firstIndex(of: "pod").flatMap { words.dropFirst($0 + 1).first }
        let records = held.records(after: words.first.flatMap { Int($0) } ?? 0) { record in
            (!words.contains("drop") || record.event.isDrop)
                && (pod == nil || pod == record.sourcePod || pod == record.destinationPod)
        }
        return ["flows": .array(records.found.map(\.told)), "last": .integer(records.last)]
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        page.family("knetd_flow_events_total", "counter", "What became of connections that were seen.")
        for (kind, count) in held.counts.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            page.sample("knetd_flow_events_total", ["event": kind.rawValue], Double(count))
        }
        page.family(
            "knetd_flow_losses_total", "counter", "How often conntrack told more than was read in time.")
        page.sample("knetd_flow_losses_total", [:], Double(listener.losses))
    }
}

extension FlowEvent {
    var isDrop: Bool { kind == .denied || kind == .refused }
}
