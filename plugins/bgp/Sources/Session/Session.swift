import KnetCore

/// The state machine of a session with one peer (RFC 4271 §8), without clock and sockets: events come in, actions go
/// out. While two connections stand open at once, each goes its own way until one of them is left.
struct Session: Sendable {
    /// As the RFC names them.
    enum State: String, Sendable {
        case idle = "Idle"
        case connect = "Connect"
        case active = "Active"
        case openSent = "OpenSent"
        case openConfirm = "OpenConfirm"
        case established = "Established"
    }

    enum Mode: Sendable {
        case stopped
        /// After an error, until the timer of that name.
        case idleHold
        case running
    }

    let settings: SessionSettings
    var mode = Mode.stopped
    var connections: [SessionConnection] = []
    var timers: Set<SessionTimer> = []
    /// Families with routes that are kept without their peer, or until it has told them again.
    var stale: Set<IPFamily> = []
    /// Whether this side has restarted and had no session since.
    var isRestarting = false
    var connectCount = 0
    /// Attempts to connect in a row that led nowhere.
    var connectFailures = 0
    /// Errors in a row.
    var errors = 0

    var counters = MessageCounters()
    /// How often an established session ended.
    var flaps = 0
    /// Why the last connection failed or ended.
    var lastDown: DownReason?
    var lastDownAt: Duration?
    /// When the state became what it is.
    private(set) var since: Duration

    /// The event in hand.
    private(set) var now: Duration
    private(set) var random = 0.0
    var actions: [SessionAction] = []

    /// - Parameter now: of the clock that `handle` is told, from any beginning.
    init(_ settings: SessionSettings, now: Duration) {
        self.settings = settings
        self.now = now
        since = now
    }

    /// - Parameters:
    ///   - now: never before the last one.
    ///   - random: 0..<1.
    /// - Returns: what is to be done, in this order.
    mutating func handle(_ event: SessionEvent, now: Duration, random: Double) -> [SessionAction] {
        let before = state
        self.now = now
        self.random = random
        actions = []
        defer { actions = [] }
        dispatch(event)
        keepTrying()
        if state != before { since = now }
        return actions
    }

    private mutating func dispatch(_ event: SessionEvent) {
        switch event {
        case .start(let isRestarting): start(isRestarting: isRestarting)
        case .stop(let reason): stop(reason)
        case .timer(let timer): if timers.remove(timer) != nil { expire(timer) }
        case .opened(let id): if id.side == .outgoing { openedOutgoing(id) } else { openedIncoming(id) }
        case .failed(let id, let text): lose(id, .unreachable(text))
        case .closed(let id): lose(id, .closed)
        case .received(let frame, let id): receive(frame, id)
        case .malformed(let notification, let id): fail(id, sending: notification)
        case .askRefresh(let family): askRefresh(family)
        case .sentUpdates(let count): counters.countSent(.update, count)
        }
    }

    var state: State {
        guard mode == .running else { return .idle }
        let states = connections.map { connection -> State in
            switch connection.progress {
            case .connecting: .connect
            case .openSent: .openSent
            case .openConfirm: .openConfirm
            case .established: .established
            }
        }
        return [.established, .openConfirm, .openSent, .connect].first(where: states.contains) ?? .active
    }

    /// The connection over which routes are told.
    var established: SessionConnection? { connections.first(where: \.isEstablished) }

    func index(_ id: ConnectionID) -> Int? { connections.firstIndex { $0.id == id } }
}

extension Session {
    private mutating func start(isRestarting: Bool) {
        guard mode == .stopped else { return }
        mode = .running
        self.isRestarting = isRestarting
        (connectFailures, errors) = (0, 0)
        if settings.connects { connect() }
    }

    private mutating func stop(_ reason: StopReason) {
        guard mode != .stopped else { return }
        for connection in connections {
            var farewell: Notification?
            if case .cease(let cease, let text) = reason, connection.progress != .connecting {
                farewell = connection.negotiated?.cease(cease, text: text) ?? .cease(cease, text: text)
            }
            drop(connection.id, .stopped(reason), sending: farewell)
        }
        for timer in [SessionTimer.connectRetry, .idleHold, .stale] { cancel(timer) }
        // After a restart the kernel's routes are taken over.
        if reason != .restart, !stale.isEmpty { actions.append(.removeStale(stale)) }
        stale = []
        mode = .stopped
    }

    mutating func askRefresh(_ family: IPFamily) {
        guard let established, let negotiated = established.negotiated, negotiated.hasRouteRefresh,
            negotiated.context.families.contains(family)
        else { return }
        send(.routeRefresh(RouteRefresh(AddressFamily(family))), established.id)
    }

    mutating func send(_ message: Message, _ id: ConnectionID) {
        counters.countSent(message.type)
        actions.append(.send(message, id))
    }
}
