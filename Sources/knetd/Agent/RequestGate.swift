/// Lets requests through, but not while one generation follows another: a request must not see half of each.
actor RequestGate {
    private var isClosed = false
    private var inside = 0
    private var waiting: [CheckedContinuation<Void, Never>] = []
    private var emptied: CheckedContinuation<Void, Never>?

    /// Runs `body` while the gate is open.
    func pass<Result: Sendable>(_ body: @Sendable () async -> Result) async -> Result {
        // Looked at once more inside: a task with an executor of its own may have suspended on the way in.
        while isClosed {
            await withCheckedContinuation { if isClosed { waiting.append($0) } else { $0.resume() } }
        }
        inside += 1
        let result = await body()
        inside -= 1
        if inside == 0 {
            emptied?.resume()
            emptied = nil
        }
        return result
    }

    /// Keeps new requests out and returns when the last one inside is done.
    func close() async {
        isClosed = true
        await withCheckedContinuation { if inside > 0 { emptied = $0 } else { $0.resume() } }
    }

    func open() {
        isClosed = false
        for continuation in waiting { continuation.resume() }
        waiting = []
    }
}
