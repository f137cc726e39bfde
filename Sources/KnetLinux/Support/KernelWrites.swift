import KnetCore
import Synchronization

/// Counts what changes the kernel: a start that finds all in place makes none.
public enum KernelWrites {
    private static let counter = Atomic(0)

    /// Netlink requests, nftables transactions, sysctls and elements of BPF maps since the start of the process.
    public static var total: Int { counter.load(ordering: .relaxed) }

    /// Runs `body`, which makes `count` of them.
    @discardableResult
    public static func during<Result, Failure: Error>(
        _ count: Int = 1, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        CrashPoint.pass()
        counter.add(count, ordering: .relaxed)
        let result = try body()
        CrashPoint.pass()
        return result
    }
}
