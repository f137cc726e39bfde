import KnetCore
import KnetLinux

/// Between members of sets and the bytes of elements.
enum ElementForm {
    static func element(_ member: SetMember) -> SetElement {
        switch member {
        case .address(let address): SetElement(key: address.bytes)
        case .edge(let address, let isEnd): SetElement(key: address.bytes, isEnd: isEnd)
        case .ports(let range):
            SetElement(
                key: transport(range.span.transport) + port(range.span.first),
                lastKey: transport(range.span.transport) + port(range.span.last))
        case .port(let address, let number, let port):
            SetElement(key: address.bytes + transport(number) + self.port(port))
        case .source(let interface, let address): SetElement(key: self.interface(interface) + address.bytes)
        case .own(let address): SetElement(key: address.bytes + address.bytes)
        case .sender(let interface, let chain):
            SetElement(key: self.interface(interface), verdict: verdict(chain))
        case .target(let interface, let chain): SetElement(key: self.interface(interface), verdict: verdict(chain))
        case .receiver(let address, let chain): SetElement(key: address.bytes, verdict: verdict(chain))
        case .unknown(let key, let isEnd): SetElement(key: key, isEnd: isEnd)
        }
    }

    static func member(_ element: SetElement, of set: SetName) -> SetMember {
        known(element, of: set).flatMap { self.element($0.key).key == element.key ? $0 : nil }
            ?? .unknown(element.key, isEnd: element.isEnd)
    }

    private static func known(_ element: SetElement, of set: SetName) -> SetMember? {
        let key = element.key
        let size = (set.family ?? .v4).bits / 8
        func address(at start: Int = 0) -> IPAddress? {
            key.count >= start + size ? IPAddress(bytes: key[start..<start + size]) : nil
        }
        func port(_ bytes: [UInt8], at start: Int) -> UInt16? {
            bytes.count >= start + 2 ? UInt16(bytes[start]) << 8 | UInt16(bytes[start + 1]) : nil
        }
        var interface: String { String(decoding: key.prefix(16).prefix { $0 != 0 }, as: UTF8.self) }
        var chain: String {
            switch element.verdict {
            case .jump(let chain)?: chain
            case .accept?: SetMember.accept
            default: ""
            }
        }
        switch set.kind {
        case .pods, .domain: return address().map(SetMember.address)
        case .ranges: return address().map { .edge($0, isEnd: element.isEnd) }
        case .ports:
            guard let first = port(key, at: 4), let last = port(element.lastKey ?? key, at: 4) else { return nil }
            return .ports(.init(span: PortSpan(transport: key[0], first: first, last: last)))
        case .named:
            guard let address = address(), key.count > size, let number = port(key, at: size + 4) else { return nil }
            return .port(address, transport: key[size], number)
        case .sources: return address(at: 16).map { .source(interface: interface, $0) }
        case .own: return address().map(SetMember.own)
        case .senders: return .sender(interface: interface, chain: chain)
        case .targets: return .target(interface: interface, chain: chain)
        case .receivers: return address().map { .receiver($0, chain: chain) }
        }
    }

    private static func verdict(_ chain: String) -> RuleVerdict { chain == SetMember.accept ? .accept : .jump(chain) }

    static func transport(_ number: UInt8) -> [UInt8] { [number, 0, 0, 0] }
    static func port(_ number: UInt16) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 0xFF), 0, 0] }

    static func interface(_ name: String) -> [UInt8] {
        let bytes = Array(name.utf8.prefix(15))
        return bytes + [UInt8](repeating: 0, count: 16 - bytes.count)
    }
}
