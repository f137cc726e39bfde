import Glibc
import KnetCore
import KnetLinux

/// The executable as the CNI plugin `loopback`, which runtimes ask for before the network itself: it raises `lo` in the
/// pod's namespace. It needs no daemon.
enum LoopbackMode {
    static let type = "loopback"
    private static let name = "lo"

    static func answer(_ request: CNIRequest, namespace: NetworkNamespace?) throws(CNIError) -> JSONValue? {
        do {
            switch request.command {
            case .add:
                try namespace?.run { try set(up: true) }
                return request.config["prevResult"] ?? result(request)
            case .del:
                try namespace?.run { try set(up: false) }
                return nil
            case .check:
                guard try namespace?.run({ try NetlinkSocket().link(named: name).isUp }) == true else {
                    throw CNIError(.changed, "lo is down in \(request.namespacePath)")
                }
                return nil
            case .gc, .status, .version: return nil
            }
        } catch let error as CNIError {
            throw error
        } catch {
            throw CNIError(.kernel, "\(error)")
        }
    }

    private static func set(up isUp: Bool) throws {
        let socket = try NetlinkSocket()
        try socket.request(.changeLink(index: try NetlinkSocket.index(of: name), up: isUp))
    }

    private static func result(_ request: CNIRequest) -> JSONValue {
        let addresses = [("127.0.0.1/8", "4"), ("::1/128", "6")].map { address, family -> JSONValue in
            var members: [String: JSONValue] = ["address": .string(address), "interface": 0]
            if request.version < .v100 { members["version"] = .string(family) }
            return .object(members)
        }
        return [
            "cniVersion": .string(request.version.rawValue),
            "interfaces": [
                ["name": .string(name), "mac": "00:00:00:00:00:00", "sandbox": .string(request.namespacePath)]
            ],
            "ips": .array(addresses), "dns": [:],
        ]
    }
}
