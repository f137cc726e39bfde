import KnetCore
import Testing

@testable import LoadBalancerPlugin

/// Questions on a link and answers to them, byte for byte.
@Suite struct FramesTests {
    private let own = MACAddress(number: 0x0242_0000_0001)
    private let other = MACAddress(number: 0x0242_0000_0002)

    private func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

    @Test func anARPRequestIsAnswered() throws {
        let (target, asker) = try (address("192.0.2.1"), address("192.0.2.9"))
        let request = LinkFrames.arp(
            1, asker, other, to: target, MACAddress(number: 0), frameTo: LinkFrames.broadcast)
        #expect(request.count == 42)
        let question = try #require(LinkQuestion(request))
        #expect(question.target == target && question.asker == asker && question.askerMAC == other)
        let answer = question.answer(from: own)
        #expect(Array(answer[0..<14]) == other.bytes + own.bytes + [8, 6])
        #expect(Array(answer[14..<22]) == [0, 1, 8, 0, 6, 4, 0, 2])
        #expect(Array(answer[22...]) == own.bytes + target.bytes + other.bytes + asker.bytes)
        // An answer is no question.
        #expect(LinkQuestion(answer) == nil)
    }

    private func solicitation(_ asker: IPAddress, _ target: IPAddress) -> [UInt8] {
        // An advertisement with its type and checksum put right.
        var frame = LinkFrames.advertisement(target, other, to: LinkFrames.solicitedNode(target), own, isAnswer: false)
        frame[54] = 135
        frame.replaceSubrange(22..<38, with: asker.bytes)
        frame[56] = 0
        frame[57] = 0
        var sum = UInt32(frame.count - 54) + 58
        for (offset, byte) in frame[22...].enumerated() { sum += offset % 2 == 0 ? UInt32(byte) << 8 : UInt32(byte) }
        while sum >> 16 != 0 { sum = sum & 0xFFFF + sum >> 16 }
        frame[56] = UInt8(~sum >> 8 & 0xFF)
        frame[57] = UInt8(~sum & 0xFF)
        return frame
    }

    @Test func aSolicitationIsAnswered() throws {
        let (target, asker) = try (address("2001:db8::15:1234"), address("2001:db8::9"))
        let frame = solicitation(asker, target)
        let question = try #require(LinkQuestion(frame))
        #expect(question.target == target && question.asker == asker)
        let answer = question.answer(from: own)
        #expect(Array(answer[22..<38]) == target.bytes && Array(answer[38..<54]) == asker.bytes)
        #expect(answer[54] == 136 && answer[58] == 0x60 && answer[21] == 255)
        #expect(Array(answer[62..<78]) == target.bytes && Array(answer[78...]) == [2, 1] + own.bytes)
        // Who has no address yet is answered to all.
        let nobody = try #require(LinkQuestion(solicitation(IPAddress.v6(0), target))).answer(from: own)
        #expect(Array(nobody[0..<6]) == [0x33, 0x33, 0, 0, 0, 1] && nobody[58] == 0x20)
        #expect(LinkFrames.solicitedNode(target) == (try address("ff02::1:ff15:1234")))
    }

    @Test func whatComesFromAfarOrIsBrokenIsNoQuestion() throws {
        let frame = solicitation(try address("2001:db8::9"), try address("2001:db8::1"))
        for (index, value) in [(21, 254), (55, 1), (20, 17), (57, Int(frame[57] ^ 1)), (14, 0x40)] {
            var broken = frame
            broken[index] = UInt8(value)
            #expect(LinkQuestion(broken) == nil, "byte \(index)")
        }
        for length in 0..<frame.count { #expect(LinkQuestion(Array(frame[..<length])) == nil) }
        let request = LinkFrames.arp(
            1, try address("192.0.2.9"), other, to: try address("192.0.2.1"), own, frameTo: own)
        for length in 0..<request.count { #expect(LinkQuestion(Array(request[..<length])) == nil) }
        for index in 14..<22 {
            var broken = request
            broken[index] ^= 1
            #expect(LinkQuestion(broken) == nil, "byte \(index)")
        }
    }

    @Test func randomFramesDoNotCrash() {
        for _ in 0..<100_000 {
            var frame = (0..<Int.random(in: 0...120)).map { _ in UInt8.random(in: 0...255) }
            if frame.count > 60, Bool.random() { frame.replaceSubrange(12..<14, with: [0x86, 0xDD]) }
            if frame.count > 60, Bool.random() { frame.replaceSubrange(12..<22, with: [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]) }
            _ = LinkQuestion(frame)?.answer(from: own)
        }
    }
}
