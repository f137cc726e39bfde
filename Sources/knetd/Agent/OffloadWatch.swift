import HashTreeCollections
import KnetCore
import KnetDataplane
import KnetLinux
import Logging

/// Finds out, device by device, whether the hardware beneath computes checksums rightly, by what peers answer; where it does
/// not, the kernel computes them. Some drivers and hypervisors get them wrong for what is inside VXLAN, and then small
/// packets of ICMP pass while every connection hangs.
struct OffloadWatch {
    let state: StateStore
    let dataplane: any Dataplane
    let reconcilers: [any ReconcilerHandle]
    let nodeName: String
    let logger: Logger

    private static let firstPause = Duration.milliseconds(500)
    private static let lastPause = Duration.seconds(60)
    /// Peers that are asked about one device.
    private static let peers = 3

    /// Follows the devices until the task is cancelled. A device is tried until a peer answers, and again once its uplink is
    /// another.
    func run() async {
        var settled: [String: [IPFamily: LocalNode.Uplink]] = [:]
        var pause = Self.firstPause
        while (try? await Task.sleep(for: pause)) != nil {
            pause = min(pause * 2, Self.lastPause)
            guard let local = state.current.local else { continue }
            for (device, trials) in undecided(local) where settled[device] != local.uplinks {
                if await isSettled(device, trials) { settled[device] = local.uplinks }
            }
        }
    }

    private func undecided(_ local: LocalNode) -> [String: [ChecksumTrial]] {
        let peers = state.current.nodes.values.filter { $0.metadata.name != nodeName }
            .sorted { $0.metadata.name < $1.metadata.name }
        let trials = dataplane.checksumTrials(local: local, peers: peers)
            .filter { !local.faultyOffloads.contains($0.device) }
        return Dictionary(grouping: trials, by: \.device)
    }

    /// - Returns: whether it is known now.
    private func isSettled(_ device: String, _ trials: [ChecksumTrial]) async -> Bool {
        let targets = Array(trials.map(\.target).prefix(Self.peers))
        switch await verdict(targets) {
        case .works: return true
        case .unknown: return false
        case .faulty: break
        }
        await set(device, isFaulty: true)
        if await verdict(targets) == .works {
            logger.warning(
                "checksums by the hardware arrive wrong; the kernel computes them from now on",
                metadata: ["op": "offload", "device": "\(device)"])
            return true
        }
        // It was something else.
        await set(device, isFaulty: false)
        return false
    }

    /// What the first peer says that says anything.
    private func verdict(_ targets: [IPAddress]) async -> ChecksumOffload.Verdict {
        let found = try? await onOwnThread("knetd-offload") { () -> ChecksumOffload.Verdict in
            for target in targets {
                let verdict = ChecksumOffload.trial(of: target)
                if verdict != .unknown { return verdict }
            }
            return .unknown
        }
        return found ?? .unknown
    }

    private func set(_ device: String, isFaulty: Bool) async {
        let version = state.update([.local]) { state in
            guard var local = state.local else { return }
            if isFaulty { local.faultyOffloads.insert(device) } else { local.faultyOffloads.remove(device) }
            state.set(local: local)
        }
        for reconciler in reconcilers { try? await reconciler.inForce(.local, version: version) }
    }
}
