/// One execution of a CNI plugin: what the runtime put into the environment and on standard input.
public struct CNIRequest: Hashable, Sendable, Codable {
    public enum Command: String, Sendable, Codable, CaseIterable {
        case add = "ADD"
        case del = "DEL"
        case check = "CHECK"
        case gc = "GC"
        case status = "STATUS"
        case version = "VERSION"

        /// The first version of the specification with this command.
        var since: CNIVersion {
            switch self {
            case .add, .del, .version: .v031
            case .check: .v040
            case .gc, .status: .v110
            }
        }

        var needsContainer: Bool { [.add, .del, .check].contains(self) }
        var needsNamespace: Bool { [.add, .check].contains(self) }
    }

    public let command: Command
    public let version: CNIVersion
    public let containerID: String
    public let interface: String
    public let namespacePath: String
    public let arguments: [String: String]
    /// The network configuration as it came on standard input.
    public let config: JSONValue

    public var id: AttachmentID { AttachmentID(containerID: containerID, interface: interface) }
    public var network: String { config["name"]?.string ?? "" }

    /// Reads and checks what the runtime gave.
    /// - Parameters:
    ///   - environment: the variables `CNI_*`.
    ///   - config: the network configuration.
    /// - Throws: `CNIError` with the specification's code.
    public init(environment: [String: String], config: JSONValue) throws(CNIError) {
        guard let word = environment["CNI_COMMAND"], !word.isEmpty else {
            throw CNIError(.invalidEnvironment, "CNI_COMMAND is not set", details: "one of \(Self.commandList)")
        }
        guard let command = Command(rawValue: word) else {
            throw CNIError(.invalidEnvironment, "CNI_COMMAND is \"\(word)\"", details: "one of \(Self.commandList)")
        }
        guard config.object != nil else {
            throw CNIError(.undecodable, "the network configuration on standard input is not a JSON object")
        }
        let asked = config["cniVersion"]?.string ?? "0.1.0"
        guard let version = CNIVersion(rawValue: asked) else {
            let supported = CNIVersion.allCases.map(\.rawValue).joined(separator: ", ")
            throw CNIError(
                .incompatibleVersion, "cniVersion \(asked) is not supported", details: "supported are \(supported)")
        }
        guard version >= command.since else {
            throw CNIError(
                .incompatibleVersion, "cniVersion \(asked) has no \(word)",
                details: "it came with \(command.since.rawValue); raise cniVersion in the network configuration")
        }
        self.command = command
        self.version = version
        self.config = config
        containerID = environment["CNI_CONTAINERID"] ?? ""
        interface = environment["CNI_IFNAME"] ?? ""
        namespacePath = environment["CNI_NETNS"] ?? ""
        arguments = Self.parse(arguments: environment["CNI_ARGS"] ?? "")
        try check()
    }

    /// Checks what came over the socket as strictly as what came from a runtime.
    public func check() throws(CNIError) {
        if command != .version, network.isEmpty {
            throw CNIError(.invalidConfig, "the network configuration has no \"name\"")
        }
        guard command == .version || Self.isValid(name: network) else {
            throw CNIError(
                .invalidConfig, "the network's name \"\(network)\" is not valid",
                details: "a letter or digit, then letters, digits, \"_\", \".\" or \"-\"")
        }
        var missing: [String] = []
        if command.needsContainer {
            if containerID.isEmpty { missing.append("CNI_CONTAINERID") }
            if interface.isEmpty { missing.append("CNI_IFNAME") }
        }
        if command.needsNamespace, namespacePath.isEmpty { missing.append("CNI_NETNS") }
        guard missing.isEmpty else {
            throw CNIError(
                .invalidEnvironment, "\(missing.joined(separator: ", ")) not set",
                details: "\(command.rawValue) needs them; the container runtime sets them")
        }
        guard command.needsContainer else { return }
        guard Self.isValid(name: containerID) else {
            throw CNIError(
                .invalidEnvironment, "CNI_CONTAINERID \"\(containerID)\" is not valid",
                details: "a letter or digit, then letters, digits, \"_\", \".\" or \"-\", \(Self.longestName) in all")
        }
        guard InterfaceName.isValid(interface) else {
            throw CNIError(
                .invalidEnvironment, "CNI_IFNAME \"\(interface)\" is not an interface name",
                details:
                    "the kernel allows 1 to \(InterfaceName.maximumLength) bytes without \"/\", \":\" or white space")
        }
        if command == .check, config["prevResult"]?.object == nil {
            throw CNIError(.invalidConfig, "CHECK needs \"prevResult\" in the network configuration")
        }
    }

    /// `K8S_POD_NAME=a;K8S_POD_NAMESPACE=b`; pairs without `=` are dropped.
    private static func parse(arguments: String) -> [String: String] {
        let pairs = arguments.split(separator: ";").compactMap { pair -> (String, String)? in
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            return parts.count == 2 ? (String(parts[0]), String(parts[1])) : nil
        }
        return Dictionary(pairs) { _, last in last }
    }

    /// Whether `name` has the form that the specification asks of networks and containers.
    static func isValid(name: String) -> Bool {
        let letters = name.unicodeScalars
        guard letters.count <= longestName else { return false }
        guard let first = letters.first, first.isASCII, first.properties.isAlphabetic || ("0"..."9").contains(first)
        else { return false }
        return letters.allSatisfy {
            $0.isASCII && ($0.properties.isAlphabetic || ("0"..."9").contains($0) || "_.-".unicodeScalars.contains($0))
        }
    }

    /// The identity must fit an interface's alias (IFALIASZ of <linux/if.h>, 256) beside the mark and the interface.
    private static let longestName = 200

    private static let commandList = Command.allCases.map(\.rawValue).joined(separator: ", ")

    /// What GC is told to keep: `cni.dev/valid-attachments`.
    /// - Throws: `CNIError` where the list is missing or malformed; an attachment must not be lost to a typing error.
    public func validAttachments() throws(CNIError) -> Set<AttachmentID> {
        // Runtimes in Go write an empty list as null.
        if config["cni.dev/valid-attachments"] == .null { return [] }
        guard let list = config["cni.dev/valid-attachments"]?.array else {
            throw CNIError(
                .invalidConfig, "GC needs the list \"cni.dev/valid-attachments\" in the network configuration")
        }
        var ids: Set<AttachmentID> = []
        for (index, element) in list.enumerated() {
            guard let container = element["containerID"]?.string, let interface = element["ifname"]?.string else {
                throw CNIError(
                    .invalidConfig, "cni.dev/valid-attachments[\(index)] lacks \"containerID\" or \"ifname\"")
            }
            ids.insert(AttachmentID(containerID: container, interface: interface))
        }
        return ids
    }
}
