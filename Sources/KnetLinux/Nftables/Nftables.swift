import CMnl
import CNftables
import FoundationEssentials
import Glibc
public import KnetCore
import Synchronization

/// A long-lived libnftables context in the network namespace of the thread that made it. Its calls block and are
/// serialised.
public final class Nftables: Sendable {
    /// The context is used under the lock only.
    private struct Context: ~Copyable, @unchecked Sendable {
        let pointer: OpaquePointer
        deinit { nft_ctx_free(pointer) }
    }

    private let context: Mutex<Context>
    /// Under which events of our own making come; `nil` where the context's socket could not be told.
    public let portID: UInt32?

    /// How `execute` prints.
    private enum Output {
        /// As `nft` does, without the elements of sets.
        case terse
        /// As `nft --json --numeric-protocol` does.
        case json

        var flags: UInt32 {
            switch self {
            case .terse: UInt32(NFT_CTX_OUTPUT_TERSE)
            case .json: UInt32(NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_NUMERIC_PROTO)
            }
        }
    }

    public init() throws {
        let before = NetlinkPorts.netfilter()
        guard let pointer = nft_ctx_new(UInt32(NFT_CTX_DEFAULT)) else {
            throw SystemError("nft_ctx_new", errno: 0, detail: "libnftables could not be set up")
        }
        portID = NetlinkPorts.netfilter().subtracting(before).first
        nft_ctx_buffer_output(pointer)
        nft_ctx_buffer_error(pointer)
        context = Mutex(Context(pointer: pointer))
    }

    /// Runs commands in nft's own syntax, all of them in one transaction.
    /// - Throws: `NftablesError` with libnftables' message.
    public func run(_ commands: String) throws(NftablesError) {
        _ = try KernelWrites.during { () throws(NftablesError) in try execute(commands, output: .terse) }
    }

    /// - Returns: what `nft` would print.
    private func execute(_ commands: String, output: Output) throws(NftablesError) -> String {
        let (status, output, errors) = context.withLock { context in
            nft_ctx_output_set_flags(context.pointer, output.flags)
            let status = nft_run_cmd_from_buffer(context.pointer, commands)
            let output = nft_ctx_get_output_buffer(context.pointer).map { String(cString: $0) } ?? ""
            let errors = nft_ctx_get_error_buffer(context.pointer).map { String(cString: $0) } ?? ""
            return (status, output, errors)
        }
        guard status == 0 else { throw NftablesError(commands: commands, message: errors) }
        return output
    }

    /// A table as `nft --terse list table` prints it; `nil` where there is none.
    public func list(table: String) throws(NftablesError) -> String? {
        do {
            return try execute("list table \(table)", output: .terse)
        } catch  where error.isAbsence {
            return nil
        }
    }

    /// The elements of a set, or the keys and values of a map; none where there is no such set. Parts of a concatenation
    /// are joined by ` . `.
    /// - Parameter set: `set` or `map`, family, table and name.
    public func elements(of set: String) throws -> [(key: String, value: String?)] {
        let elements = try listing(set).lazy.compactMap { ($0["set"] ?? $0["map"])?["elem"]?.array }.first ?? []
        return elements.map { element in
            guard let pair = element.array, pair.count == 2 else { return (Self.text(element), nil) }
            return (Self.text(pair[0]), Self.text(pair[1]))
        }
    }

    /// What `nft --json list` prints of it, without the envelope
    /// (https://manpages.debian.org/bookworm/libnftables1/libnftables-json.5.en.html); nothing where it is not there.
    /// - Parameter what: such as `chains` or `table ip nat`.
    public func listing(_ what: String) throws -> [JSONValue] {
        let output: String
        do throws(NftablesError) {
            output = try execute("list \(what)", output: .json)
        } catch {
            if error.isAbsence { return [] }
            throw error
        }
        return try JSONValue(parsing: Data(output.utf8))["nftables"]?.array ?? []
    }

    private static func text(_ value: JSONValue) -> String {
        (value["concat"]?.array ?? [value]).map { $0.string ?? $0.text() }.joined(separator: " . ")
    }
}

/// Which netlink ports this process has.
private enum NetlinkPorts {
    /// Those of its netfilter sockets.
    static func netfilter() -> Set<UInt32> {
        let numbers = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
        return Set(numbers.lazy.compactMap { Int32($0) }.compactMap(port))
    }

    private static func port(_ descriptor: Int32) -> UInt32? {
        var kind: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &kind, &length) == 0, kind == AF_NETLINK,
            getsockopt(descriptor, SOL_SOCKET, SO_PROTOCOL, &kind, &length) == 0, kind == NETLINK_NETFILTER
        else { return nil }
        var address = sockaddr_nl()
        length = socklen_t(MemoryLayout<sockaddr_nl>.size)
        let status = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        return status == 0 && address.nl_pid != 0 ? address.nl_pid : nil
    }
}

/// Commands that nftables refused; nothing of them is in force.
public struct NftablesError: Error, CustomStringConvertible {
    public let commands: String
    public let message: String
    /// Whether a table, set or element that the commands name is not there.
    public var isAbsence: Bool { message.contains("No such file or directory") }
    public var description: String { "nftables refused: \(message.split(separator: "\n").joined(separator: " | "))" }
}
