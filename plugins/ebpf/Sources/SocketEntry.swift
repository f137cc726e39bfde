import CBPF
public import KnetCore
public import ServiceProxyPlugin

/// One thing that Services at the socket keep in the kernel.
public enum SocketEntry: KernelEntry {
    /// A network namespace whose sockets are meant, by its cookie.
    case client(UInt64)
    case frontend(PlainFrontend)

    public enum ID: Hashable, Sendable {
        case client(UInt64)
        case frontend(PlainFrontend.ID)
    }

    public var id: ID {
        switch self {
        case .client(let cookie): .client(cookie)
        case .frontend(let frontend): .frontend(frontend.id)
        }
    }

    public var description: String {
        switch self {
        case .client(let cookie): "sockets of the network namespace with the cookie \(cookie)"
        case .frontend(let frontend):
            "\(Endpoint(address: frontend.id.address, port: Int(frontend.id.port))) of transport \(frontend.id.transport)"
        }
    }
}

extension SocketEntry {
    var frontend: PlainFrontend? { if case .frontend(let frontend) = self { frontend } else { nil } }
}

/// A program, and what a socket does when it runs.
enum SocketHook: String, ObjectName {
    case connect4 = "knet_connect4"
    case connect6 = "knet_connect6"
    case send4 = "knet_sendmsg4"
    case send6 = "knet_sendmsg6"
    case receive4 = "knet_recvmsg4"
    case receive6 = "knet_recvmsg6"
    case peer4 = "knet_getpeername4"
    case peer6 = "knet_getpeername6"
    case release = "knet_release"

    var attachType: bpf_attach_type {
        switch self {
        case .connect4: BPF_CGROUP_INET4_CONNECT
        case .connect6: BPF_CGROUP_INET6_CONNECT
        case .send4: BPF_CGROUP_UDP4_SENDMSG
        case .send6: BPF_CGROUP_UDP6_SENDMSG
        case .receive4: BPF_CGROUP_UDP4_RECVMSG
        case .receive6: BPF_CGROUP_UDP6_RECVMSG
        case .peer4: BPF_CGROUP_INET4_GETPEERNAME
        case .peer6: BPF_CGROUP_INET6_GETPEERNAME
        case .release: BPF_CGROUP_INET_SOCK_RELEASE
        }
    }
}

public enum SocketMap: String, ObjectName {
    case clients = "knet_clients"
    case frontends = "knet_frontends"
    case slots = "knet_slots"
    /// Endpoints of datagrams' frontends.
    case members = "knet_members"
    /// What connected sockets asked for.
    case connections = "knet_connected"
    /// The same of datagrams, both ways.
    case datagrams = "knet_datagrams"
    case counters = "knet_sockets"
}

/// What became of a socket, as knet.h numbers it.
enum SocketOutcome: UInt32, CaseIterable {
    case connected = 0
    case sent = 1

    var name: String { "\(self)" }

    var explanation: String {
        switch self {
        case .connected: "connected to an endpoint of a Service"
        case .sent: "datagrams sent to one"
        }
    }
}

extension PlainFrontend.ID {
    /// IANA's number of UDP.
    var isOfDatagrams: Bool { transport == 17 }
}

extension PlainFrontend.Slot {
    var endpoint: Endpoint { Endpoint(address: address, port: Int(port)) }
}
