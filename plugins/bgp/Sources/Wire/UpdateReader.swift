import KnetCore

extension Update {
    /// Reads an UPDATE message with the error handling of RFC 7606.
    /// - Parameter frame: of the type update.
    static func read(_ frame: Frame, _ context: UpdateContext) -> UpdateReading {
        var body = frame.body
        guard let withdrawnLength = body.short(), var withdrawnRoutes = body.part(Int(withdrawnLength)),
            let attributesLength = body.short(), let attributes = body.part(Int(attributesLength))
        else {
            return .reset("lengths that do not fit the message", .malformedAttributeList)
        }
        var (withdrawn, announced): ([CIDR], [CIDR]) = ([], [])
        guard withdrawnRoutes.prefixes(.v4, into: &withdrawn) else {
            return .reset("withdrawn routes that are not prefixes", .invalidNetworkField)
        }
        guard body.prefixes(.v4, into: &announced) else {
            return .reset("routes that are not prefixes", .invalidNetworkField)
        }
        if attributes.isEmpty, withdrawn.isEmpty, announced.isEmpty {
            let family = context.families.contains(.v4) ? IPFamily.v4 : nil
            return UpdateReading(update: Update(endOfRIB: family), malformations: [])
        }
        var reader = AttributeReader(context, hasRoutes: !announced.isEmpty)
        reader.read(attributes)
        reader.check()
        return reader.reading(withdrawn: withdrawn, announced: announced)
    }
}

extension UpdateReading {
    fileprivate static func reset(_ fault: String, _ error: UpdateError) -> UpdateReading {
        let notification = Notification(.updateMessage, error.rawValue)
        let malformation = Malformation(
            attribute: nil, fault: fault, reaction: .sessionReset, notification: notification)
        return UpdateReading(update: Update(), malformations: [malformation])
    }
}

extension AttributeReader {
    /// The message's meaning once its attributes are read.
    fileprivate func reading(withdrawn: [CIDR], announced: [CIDR]) -> UpdateReading {
        let reaction = malformations.lazy.map(\.reaction).max()
        guard reaction != .sessionReset else { return UpdateReading(update: Update(), malformations: malformations) }
        var update = Update()
        if context.families.contains(.v4) {
            update.withdrawn = withdrawn
            if let nextHop, !announced.isEmpty {
                update.announced.append(Announcement(nextHop: nextHop, prefixes: announced))
            } else {
                update.withdrawn += announced
            }
        }
        if let unreach { update.withdrawn += unreach.prefixes }
        if let reach, !reach.prefixes.isEmpty { update.announced.append(reach) }
        if reaction == .treatAsWithdraw {
            update.withdrawn += update.announced.flatMap(\.prefixes)
            update.announced = []
        }
        if !update.announced.isEmpty { update.attributes = attributes }
        if seen == [AttributeType.unreach.rawValue], withdrawn.isEmpty, announced.isEmpty, malformations.isEmpty,
            let unreach, unreach.prefixes.isEmpty
        {
            update.endOfRIB = unreach.family
        }
        return UpdateReading(update: update, malformations: malformations)
    }
}
