/// One thing that knetd keeps in the kernel: a route, a neighbour, an element of a set.
public protocol KernelEntry: Hashable, Sendable, CustomStringConvertible {
    associatedtype ID: Hashable & Sendable

    /// What the kernel knows the thing by; a second entry with the same identity replaces the first.
    var id: ID { get }

    /// Whether the entry is taken back once nobody wants it. A sysctl, say, is not.
    var isRemovable: Bool { get }
}

extension KernelEntry {
    public var isRemovable: Bool { true }
}

/// What a batch does to the kernel. Entries are added before others are removed.
public struct KernelChanges<Entry: KernelEntry>: Sendable {
    /// Entries to create, or to put in the place of one with the same identity.
    public var add: [Entry]
    public var remove: [Entry]
    /// What the kernel holds in the place of entries of `add`, by identity.
    public var replaced: [Entry.ID: Entry] = [:]

    public init(add: [Entry] = [], remove: [Entry] = []) {
        self.add = add
        self.remove = remove
    }

    public var isEmpty: Bool { add.isEmpty && remove.isEmpty }
}

/// An entry that the kernel refused, and why.
public struct KernelFailure<Entry: KernelEntry>: Sendable {
    public let entry: Entry
    public let reason: String

    public init(entry: Entry, reason: String) {
        self.entry = entry
        self.reason = reason
    }
}

/// What became of a batch.
public struct KernelOutcome<Entry: KernelEntry>: Sendable {
    public var failures: [KernelFailure<Entry>]
    /// Whether other entries may have gone with one that was made anew, as routes go with their device.
    public var mustReadBack: Bool

    public init(failures: [KernelFailure<Entry>] = [], mustReadBack: Bool = false) {
        self.failures = failures
        self.mustReadBack = mustReadBack
    }
}

/// Thrown by `Plugin.entries` where an object is good in part: the entries are wanted, and the reason is reported.
public struct PartlyDesired<Entry: KernelEntry>: Error {
    public let entries: [Entry]
    public let reason: String

    public init(_ entries: [Entry], reason: String) {
        self.entries = entries
        self.reason = reason
    }
}

/// A part of the network that follows the cluster. A plugin says what the kernel should hold for one object, what it
/// holds, and how to change that; when, in which order and how often is the reconciler's business.
public protocol Plugin: Sendable {
    associatedtype Entry: KernelEntry

    /// The key under `plugins` in the configuration.
    var name: String { get }

    /// What it reads of the cluster's objects.
    var needs: ClusterNeeds { get }

    /// The keys whose entries can differ after `keys` changed. Without one of its own, a plugin gets just these.
    func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey>

    /// What the kernel should hold on account of `key`; nothing where the object is gone or of no concern.
    /// - Throws: what is wrong with the object, or `PartlyDesired`; it is reported by name, and all others go on.
    func entries(for key: ObjectKey, in state: ClusterState) throws -> [Entry]

    /// What the kernel holds that bears this plugin's mark.
    func read() throws -> [Entry]

    /// Changes the kernel, in one batch as far as it allows.
    func apply(_ changes: KernelChanges<Entry>) -> KernelOutcome<Entry>

    /// Called once all that was asked by `affected` is in the kernel, as far as that takes it.
    func settled()
}

extension Plugin {
    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> { keys }

    public func settled() {}
}
