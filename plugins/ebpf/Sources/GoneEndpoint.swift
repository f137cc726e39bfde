import KnetCore
import ServiceProxyPlugin

/// An endpoint that a frontend leads to no more; of all ports where none is given.
struct GoneEndpoint {
    let frontend: PlainFrontend.ID
    let address: IPAddress
    let port: UInt16?

    /// Datagrams go elsewhere as soon as their endpoint serves no more.
    static func ofDatagrams(_ old: [PlainFrontend], now: [PlainFrontend]) -> [GoneEndpoint] {
        let new = Dictionary(now.map { ($0.id, $0) }) { $1 }
        return old.filter { $0.id.isOfDatagrams }.flatMap { before in
            let kept = Set(new[before.id]?.slots.map(\.endpoint) ?? [])
            return Set(before.slots.map(\.endpoint)).subtracting(kept).map {
                GoneEndpoint(frontend: before.id, address: $0.address, port: UInt16($0.port))
            }
        }
    }
}
