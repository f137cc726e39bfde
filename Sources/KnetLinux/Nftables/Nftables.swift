import CNftables
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

    public init() throws {
        guard let pointer = nft_ctx_new(UInt32(NFT_CTX_DEFAULT)) else {
            throw SystemError("nft_ctx_new", errno: 0, detail: "libnftables could not be set up")
        }
        nft_ctx_buffer_output(pointer)
        nft_ctx_buffer_error(pointer)
        context = Mutex(Context(pointer: pointer))
    }

    /// Runs commands in nft's own syntax, all of them in one transaction.
    /// - Returns: what `nft` would print.
    /// - Throws: `NftablesError` with libnftables' message.
    @discardableResult
    public func run(_ commands: String) throws(NftablesError) -> String {
        let (status, output, errors) = context.withLock { context in
            let status = nft_run_cmd_from_buffer(context.pointer, commands)
            let output = nft_ctx_get_output_buffer(context.pointer).map { String(cString: $0) } ?? ""
            let errors = nft_ctx_get_error_buffer(context.pointer).map { String(cString: $0) } ?? ""
            return (status, output, errors)
        }
        guard status == 0 else { throw NftablesError(commands: commands, message: errors) }
        return output
    }

    /// A table as `nft list table` prints it; `nil` where there is none.
    public func list(table: String) throws(NftablesError) -> String? {
        do {
            return try run("list table \(table)")
        } catch  where error.message.contains("No such file or directory") {
            return nil
        }
    }
}

/// Commands that nftables refused; nothing of them is in force.
public struct NftablesError: Error, CustomStringConvertible {
    public let commands: String
    public let message: String
    public var description: String { "nftables refused: \(message.split(separator: "\n").joined(separator: " | "))" }
}
