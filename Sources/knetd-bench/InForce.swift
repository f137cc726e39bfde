import KnetCore
import KnetPlayground

extension ReconcilerHandle {
    /// Blocks the calling thread until what `key` wants as of the state's `version` is in force.
    func wait(for key: ObjectKey, version: UInt64) throws {
        let done = Completion()
        Task.detached { [self] in
            do {
                try await inForce(key, version: version)
                done.finish(nil)
            } catch {
                done.finish("\(error)")
            }
        }
        if let reason = done.wait() { throw Playground.Failure(reason) }
    }
}
