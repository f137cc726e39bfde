import CMnl
import Glibc
public import KnetCore

/// A token bucket on what leaves by a link (tc-tbf).
struct TokenBucket: Hashable, Sendable {
    let index: Int32
    let limit: Bandwidth.Limit

    /// What waits longer than this is dropped; the reference plugin has the same.
    static let latency = 0.025
}

extension NetlinkSocket {
    /// Shapes a pod's traffic: what it receives where it leaves the host's end of its veth, what it sends on an ifb device
    /// to which all that enters the host's end is redirected.
    /// - Parameters:
    ///   - link: the host's end.
    ///   - shaper: name of the ifb device.
    public func shape(link: Int32, shaper: String, alias: String, _ bandwidth: Bandwidth) throws {
        var batch = NetlinkBatch()
        if let limit = bandwidth.ingress { batch.append(.addTokenBucket(TokenBucket(index: link, limit: limit))) }
        if let limit = bandwidth.egress {
            try createIFB(name: shaper, alias: alias)
            let device = try Self.index(of: shaper)
            batch.append(.addTokenBucket(TokenBucket(index: device, limit: limit)))
            batch.append(.addClassifier(index: link))
            batch.append(.redirectIngress(of: link, to: device))
        }
        for case let error? in try send(batch) { throw error }
    }

    /// Links that have a token bucket.
    public func shapedLinks() throws -> Set<Int32> {
        var indices: Set<Int32> = []
        try dump {
            var message = NetlinkMessage("list queueing disciplines", type: RTM_GETQDISC)
            message.put(tcmsg())
            return message
        } restart: {
            indices = []
        } visit: { reply in
            guard let fixed = reply.fixed(tcmsg.self), reply.attributes(after: tcmsg.self)[TCA_KIND]?.text == "tbf"
            else { return }
            indices.insert(fixed.tcm_ifindex)
        }
        return indices
    }
}

extension NetlinkMessage {
    private static let createFlags = NLM_F_CREATE | NLM_F_REPLACE
    /// TC_H_ROOT and TC_H_CLSACT with TC_H_MIN_INGRESS of <linux/pkt_sched.h>.
    private static let root: UInt32 = 0xFFFF_FFFF
    private static let classifier: UInt32 = 0xFFFF_FFF1
    private static let classifierIngress: UInt32 = 0xFFFF_FFF2
    private static let classifierHandle: UInt32 = 0xFFFF_0000

    fileprivate static func addTokenBucket(_ bucket: TokenBucket) -> NetlinkMessage {
        var message = NetlinkMessage("shape link \(bucket.index)", type: RTM_NEWQDISC, flags: createFlags)
        message.put(tcmsg(bucket.index, handle: 0x10000, parent: root))
        message.put(TCA_KIND, text: "tbf")
        let (rate, burst) = (bucket.limit.rate, bucket.limit.burst)
        let queue = Double(rate) * TokenBucket.latency + Double(burst)
        message.nest(TCA_OPTIONS) {
            var parameters = tc_tbf_qopt()
            parameters.rate.rate = UInt32(clamping: rate)
            // An Ethernet device needs no table of the times that packets take.
            parameters.rate.linklayer = UInt8(TC_LINKLAYER_ETHERNET.rawValue)
            parameters.limit = UInt32(min(queue, Double(UInt32.max)))
            $0.put(TCA_TBF_PARMS, parameters)
            $0.put(TCA_TBF_BURST, burst)
            if rate > UInt64(UInt32.max) { $0.put(TCA_TBF_RATE64, rate) }
        }
        return message
    }

    /// The place for programs and filters on what enters and leaves a link.
    fileprivate static func addClassifier(index: Int32) -> NetlinkMessage {
        var message = NetlinkMessage("classifier of link \(index)", type: RTM_NEWQDISC, flags: createFlags)
        message.put(tcmsg(index, handle: classifierHandle, parent: classifier))
        message.put(TCA_KIND, text: "clsact")
        return message
    }

    fileprivate static func redirectIngress(of index: Int32, to target: Int32) -> NetlinkMessage {
        var message = NetlinkMessage("redirect link \(index) to \(target)", type: RTM_NEWTFILTER, flags: createFlags)
        // Priority above, protocol below: all protocols, ETH_P_ALL in network order.
        let information = UInt32(1) << 16 | UInt32(UInt16(3).bigEndian)
        message.put(tcmsg(index, handle: 0, parent: classifierIngress, information: information))
        // Every kernel has u32, not every one matchall.
        message.put(TCA_KIND, text: "u32")
        message.nest(TCA_OPTIONS) { options in
            options.put(TCA_U32_SEL, bytes: everyPacket)
            options.nest(TCA_U32_ACT) { actions in
                actions.nest(1) { action in
                    action.put(TCA_ACT_KIND, text: "mirred")
                    action.nest(TCA_ACT_OPTIONS) {
                        var mirred = tc_mirred()
                        mirred.action = TC_ACT_STOLEN
                        mirred.eaction = TCA_EGRESS_REDIR
                        mirred.ifindex = UInt32(target)
                        $0.put(TCA_MIRRED_PARMS, mirred)
                    }
                }
            }
        }
        return message
    }

    /// A selector of one key that compares no bit.
    private static var everyPacket: [UInt8] {
        var selector = tc_u32_sel()
        selector.flags = UInt8(TC_U32_TERMINAL)
        selector.nkeys = 1
        return withUnsafeBytes(of: selector) { Array($0) } + [UInt8](repeating: 0, count: MemoryLayout<tc_u32_key>.size)
    }

    /// An attribute that is a structure of the kernel's.
    private mutating func put<Structure: BitwiseCopyable>(_ type: some BinaryInteger, _ structure: Structure) {
        withUnsafeBytes(of: structure) { put(type, bytes: Array($0)) }
    }
}

extension tcmsg {
    fileprivate init(_ index: Int32, handle: UInt32, parent: UInt32, information: UInt32 = 0) {
        self.init()
        tcm_ifindex = index
        tcm_handle = handle
        tcm_parent = parent
        tcm_info = information
    }
}
