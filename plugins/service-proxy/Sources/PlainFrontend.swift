public import KnetCore

/// A frontend as a balancer without memory sees it. It is plain where any client on this node gets any of the endpoints: no
/// affinity, no hash, no refusal, nobody kept out.
public struct PlainFrontend: Hashable, Sendable {
    public struct ID: Hashable, Sendable, Comparable {
        /// IANA's number.
        public let transport: UInt8
        public let address: IPAddress
        public let port: UInt16

        public init(transport: UInt8, address: IPAddress, port: UInt16) {
            self.transport = transport
            self.address = address
            self.port = port
        }

        public static func < (a: ID, b: ID) -> Bool {
            (a.address, a.port, a.transport) < (b.address, b.port, b.transport)
        }
    }

    public struct Slot: Hashable, Sendable {
        public let number: UInt32
        public let address: IPAddress
        public let port: UInt16

        public init(number: UInt32, address: IPAddress, port: UInt16) {
            self.number = number
            self.address = address
            self.port = port
        }
    }

    public let id: ID
    /// A power of two: a draw takes one of so many slots. 0 where it is not plain.
    public let size: UInt32
    /// By number. Where a draw can meet none, the slot behind the last has an endpoint. Of one that is not plain they are told all the
    /// same.
    public let slots: [Slot]

    public init(id: ID, size: UInt32, slots: [Slot]) {
        self.id = id
        self.size = size
        self.slots = slots
    }

    init(_ frontend: Frontend) {
        var size: UInt32 = 0
        var slots: [Slot] = []
        var isPlain = frontend.id.transport != .sctp
        for fact in frontend.facts {
            switch fact {
            case .member(.balancer(.cluster, let balancer)) where balancer.method == .random:
                size = UInt32(balancer.size)
            case .slot(.cluster, let number, let backend):
                slots.append(Slot(number: number, address: backend.address, port: backend.port))
            // What clients outside get.
            case .member(.services), .member(.external), .member(.balancer(.external, _)), .member(.drop(.external)),
                .slot(.external, _, _):
                break
            default: isPlain = false
            }
        }
        self.init(id: frontend.id.plain, size: isPlain ? size : 0, slots: slots)
    }
}

extension PlainFrontend {
    /// As clients outside see it, with a slot for every draw: the endpoint follows from the client alone, on every node. Its size is 0
    /// where it is not plain.
    init(outside frontend: Frontend) {
        var isPlain = frontend.id.transport != .sctp
        let view = frontend.facts.contains(.member(.external)) ? View.external : .cluster
        for fact in frontend.facts {
            switch fact {
            case .member(.services), .member(.external), .slot: break
            case .member(.balancer(let other, let balancer)):
                isPlain = isPlain && (other != view || balancer.method != .source)
            case .member(.drop(let other)): isPlain = isPlain && other != view
            default: isPlain = false
            }
        }
        let backends = isPlain ? frontend.backends(view) : []
        guard !backends.isEmpty else {
            self.init(id: frontend.id.plain, size: 0, slots: [])
            return
        }
        let table = Slots.table(backends, .flow)
        self.init(
            id: frontend.id.plain, size: UInt32(table.balancer.size),
            slots: table.slots.sorted { $0.key < $1.key }.map {
                Slot(number: $0.key, address: $0.value.address, port: $0.value.port)
            })
    }
}

extension FrontendID {
    var plain: PlainFrontend.ID {
        PlainFrontend.ID(transport: transport.number, address: address, port: port)
    }
}
