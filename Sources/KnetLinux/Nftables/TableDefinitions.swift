import CMnl
import Glibc
public import KnetCore

/// A set or verdict map of an `inet` table.
public struct SetDefinition: Hashable, Sendable {
    /// A part of its keys. Each takes a multiple of four bytes.
    public enum Part: Hashable, Sendable {
        case address(IPFamily)
        case transport
        case port
        case interface
    }

    public let name: String
    public let key: [Part]
    public var hasIntervals = false
    public var hasTimeouts = false
    /// Whether its elements say what becomes of a packet.
    public var isVerdictMap = false
    /// For people; it does not make a set another one.
    public var comment = ""

    public init(_ name: String, _ key: [Part]) {
        self.name = name
        self.key = key
    }

    public static func == (a: SetDefinition, b: SetDefinition) -> Bool {
        a.name == b.name && a.key == b.key && a.hasIntervals == b.hasIntervals && a.hasTimeouts == b.hasTimeouts
            && a.isVerdictMap == b.isVerdictMap
    }
    public func hash(into hasher: inout Hasher) { hasher.combine(name) }

    /// Bytes of a key.
    public var keyBytes: Int { Int(key.count > 1 ? key.reduce(0) { $0 + $1.padded } : key.first?.length ?? 0) }
}

extension SetDefinition.Part {
    /// libnftables' number of the type (`enum datatypes` of its datatype.h), so that nft can print elements.
    var type: UInt32 {
        switch self {
        case .address(.v4): 7
        case .address(.v6): 8
        case .transport: 12
        case .port: 13
        case .interface: 41
        }
    }

    var length: UInt32 {
        switch self {
        case .address(let family): UInt32(family.bits / 8)
        case .transport: 1
        case .port: 2
        case .interface: 16
        }
    }

    /// In a concatenation.
    var padded: UInt32 { (length + 3) & ~3 }

    fileprivate static func part(ofType type: UInt32) -> SetDefinition.Part? {
        let all: [SetDefinition.Part] = [.address(.v4), .address(.v6), .transport, .port, .interface]
        return all.first { $0.type == type }
    }
}

/// Where packets meet a chain.
public struct ChainHook: Hashable, Sendable {
    /// `NF_INET_*` of <linux/netfilter.h>.
    public enum Hook: UInt32, Sendable { case input = 1, forward = 2, output = 3 }

    public let hook: Hook
    /// Lesser ones come first.
    public let priority: Int32

    public init(_ hook: Hook, priority: Int32) {
        self.hook = hook
        self.priority = priority
    }
}

/// A rule, which the kernel keeps together with what tells it from others.
public struct RuleDefinition: Hashable, Sendable {
    public let expressions: [RuleExpression]
    /// A digest of the expressions as they are sent, and words for people. Rules are the same where this is.
    public let comment: String

    public init(_ expressions: [RuleExpression], for purpose: String = "") {
        self.expressions = expressions
        let digest = String(StableHash.of(NftablesBatch.bytes(of: expressions)), radix: 36)
        comment = String((purpose.isEmpty ? digest : "\(digest) \(purpose.commentable)").prefix(Self.longestComment))
    }

    /// One that was read.
    init(comment: String) {
        expressions = []
        self.comment = comment
    }

    /// nft refuses to print longer ones.
    static let longestComment = 120

    public static func == (a: RuleDefinition, b: RuleDefinition) -> Bool { a.comment == b.comment }
    public func hash(into hasher: inout Hasher) { hasher.combine(comment) }
}

extension String {
    /// Without letters that would not come back as they were in nft's syntax.
    var commentable: String {
        String(unicodeScalars.map { $0.isASCII && $0.value >= 32 && $0 != "\"" && $0 != "\\" ? Character($0) : "?" })
    }
}

public struct ChainDefinition: Hashable, Sendable {
    public let name: String
    /// Of a chain of type filter that accepts what no rule decides; `nil` for one that others jump to.
    public let hook: ChainHook?
    public let rules: [RuleDefinition]

    public init(_ name: String, hook: ChainHook? = nil, _ rules: [RuleDefinition]) {
        self.name = name
        self.hook = hook
        self.rules = rules
    }
}

extension ChainHook {
    init?(_ attributes: NetlinkAttributes) {
        guard let nest = attributes[NFTA_CHAIN_HOOK.rawValue]?.nested,
            let number = nest[NFTA_HOOK_HOOKNUM.rawValue]?.integer(UInt32.self).map(UInt32.init(bigEndian:)),
            let hook = Hook(rawValue: number),
            let priority = nest[NFTA_HOOK_PRIORITY.rawValue]?.integer(Int32.self).map(Int32.init(bigEndian:))
        else { return nil }
        self.init(hook, priority: priority)
    }
}

extension SetDefinition {
    init?(_ attributes: NetlinkAttributes) {
        func number(_ type: UInt32) -> UInt32? {
            attributes[type]?.integer(UInt32.self).map(UInt32.init(bigEndian:))
        }
        guard let name = attributes[NFTA_SET_NAME.rawValue]?.text, var type = number(NFTA_SET_KEY_TYPE.rawValue) else {
            return nil
        }
        var key: [Part] = []
        while type > 0 {
            guard let part = Part.part(ofType: type & 63) else { return nil }
            key.insert(part, at: 0)
            type >>= 6
        }
        self.init(name, key)
        let flags = number(NFTA_SET_FLAGS.rawValue) ?? 0
        hasIntervals = flags & NFT_SET_INTERVAL.rawValue != 0
        hasTimeouts = flags & NFT_SET_TIMEOUT.rawValue != 0
        isVerdictMap = flags & NFT_SET_MAP.rawValue != 0
    }
}

/// What nft keeps with objects: type, length and value, a byte for each of the first two (libnftnl's udata.h).
enum UserData {
    static let ruleComment: UInt8 = 0
    static let setKeyByteOrder: UInt8 = 0
    static let setComment: UInt8 = 7

    static func comment(_ bytes: UnsafeRawBufferPointer) -> String? {
        guard bytes.count > 2, bytes[0] == ruleComment, bytes.count >= 2 + Int(bytes[1]) else { return nil }
        return String(decoding: bytes[2..<2 + Int(bytes[1])].prefix { $0 != 0 }, as: UTF8.self)
    }

    static func item(_ type: UInt8, _ value: [UInt8]) -> [UInt8] { [type, UInt8(value.count)] + value }

    static func item(_ type: UInt8, text: String) -> [UInt8] {
        item(type, Array(text.utf8.prefix(RuleDefinition.longestComment)) + [0])
    }
}
