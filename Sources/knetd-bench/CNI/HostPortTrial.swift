import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Whether a host port works, by a connection from outside: a comparison with what does less must say so.
enum HostPortTrial {
    /// Milliseconds in which the connection must come about.
    private static let patience = 1000

    /// - Parameter playground: of one node, in which `chain` attaches pods.
    /// - Returns: what is wrong, for the tables; `nil` where the pod answered, and where ADD fails, which its row says already.
    static func remark(_ chain: PluginChain, _ playground: Playground, _ stage: Stage) -> String? {
        let works = try? stage.withPods(1) { pods in
            let attached = try chain.add(pods[0])
            let isReached = (try? reach(pods[0], playground)) != nil
            _ = try chain.delete(pods[0], after: attached.result)
            return isReached
        }
        return works == false ? "The host port of this knetd leads nowhere: it did less than the others." : nil
    }

    private static func reach(_ pod: BenchPod, _ playground: Playground) throws {
        guard let node = playground.address(of: "node1", .v4), let port = UInt16(exactly: pod.hostPort) else {
            throw Playground.Failure("the node has no IPv4 address")
        }
        // The kernel completes connections for a listener that never accepts.
        let listener = try NetworkNamespace(path: pod.path).run {
            let socket = try Sockets.open(.v4, SOCK_STREAM, milliseconds: patience)
            try Sockets.with(.v4(0), port: 80) { pointer, length in
                _ = try syscall("bind") { bind(socket.number, pointer, length) }
            }
            try syscall("listen") { listen(socket.number, 1) }
            return SharedDescriptor(socket)
        }
        try withExtendedLifetime(listener) {
            try playground.namespace("outside").run {
                let socket = try Sockets.open(.v4, SOCK_STREAM, milliseconds: patience)
                try Sockets.connect(socket.number, to: node, port: port)
            }
        }
    }
}
