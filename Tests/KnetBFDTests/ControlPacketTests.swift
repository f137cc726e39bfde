import KnetBFD
import TestSupport
import Testing

@Suite struct ControlPacketTests {
    /// Version 1, diagnostic 3, Up with P, C and D, multiplier 5.
    private static let sample: [UInt8] = [
        0x23, 0xEA, 5, 24, 0, 0, 0, 7, 1, 2, 3, 4, 0, 4, 0x93, 0xE0, 0, 1, 0x86, 0xA0, 0, 0, 0, 9,
    ]

    private static func sample(_ index: Int, _ value: UInt8) -> [UInt8] {
        var bytes = sample
        bytes[index] = value
        return bytes
    }

    private static func withZeros(_ range: Range<Int>, flags: UInt8) -> [UInt8] {
        var bytes = sample(1, flags)
        for index in range { bytes[index] = 0 }
        return bytes
    }

    @Test func everyFieldIsRead() throws {
        let packet = try ControlPacket(Self.sample)
        #expect(packet.diagnostic == .neighborSignaledDown && packet.state == .up && packet.detectMultiplier == 5)
        #expect(packet.isPoll && !packet.isFinal && packet.isControlPlaneIndependent && packet.isDemand)
        #expect(packet.myDiscriminator == 7 && packet.yourDiscriminator == 0x0102_0304)
        #expect(packet.desiredMinTxInterval == 300_000 && packet.requiredMinRxInterval == 100_000)
        #expect(packet.requiredMinEchoRxInterval == 9)
        #expect(packet.bytes == Self.sample)
    }

    static let malformed: [(what: String, bytes: [UInt8], fault: ControlPacket.Fault)] = [
        ("nothing", [], .tooShort(bytes: 0)),
        ("a byte too few", Array(sample.dropLast()), .tooShort(bytes: 23)),
        ("version 0", sample(0, 0x03), .version(0)),
        ("version 2", sample(0, 0x43), .version(2)),
        ("a length below 24", sample(3, 23), .length(23, payload: 24)),
        ("a length past the payload", sample(3, 25), .length(25, payload: 24)),
        ("authentication without room for it", sample(1, 0xC4), .length(24, payload: 24)),
        ("a multiplier of 0", sample(2, 0), .multiplierZero),
        ("multipoint", sample(1, 0xC1), .multipoint),
        ("no discriminator", withZeros(4..<8, flags: 0xC0), .noDiscriminator),
        ("Up towards nobody", withZeros(8..<12, flags: 0xC0), .noPartner(.up)),
        ("Init towards nobody", withZeros(8..<12, flags: 0x80), .noPartner(.initializing)),
        ("authentication", sample(1, 0xC4).enumerated().map { $0 == 3 ? 26 : $1 } + [1, 2], .authenticated),
    ]

    @Test(arguments: malformed)
    func aMalformedPacketIsDiscarded(_ what: String, _ bytes: [UInt8], _ fault: ControlPacket.Fault) {
        #expect(throws: fault) { try ControlPacket(bytes) }
    }

    @Test(arguments: [UInt8(0x00), 0x40]) func downAndAdminDownMayNameNobody(flags: UInt8) throws {
        let packet = try ControlPacket(Self.withZeros(8..<12, flags: flags))
        #expect(packet.yourDiscriminator == 0)
    }

    @Test func bytesAfterThePacketAreIgnored() throws {
        #expect(try ControlPacket(Self.sample + [1, 2, 3]).bytes == Self.sample)
    }

    @Test func reservedDiagnosticsSurvive() throws {
        let packet = try ControlPacket(Self.sample(0, 0x3F))
        #expect(packet.diagnostic.description == "diagnostic 31" && packet.bytes[0] == 0x3F)
    }

    @Test func whatIsReadIsWrittenAgain() throws {
        var random = SeededGenerator(seed: 5)
        var read = 0
        for _ in 0..<200_000 {
            let bytes = fuzzed(&random)
            guard let packet = try? ControlPacket(bytes) else { continue }
            read += 1
            let written = packet.bytes
            guard written == Array(bytes.prefix(3)) + [24] + bytes[4..<24] else {
                Issue.record("\(bytes) became \(written)")
                return
            }
        }
        #expect(read > 20_000)
    }
}

/// Bytes of a packet of which few, many or all are random.
func fuzzed(_ random: inout SeededGenerator) -> [UInt8] {
    let length = Bool.random(using: &random) ? 24 : Int.random(in: 0...40, using: &random)
    var bytes = (0..<length).map { _ in UInt8.random(in: 0 ... .max, using: &random) }
    guard length >= 24, Int.random(in: 0..<8, using: &random) > 0 else { return bytes }
    bytes[0] = 1 << 5 | bytes[0] & 0x1F
    bytes[1] &= 0xFA
    bytes[3] = 24
    if Bool.random(using: &random) { bytes.replaceSubrange(8..<12, with: [0, 0, 0, 11]) }
    // Times of a human size, or none.
    if Bool.random(using: &random) { bytes[12] = 0; bytes[16] = 0 }
    if Int.random(in: 0..<8, using: &random) == 0 { bytes.replaceSubrange(16..<20, with: [0, 0, 0, 0]) }
    return bytes
}
