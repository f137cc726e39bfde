import KnetCore

/// How a session with one peer is kept.
struct SessionSettings: Hashable, Sendable {
    var localAS: UInt32
    /// Not 0 (RFC 6286 §2.1).
    var identifier: UInt32
    /// `nil` where any AS may speak.
    var peerAS: UInt32?
    var families: Set<IPFamily> = [.v4, .v6]
    /// Seconds that are proposed: 0 for none, or at least 3.
    var holdTime: UInt16 = 90
    /// The peer connects, never this side.
    var isPassive = false
    /// Passive, and over when the peer stays away: the session of a neighbour that nobody configured.
    var isDynamic = false
    /// Whether paths of an external peer have to begin with its AS.
    var checksFirstAS = false
    /// `nil` where nothing is kept on either side.
    var gracefulRestart: Restart? = Restart()
    /// Between attempts to connect; also what one attempt may take.
    var connectRetry = Backoff(first: .seconds(5), limit: .seconds(120))
    /// Between the end of a session by an error and the next attempt (RFC 4271 §8.1.1). A session that has lasted as
    /// long as the limit is forgiven what was before.
    var idleHold = Backoff(first: .seconds(1), limit: .seconds(120))
    /// How long a restarted peer may take to tell its routes again.
    var staleLimit = Duration.seconds(360)

    struct Restart: Hashable, Sendable {
        /// Seconds that the peer keeps routes for: 0…4095.
        var time: UInt16 = 120
        /// Whether packets are forwarded while the daemon is away.
        var keepsForwarding = true
    }

    /// Whether this side ever connects.
    var connects: Bool { !isPassive && !isDynamic }

    /// How long the peer's OPEN may take, as RFC 4271 §8.2.2 suggests.
    static let openHoldTime = Duration.seconds(240)
}

extension SessionSettings {
    /// What is said of this side.
    func open(isRestarting: Bool) -> Open {
        var capabilities = families.sorted().map { Capability.multiprotocol(AddressFamily($0)) }
        capabilities += [.routeRefresh, .fourOctetAS(localAS)]
        if let gracefulRestart {
            let kept = families.sorted().map {
                GracefulRestart.Family(family: AddressFamily($0), keptForwarding: gracefulRestart.keepsForwarding)
            }
            capabilities.append(
                .gracefulRestart(
                    GracefulRestart(
                        isRestarting: isRestarting, coversNotifications: true, time: gracefulRestart.time,
                        families: kept)))
        }
        return Open(
            shortAS: UInt16(exactly: localAS) ?? Open.asTrans, holdTime: holdTime, identifier: identifier,
            capabilities: capabilities)
    }
}

/// Waits that double up to a limit.
struct Backoff: Hashable, Sendable {
    var first: Duration
    var limit: Duration

    /// - Parameters:
    ///   - failures: in a row; from 1.
    ///   - random: 0..<1, so that peers do not move in step (RFC 4271 §10).
    func wait(after failures: Int, random: Double) -> Duration {
        min(limit, first * (1 << min(max(failures, 1) - 1, 20))).jittered(random)
    }
}

extension Duration {
    /// Three quarters to the whole (RFC 4271 §10).
    func jittered(_ random: Double) -> Duration { self * (0.75 + 0.25 * random) }
}
