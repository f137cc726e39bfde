import KnetCore
import NIOCore
import Synchronization

/// One watch: notes what the store tells and sends it, as the client can take it, from its connection's event loop.
final class WatchStream: ChangeFollower {
    private enum Item {
        case object(StoredObject)
        case change(Change)
        case bookmark(Int, endsInitialEvents: Bool)
        case refusal(Status)
        case end
    }

    private struct State {
        var queue: [Item] = []
        var next = 0
        var isWoken = false
        /// Sends nothing any more, whatever happens.
        var isSilent = false
        var isOver = false
        /// Changes up to this revision are not told.
        var position = 0
        var owesInitialEnd = false
        /// The last events sent, to send them again.
        var recent: [ByteBuffer] = []
        var timers: [@Sendable () -> Void] = []
    }

    let resource: Resource
    private let exchange: Exchange
    private let format: Format
    private let selector: Selector
    private let store: ObjectStore
    private let faults: FaultInjector
    private let whenOver: @Sendable () -> Void
    private let state: Mutex<State>

    private static let mostRecent = 8

    /// - Parameter owesInitialEnd: whether the client asked for the bookmark that ends the initial events.
    init(
        _ exchange: Exchange, _ resource: Resource, _ format: Format, _ selector: Selector, store: ObjectStore,
        faults: FaultInjector, owesInitialEnd: Bool, whenOver: @escaping @Sendable () -> Void
    ) {
        self.exchange = exchange
        self.resource = resource
        self.format = format
        self.selector = selector
        self.store = store
        self.faults = faults
        self.whenOver = whenOver
        state = Mutex(State(owesInitialEnd: owesInitialEnd))
    }

    // MARK: What the store tells

    func begin(_ beginning: WatchBeginning) {
        state.withLock { state in
            state.position = beginning.position
            state.queue = beginning.objects.map { .object($0) }
            if state.owesInitialEnd { state.queue.append(.bookmark(beginning.revision, endsInitialEvents: true)) }
            state.queue += beginning.changes.map { .change($0) }
        }
        wake()
    }

    func follow(_ change: Change) { enqueue(.change(change)) }

    func follow(bookmark revision: Int) { enqueue(.bookmark(revision, endsInitialEvents: false)) }

    // MARK: Beginning and end

    /// Ends with a last bookmark after `timeout`; tells bookmarks every `bookmarkInterval` if there is one.
    func schedule(timeout: Duration, bookmarkInterval: Duration?) {
        let loop = exchange.channel.eventLoop
        let deadline = loop.scheduleTask(in: timeout.timeAmount) { [weak self] in
            guard let self else { return }
            if bookmarkInterval != nil { self.store.bookmark(self) }
            self.enqueue(.end)
        }
        var timers: [@Sendable () -> Void] = [{ deadline.cancel() }]
        if let interval = bookmarkInterval?.timeAmount {
            let bookmarks = loop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { [weak self] _ in
                guard let self else { return }
                self.store.bookmark(self)
            }
            timers.append { bookmarks.cancel() }
        }
        state.withLock { [timers] in $0.timers = timers }
    }

    /// Tells why there is nothing to watch, and ends.
    func refuse(_ status: Status) { enqueue(.refusal(status)) }

    /// Is over: sends nothing more, hears nothing more. The connection is for others to end.
    func finish() {
        let (isFirst, timers) = state.withLock { state in
            defer {
                state.isOver = true
                state.queue = []
                state.timers = []
            }
            return (!state.isOver, state.timers)
        }
        timers.forEach { $0() }
        guard isFirst else { return }
        store.unfollow(resource, self)
        exchange.watch.withLock { $0 = nil }
        whenOver()
    }

    private func end() {
        finish()
        exchange.end()
    }

    private func endAbruptly(_ end: AbruptEnd) {
        finish()
        exchange.endAbruptly(end)
    }

    // MARK: Sending

    private func enqueue(_ item: Item) {
        state.withLock { $0.queue.append(item) }
        wake()
    }

    func wake() {
        let isFirst = state.withLock { state in
            defer { state.isWoken = true }
            return !state.isWoken
        }
        if isFirst { exchange.channel.eventLoop.execute { self.pump() } }
    }

    /// Sends what waits, as long as the connection takes it. On the event loop only.
    private func pump() {
        state.withLock { $0.isWoken = false }
        while exchange.channel.isWritable, let item = takeNext() { send(item) }
        exchange.channel.flush()
    }

    private func takeNext() -> Item? {
        state.withLock { state in
            guard !state.isOver, !state.isSilent, state.next < state.queue.count else {
                state.queue.removeAll(keepingCapacity: true)
                state.next = 0
                return nil
            }
            defer { state.next += 1 }
            return state.queue[state.next]
        }
    }

    private func send(_ item: Item) {
        switch item {
        case .object(let object) where selector.matches(object): send("ADDED", object)
        case .object: break
        case .change(let change):
            guard change.revision > state.withLock({ $0.position }), let seen = change.seen(through: selector) else {
                return
            }
            send(seen.kind.rawValue, seen.object)
        case .bookmark(let revision, let endsInitialEvents):
            send(bookmark: revision, endsInitialEvents: endsInitialEvents)
        case .refusal(let status):
            exchange.write(format.frame("ERROR", format.encode(status)))
            end()
        case .end: end()
        }
    }

    private func send(bookmark revision: Int, endsInitialEvents: Bool) {
        let isWithheld = faults.rolls(\.withheldBookmark)
        let endsThem: Bool? = state.withLock { state in
            guard revision >= state.position, !isWithheld else { return nil }
            defer { state.owesInitialEnd = false }
            return endsInitialEvents || state.owesInitialEnd
        }
        guard let endsThem else { return }
        let object = StoredObject.bookmark(resource, revision: revision, endsInitialEvents: endsThem)
        exchange.write(format.frame("BOOKMARK", format.encode(object)))
    }

    private func send(_ type: String, _ object: StoredObject) {
        let frame = format.frame(type, format.encode(object))
        switch faults.watchFault() {
        case nil: send(frame)
        case .duplicate:
            send(frame)
            send(frame)
        case .replay:
            state.withLock { $0.recent }.forEach { exchange.write($0) }
            send(frame)
        case .garbage: exchange.write(format.garbage(faults.number(in: 0...1)))
        case .expired: send(.refusal(.expired("too old resource version: \(object.revision) (\(store.revision))")))
        case .failed: send(.refusal(.internalError("the watch stream failed")))
        case .cleanCut: end()
        case .cutInsideFrame:
            exchange.write(frame.getSlice(at: frame.readerIndex, length: frame.readableBytes / 2) ?? frame)
            endAbruptly(.close)
        case .reset: endAbruptly(.reset)
        case .silence:
            let timers = state.withLock { state in
                defer { state.timers = [] }
                state.isSilent = true
                return state.timers
            }
            timers.forEach { $0() }
            store.unfollow(resource, self)
        }
    }

    private func send(_ frame: ByteBuffer) {
        exchange.write(frame)
        state.withLock { state in
            state.recent.append(frame)
            if state.recent.count > Self.mostRecent { state.recent.removeFirst() }
        }
    }
}

extension Duration {
    var timeAmount: TimeAmount {
        .nanoseconds(components.seconds * 1_000_000_000 + components.attoseconds / 1_000_000_000)
    }
}
