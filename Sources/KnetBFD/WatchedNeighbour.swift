import Glibc
import KnetCore
import KnetLinux

/// One that is watched, and who wishes it.
struct WatchedNeighbour {
    var session: LivenessSession
    let socket: SharedDescriptor
    var liveness = LivenessWatch.Liveness.unknown
    var reason = "not heard yet"
    var since: Duration
    var wishes: [String: LivenessWatch.Pace] = [:]
    /// When it goes, once nobody wishes for it.
    var ends: Duration?
}

extension WatchedNeighbour {
    /// - Parameter others: whose numbers are taken.
    init(
        _ address: IPAddress, among others: [IPAddress: Self], _ pace: LivenessWatch.Pace, _ now: Duration
    ) throws {
        let descriptor = Descriptor(
            owning: try syscall("socket") {
                Glibc.socket(
                    Int32(address.family.socketFamily), Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            })
        let hops = Int32(SingleHop.hopLimit)
        if address.family == .v4 {
            SocketOption.set(descriptor.number, Int32(IPPROTO_IP), IP_TTL, hops)
        } else {
            SocketOption.set(descriptor.number, Int32(IPPROTO_IPV6), IPV6_UNICAST_HOPS, hops)
        }
        let any = IPAddress(address.family, number: 0)
        var isBound = false
        for _ in 0..<64 where !isBound {
            isBound = any.withSocketName(port: .random(in: SingleHop.sourcePorts)) {
                bind(descriptor.number, $0, $1) == 0
            }
        }
        guard isBound else { throw SystemError("bind a UDP port from \(SingleHop.sourcePorts.lowerBound) on") }
        socket = SharedDescriptor(descriptor)
        let taken = Set(others.values.map(\.session.localDiscriminator))
        var discriminator = UInt32.random(in: 1...UInt32.max)
        while taken.contains(discriminator) { discriminator = .random(in: 1...UInt32.max) }
        session = LivenessSession(localDiscriminator: discriminator, parameters: pace.parameters, now: now)
        since = now
    }

    var deadline: Duration? { [session.nextDeadline, ends].compactMap(\.self).min() }

    /// Follows who wishes for it.
    mutating func settle(_ now: Duration) {
        let fastest = wishes.values.min { $0.interval * $0.multiplier < $1.interval * $1.multiplier }
        if let fastest {
            ends = nil
            if session.parameters != fastest.parameters { session.change(fastest.parameters, now: now) }
            if session.enable(now: now) != nil { become(.unknown, "not heard yet", now) }
        } else if session.disable(now: now) != nil {
            // It says so for as long as the neighbour would wait for it.
            ends = now + session.remoteDetectionTime
        } else if ends == nil {
            ends = now
        }
    }

    /// - Returns: whether it became something else.
    mutating func receive(_ packet: ControlPacket, _ now: Duration) -> Bool {
        let change = session.receive(packet, now: now)
        if let change, change.to == .up {
            become(.up, change.reason, now)
            return true
        }
        if packet.state == .adminDown, liveness != .ended, liveness != .unknown {
            become(.ended, "the neighbour ended its sessions", now)
            return true
        }
        guard let change, change.from == .up else { return false }
        become(.restarting, change.reason, now)
        return true
    }

    mutating func become(_ liveness: LivenessWatch.Liveness, _ reason: String, _ now: Duration) {
        self.liveness = liveness
        self.reason = reason
        since = now
    }

    func send(_ packet: ControlPacket, to address: IPAddress) {
        let bytes = packet.bytes
        // What cannot be sent now is as good as lost.
        _ = address.withSocketName(port: SingleHop.port) { name, length in
            sendto(socket.number, bytes, bytes.count, Int32(MSG_DONTWAIT), name, length)
        }
    }

    func told(_ address: IPAddress) -> LivenessWatch.Neighbour {
        .init(address: address, liveness: liveness, reason: reason, since: since)
    }
}

extension LivenessWatch.Pace {
    fileprivate var parameters: SessionParameters {
        let microseconds = UInt32(clamping: max(1, interval) * 1000)
        guard
            let parameters = SessionParameters(
                desiredMinTxInterval: microseconds, requiredMinRxInterval: microseconds,
                detectMultiplier: UInt8(clamping: max(1, multiplier)))
        else { preconditionFailure("none of them is 0") }
        return parameters
    }
}

enum SocketOption {
    static func set(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
        var value = value
        setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
    }
}
