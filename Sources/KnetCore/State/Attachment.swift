/// One interface of one container, as the CNI specification identifies it.
public struct AttachmentID: Hashable, Sendable, Codable, CustomStringConvertible {
    public let containerID: String
    /// The interface's name inside the pod.
    public let interface: String

    public init(containerID: String, interface: String) {
        self.containerID = containerID
        self.interface = interface
    }

    public var description: String { "\(containerID)/\(interface)" }
}

/// A pod's interface on this node: what CNI ADD made and CNI DEL removes.
public struct Attachment: Hashable, Sendable {
    public let id: AttachmentID
    /// The CNI network's name.
    public let network: String
    /// Namespace and name where the runtime told them (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`).
    public let podNamespace: String?
    public let podName: String?
    /// Path of the network namespace as the runtime gave it.
    public let namespacePath: String
    /// The kernel's identity of that namespace, never used twice in one boot (`SO_NETNS_COOKIE`).
    public let namespaceCookie: UInt64
    public let options: AttachmentOptions
    /// Given by the store, or by the earlier plugin where there is one.
    public var addresses: [IPAddress]
    public var phase: Phase

    /// How far an attachment has come.
    public enum Phase: Int, Sendable {
        /// Its addresses are taken; ADD was not answered. What stays so is undone.
        case reserved = 0
        /// ADD was answered.
        case attached = 1
        /// DEL was answered; its addresses are taken until the link is gone.
        case leaving = 2
    }

    public init(
        id: AttachmentID, network: String, podNamespace: String?, podName: String?, namespacePath: String,
        namespaceCookie: UInt64, options: AttachmentOptions = AttachmentOptions(), addresses: [IPAddress] = [],
        phase: Phase = .reserved
    ) {
        self.id = id
        self.network = network
        self.podNamespace = podNamespace
        self.podName = podName
        self.namespacePath = namespacePath
        self.namespaceCookie = namespaceCookie
        self.options = options
        self.addresses = addresses
        self.phase = phase
    }

    /// The host's end of the veth: `knet` and eleven digits of the identity, 15 bytes in all.
    public var hostLink: String { Self.hostLink(of: id) }
    /// The device that shapes what the pod sends.
    public var shaperLink: String { Self.shaperLink(of: id) }
    /// The host end's address, known without asking.
    public var hostMAC: MACAddress { MACAddress(derivedFrom: "host \(id)") }
    /// The pod end's address.
    public var podMAC: MACAddress { options.mac ?? MACAddress(derivedFrom: "pod \(id)") }

    public static let hostLinkPrefix = "knet"

    public static func hostLink(of id: AttachmentID) -> String { hostLinkPrefix + suffix(id) }

    public static func shaperLink(of id: AttachmentID) -> String { "kifb" + suffix(id) }

    private static func suffix(_ id: AttachmentID) -> String { digits(StableHash.of(id.description), count: 11) }

    /// The Pod that it is of, where the runtime told.
    public var pod: ObjectKey? {
        guard let podNamespace, let podName else { return nil }
        return ObjectKey(.pod, namespace: podNamespace, name: podName)
    }

    /// For people: `namespace/name`, or the container's id.
    public var title: String {
        if let podNamespace, let podName { "\(podNamespace)/\(podName)" } else { id.containerID }
    }

    private static func digits(_ number: UInt64, count: Int) -> String {
        let text = String(number, radix: 36)
        return String(String(repeating: "0", count: count) + text).suffix(count).lowercased()
    }
}
