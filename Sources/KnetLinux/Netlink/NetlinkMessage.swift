package import CMnl
import KnetCore

/// A netlink request under construction, in a buffer of its own.
public struct NetlinkMessage: ~Copyable {
    /// Bytes that a request can have. The largest of ours, a VXLAN device, has fewer than 400.
    static let capacity = 4096

    private let buffer: UnsafeMutableRawPointer
    private let header: UnsafeMutablePointer<nlmsghdr>
    /// What the request does and on what, for error messages.
    let purpose: String

    /// - Parameters:
    ///   - type: `RTM_*`.
    ///   - flags: `NLM_F_*` beside `NLM_F_REQUEST`.
    init(_ purpose: String, type: Int, flags: Int32 = 0) {
        self.purpose = purpose
        buffer = .allocate(byteCount: Self.capacity, alignment: 8)
        header = mnl_nlmsg_put_header(buffer)
        header.pointee.nlmsg_type = UInt16(type)
        header.pointee.nlmsg_flags = UInt16(NLM_F_REQUEST | flags)
    }

    deinit { buffer.deallocate() }

    /// The request's bytes so far.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: buffer, count: Int(header.pointee.nlmsg_len)) }

    func setSequence(_ number: UInt32, flags: Int32) {
        header.pointee.nlmsg_seq = number
        header.pointee.nlmsg_flags |= UInt16(flags)
    }

    /// Appends the family's fixed header.
    mutating func put<Fixed: BitwiseCopyable>(_ fixed: Fixed) {
        mnl_nlmsg_put_extra_header(header, MemoryLayout<Fixed>.size)?.storeBytes(of: fixed, as: Fixed.self)
    }

    mutating func put(_ type: some BinaryInteger, bytes: [UInt8]) {
        precondition(mnl_attr_put_check(header, Self.capacity, UInt16(type), bytes.count, bytes))
    }

    mutating func put<Value: FixedWidthInteger & BitwiseCopyable>(_ type: some BinaryInteger, _ value: Value) {
        withUnsafeBytes(of: value) {
            precondition(mnl_attr_put_check(header, Self.capacity, UInt16(type), $0.count, $0.baseAddress))
        }
    }

    mutating func put(_ type: some BinaryInteger, text: String) {
        precondition(mnl_attr_put_strz_check(header, Self.capacity, UInt16(type), text))
    }

    /// An attribute that holds what `body` puts.
    mutating func nest(_ type: some BinaryInteger, _ body: (inout NetlinkMessage) -> Void) {
        guard let start = mnl_attr_nest_start_check(header, Self.capacity, UInt16(type)) else {
            preconditionFailure("netlink request larger than \(Self.capacity) bytes")
        }
        body(&self)
        mnl_attr_nest_end(header, start)
    }
}

/// A netlink message that the kernel sent; it is valid only while it is being visited.
public struct NetlinkReply {
    package let header: UnsafePointer<nlmsghdr>

    var type: Int { Int(header.pointee.nlmsg_type) }
    var portID: UInt32 { header.pointee.nlmsg_pid }
    var payloadLength: Int { mnl_nlmsg_get_payload_len(header) }

    /// The family's fixed header; `nil` where the message is too short for one.
    func fixed<Fixed: BitwiseCopyable>(_: Fixed.Type) -> Fixed? {
        guard payloadLength >= MemoryLayout<Fixed>.size else { return nil }
        return mnl_nlmsg_get_payload(header)?.loadUnaligned(as: Fixed.self)
    }

    /// The attributes behind a fixed header.
    func attributes<Fixed>(after _: Fixed.Type) -> NetlinkAttributes {
        let offset = (MemoryLayout<Fixed>.size + 3) & ~3
        guard payloadLength > offset, let payload = mnl_nlmsg_get_payload(header) else { return NetlinkAttributes() }
        return NetlinkAttributes(UnsafeRawBufferPointer(start: payload + offset, count: payloadLength - offset))
    }
}

/// The attributes of a message or of a nest.
struct NetlinkAttributes: Sequence {
    private var rest: UnsafeRawBufferPointer

    init(_ bytes: UnsafeRawBufferPointer = .init(start: nil, count: 0)) { rest = bytes }

    struct Element {
        /// Without the flag bits.
        let type: Int
        let bytes: UnsafeRawBufferPointer

        func integer<Value: FixedWidthInteger & BitwiseCopyable>(_: Value.Type = Value.self) -> Value? {
            bytes.count >= MemoryLayout<Value>.size ? bytes.loadUnaligned(as: Value.self) : nil
        }

        /// Up to the first zero.
        var text: String { String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }
        var address: IPAddress? { IPAddress(bytes: bytes) }
        var mac: MACAddress? { MACAddress(bytes: bytes) }
        var nested: NetlinkAttributes { NetlinkAttributes(bytes) }
    }

    func makeIterator() -> AnyIterator<Element> {
        var rest = rest
        return AnyIterator {
            guard let start = rest.baseAddress else { return nil }
            let attribute = start.assumingMemoryBound(to: nlattr.self)
            guard mnl_attr_ok(attribute, Int32(rest.count)) else { return nil }
            let advance = Swift.min((Int(attribute.pointee.nla_len) + 3) & ~3, rest.count)
            rest = UnsafeRawBufferPointer(rebasing: rest[advance...])
            return Element(
                type: Int(mnl_attr_get_type(attribute)),
                bytes: UnsafeRawBufferPointer(
                    start: mnl_attr_get_payload(attribute), count: Int(mnl_attr_get_payload_len(attribute))))
        }
    }

    /// The first attribute of the type.
    subscript(type: some BinaryInteger) -> Element? { first { $0.type == Int(type) } }
}
