import CMnl
import Glibc

extension Descriptor {
    /// A connection that no child process inherits: its end would wait for the child's.
    /// - Returns: `nil`, with the reason in `errno`, where there is none within the listener's limit of time.
    package static func accepted(from listener: Int32) -> Descriptor? {
        let number = accept4(listener, nil, nil, Int32(SOCK_CLOEXEC.rawValue))
        return number >= 0 ? Descriptor(owning: number) : nil
    }
}
