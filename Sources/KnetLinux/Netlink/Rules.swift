import CMnl
import Glibc
public import KnetCore

/// A policy routing rule: packets with a mark look into a table of their own.
public struct Rule: Hashable, Sendable {
    public let family: IPFamily
    /// Lower ones are asked first.
    public let priority: UInt32
    public let table: UInt32
    public let mark: UInt32
    /// The bits of the mark that count.
    public let mask: UInt32

    public init(family: IPFamily, priority: UInt32, table: UInt32, mark: UInt32, mask: UInt32) {
        self.family = family
        self.priority = priority
        self.table = table
        self.mark = mark
        self.mask = mask
    }
}

extension NetlinkSocket {
    /// The rules of a family.
    /// - Parameter origin: only those of this protocol number (`FRA_PROTOCOL`).
    public func rules(_ family: IPFamily, origin: UInt8? = nil) throws -> [Rule] {
        var rules: [Rule] = []
        try dump {
            var message = NetlinkMessage("list \(family) rules", type: RTM_GETRULE)
            var fixed = fib_rule_hdr()
            fixed.family = family.socketFamily
            message.put(fixed)
            return message
        } restart: {
            rules = []
        } visit: { reply in
            guard let fixed = reply.fixed(fib_rule_hdr.self) else { return }
            let attributes = reply.attributes(after: fib_rule_hdr.self)
            guard origin == nil || attributes[FRA_PROTOCOL]?.integer(UInt8.self) == origin else { return }
            rules.append(
                Rule(
                    family: family, priority: attributes[FRA_PRIORITY]?.integer() ?? 0,
                    table: attributes[FRA_TABLE]?.integer() ?? UInt32(fixed.table),
                    mark: attributes[FRA_FWMARK]?.integer() ?? 0, mask: attributes[FRA_FWMASK]?.integer() ?? 0))
        }
        return rules
    }
}

extension NetlinkMessage {
    public static func addRule(_ rule: Rule) -> NetlinkMessage {
        ruleMessage("rule \(rule.priority)", RTM_NEWRULE, rule, NLM_F_CREATE | NLM_F_EXCL)
    }

    public static func deleteRule(_ rule: Rule) -> NetlinkMessage {
        ruleMessage("delete rule \(rule.priority)", RTM_DELRULE, rule, 0)
    }

    private static func ruleMessage(_ purpose: String, _ type: Int, _ rule: Rule, _ flags: Int32) -> NetlinkMessage {
        var message = NetlinkMessage(purpose, type: type, flags: flags)
        var fixed = fib_rule_hdr()
        fixed.family = rule.family.socketFamily
        fixed.action = UInt8(FR_ACT_TO_TBL)
        fixed.table = UInt8(rule.table < 256 ? rule.table : 0)
        message.put(fixed)
        message.put(FRA_PRIORITY, rule.priority)
        message.put(FRA_TABLE, rule.table)
        message.put(FRA_FWMARK, rule.mark)
        message.put(FRA_FWMASK, rule.mask)
        message.put(FRA_PROTOCOL, Route.knetdOrigin)
        return message
    }
}
