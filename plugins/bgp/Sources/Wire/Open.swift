import KnetCore

/// The first message of both speakers (RFC 4271 §4.2).
struct Open: Hashable, Sendable {
    static let version: UInt8 = 4
    /// What stands for a number of more than 16 bits (RFC 6793 §9).
    static let asTrans: UInt16 = 23_456

    /// The field of 16 bits; see `autonomousSystem`.
    var shortAS: UInt16
    /// Seconds; 0 for none.
    var holdTime: UInt16
    var identifier: UInt32
    var capabilities: [Capability]

    /// The sender's AS in the capability where it is said there, else in the field.
    var autonomousSystem: UInt32 { fourOctetAS ?? UInt32(shortAS) }

    var fourOctetAS: UInt32? {
        for case .fourOctetAS(let number) in capabilities { return number }
        return nil
    }

    var gracefulRestart: GracefulRestart? {
        // The last one counts (RFC 4724 §3).
        for case .gracefulRestart(let restart) in capabilities.reversed() { return restart }
        return nil
    }

    /// Families of routes; IPv4 unicast where none is said (RFC 4760 §8).
    var families: [AddressFamily] {
        let families = capabilities.compactMap { capability -> AddressFamily? in
            guard case .multiprotocol(let family) = capability else { return nil }
            return family
        }
        return families.isEmpty ? [AddressFamily(.v4)] : families
    }
}

extension Open {
    private static let capabilityParameter: UInt8 = 2
    /// In the place of the first parameter's type: lengths have two bytes (RFC 9072 §2).
    private static let extendedLengths: UInt8 = 255

    /// - Parameter frame: of the type open.
    /// - Throws: what is to be sent to the peer. Whether the values are acceptable is not asked here.
    static func read(_ frame: Frame) throws(Notification) -> Open {
        var body = frame.body
        guard let version = body.byte() else { throw .malformedOpen }
        guard version == Self.version else { throw .unsupportedVersion }
        guard let shortAS = body.short(), let holdTime = body.short(), let identifier = body.long(),
            let length = body.byte()
        else { throw .malformedOpen }
        var open = Open(shortAS: shortAS, holdTime: holdTime, identifier: identifier, capabilities: [])
        var rest = body
        let isExtended = length > 0 && rest.byte() == extendedLengths
        if isExtended {
            body = rest
            guard let length = body.short(), Int(length) == body.count else { throw .malformedOpen }
        } else if Int(length) != body.count {
            throw .malformedOpen
        }
        while let type = body.byte() {
            let length = isExtended ? body.short().map(Int.init) : body.byte().map(Int.init)
            guard let length, let parameter = body.part(length) else { throw .malformedOpen }
            guard type == capabilityParameter else { throw .unsupportedOptionalParameter }
            try open.readCapabilities(parameter)
        }
        return open
    }

    private mutating func readCapabilities(_ parameter: ByteReader) throws(Notification) {
        var parameter = parameter
        while let code = parameter.byte() {
            guard let length = parameter.byte(), let value = parameter.part(Int(length)) else { throw .malformedOpen }
            capabilities.append(Capability(code: code, value: value.rest))
        }
    }

    var bytes: [UInt8] {
        var body = [Self.version]
        body.append(number: shortAS)
        body.append(number: holdTime)
        body.append(number: identifier)
        let value = capabilities.flatMap(\.bytes)
        switch value.count {
        case 0: body.append(0)
        case 1...253: body += [UInt8(value.count + 2), Self.capabilityParameter, UInt8(value.count)]
        default:
            body += [255, Self.extendedLengths]
            body.append(number: UInt16(value.count + 3))
            body.append(Self.capabilityParameter)
            body.append(number: UInt16(value.count))
        }
        return Frame.message(.open, body + value)
    }
}
