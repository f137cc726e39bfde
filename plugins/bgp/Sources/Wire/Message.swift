/// A message that a session sends. Updates are made by `UpdateWriter`.
enum Message: Hashable, Sendable {
    case open(Open)
    case notification(Notification)
    case keepalive
    case routeRefresh(RouteRefresh)

    var type: MessageType {
        switch self {
        case .open: .open
        case .notification: .notification
        case .keepalive: .keepalive
        case .routeRefresh: .routeRefresh
        }
    }

    var bytes: [UInt8] {
        switch self {
        case .open(let open): open.bytes
        case .notification(let notification): notification.bytes
        case .keepalive: Frame.message(.keepalive)
        case .routeRefresh(let refresh): refresh.bytes
        }
    }
}

/// The wish to be told all routes of a family again (RFC 2918 §3).
struct RouteRefresh: Hashable, Sendable {
    let family: AddressFamily
    /// 0 for the wish; others mark its beginning and end (RFC 7313 §3.2), which is not negotiated here.
    let subtype: UInt8

    init(_ family: AddressFamily, subtype: UInt8 = 0) {
        self.family = family
        self.subtype = subtype
    }

    /// - Parameter frame: of the type route refresh.
    static func read(_ frame: Frame) -> RouteRefresh? {
        var body = frame.body
        guard let afi = body.short(), let subtype = body.byte(), let safi = body.byte() else { return nil }
        return RouteRefresh(AddressFamily(afi: afi, safi: safi), subtype: subtype)
    }

    var bytes: [UInt8] {
        var body: [UInt8] = []
        body.append(number: family.afi)
        return Frame.message(.routeRefresh, body + [subtype, family.safi])
    }
}
