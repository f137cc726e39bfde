import KnetCore

/// Reads the path attributes of one UPDATE message.
struct AttributeReader {
    let context: UpdateContext
    /// Whether the message has routes of IPv4 behind its attributes.
    let hasRoutes: Bool

    var attributes = PathAttributes()
    /// Of the routes behind the attributes.
    var nextHop: NextHop?
    var reach: Announcement?
    var unreach: (family: IPFamily, prefixes: [CIDR])?
    var as4Path: ASPath?
    var as4Aggregator: Aggregator?
    /// Types of the attributes that were there, malformed ones too.
    private(set) var seen: Set<UInt8> = []
    private(set) var malformations: [Malformation] = []

    init(_ context: UpdateContext, hasRoutes: Bool) {
        self.context = context
        self.hasRoutes = hasRoutes
    }

    /// One attribute as it stands in the message.
    struct Attribute {
        let flags: AttributeFlags
        let type: UInt8
        let value: ByteReader
        let whole: ByteReader

        /// Reads the next one; `nil` where it is cut off.
        init?(_ reader: inout ByteReader) {
            var rest = reader
            guard let flags = rest.byte(), let type = rest.byte() else { return nil }
            self.flags = AttributeFlags(rawValue: flags)
            self.type = type
            let length =
                self.flags.contains(.extendedLength) ? rest.short().map(Int.init) : rest.byte().map(Int.init)
            guard let length, let value = rest.part(length),
                let whole = reader.part(rest.position - reader.position)
            else { return nil }
            self.value = value
            self.whole = whole
        }
    }

    /// Ends early where the session has to be reset.
    mutating func read(_ list: ByteReader) {
        var list = list
        while !list.isEmpty, malformations.last?.reaction != .sessionReset {
            guard let attribute = Attribute(&list) else {
                // The list's length still says where the routes begin (RFC 7606 §4).
                note(.treatAsWithdraw, nil, "attributes that end in the middle of one", .malformedAttributeList)
                return
            }
            guard seen.insert(attribute.type).inserted else {
                let isRouteList = [AttributeType.reach.rawValue, AttributeType.unreach.rawValue].contains(
                    attribute.type)
                note(
                    isRouteList ? .sessionReset : .attributeDiscard, attribute.type, "present more than once",
                    .malformedAttributeList)
                continue
            }
            read(attribute)
        }
    }

    private mutating func read(_ attribute: Attribute) {
        guard let type = AttributeType(rawValue: attribute.type) else { return readUnknown(attribute) }
        if type.isInternal, context.isExternal {
            return note(.attributeDiscard, attribute.type, "from an external peer", .malformedAttributeList)
        }
        // Without routes behind the attributes it is of no meaning (RFC 4760 §3).
        if type == .nextHop, !hasRoutes { return }
        // Only speakers of 2-octet numbers have them (RFC 6793 §4.1).
        if context.hasFourOctetAS, type == .as4Path || type == .as4Aggregator { return }
        guard attribute.flags.intersection([.optional, .transitive]) == type.flags else {
            return note(type.reaction, attribute, "flags of another kind of attribute", .attributeFlags)
        }
        if let (fault, error) = readValue(attribute.value, type) {
            note(type.reaction, attribute, fault, error)
        }
    }

    private mutating func readUnknown(_ attribute: Attribute) {
        guard attribute.flags.contains(.optional) else {
            return note(.sessionReset, attribute, "well-known, but not known", .unrecognizedWellKnown)
        }
        guard attribute.flags.contains(.transitive) else { return }
        attributes.others.append(OtherAttribute(type: attribute.type, value: attribute.value.rest))
    }

    /// What can be said only when all attributes were read.
    mutating func check() {
        mergeWideNumbers()
        let hasReach = seen.contains(AttributeType.reach.rawValue)
        if hasRoutes || hasReach { checkMandatory() }
        if let reach, !reach.nextHop.isHost {
            note(.treatAsWithdraw, AttributeType.reach.rawValue, "next hop is not a host's address", .optionalAttribute)
        }
        guard !hasRoutes, !hasReach, let first = malformations.first(where: { $0.reaction >= .treatAsWithdraw }),
            !malformations.contains(where: { $0.reaction == .sessionReset })
        else { return }
        // Routes may have been lost with the malformed part (RFC 7606 §5.2).
        malformations.append(
            Malformation(
                attribute: first.attribute, fault: "\(first.fault), and no routes", reaction: .sessionReset,
                notification: first.notification))
    }

    private mutating func checkMandatory() {
        var mandatory: [AttributeType] = [.origin, .asPath]
        if hasRoutes { mandatory.append(.nextHop) }
        if !context.isExternal { mandatory.append(.localPreference) }
        for type in mandatory where !seen.contains(type.rawValue) {
            note(.treatAsWithdraw, type.rawValue, "missing", .missingWellKnown, data: [type.rawValue])
        }
        if let firstAS = context.firstAS, context.isExternal, seen.contains(AttributeType.asPath.rawValue),
            attributes.asPath.first != firstAS
        {
            note(.treatAsWithdraw, AttributeType.asPath.rawValue, "does not begin with AS \(firstAS)", .malformedASPath)
        }
    }

    /// RFC 6793 §4.2.3.
    private mutating func mergeWideNumbers() {
        if let as4Aggregator, let aggregator = attributes.aggregator {
            guard aggregator.autonomousSystem == UInt32(Open.asTrans) else { return }
            attributes.aggregator = as4Aggregator
        }
        if let as4Path { attributes.asPath = attributes.asPath.merged(withAS4Path: as4Path) }
    }

    private mutating func note(_ reaction: Reaction, _ attribute: Attribute, _ fault: String, _ error: UpdateError) {
        note(reaction, attribute.type, fault, error, data: attribute.whole.rest)
    }

    private mutating func note(
        _ reaction: Reaction, _ type: UInt8?, _ fault: String, _ error: UpdateError, data: [UInt8] = []
    ) {
        malformations.append(
            Malformation(
                attribute: type, fault: fault, reaction: reaction,
                notification: Notification(.updateMessage, error.rawValue, data: data)))
    }
}
