import FoundationEssentials
import KnetCore
import Testing

@testable import EBPFPlugin

@Suite struct SettingsTests {
    private static func json(_ settings: EBPF.Settings, _ more: [String: JSONValue] = [:]) throws -> JSONValue {
        let object = try JSONValue(parsing: JSONEncoder().encode(settings)).object ?? [:]
        return .object(object.merging(more) { $1 })
    }

    /// What another node sends on would be taken for what a client sends, and sent on again.
    @Test func directReturnIsRefusedWhereNodesReachEachOtherByUplinks() throws {
        for settings in try [
            Self.json(.init(transport: .direct, directReturn: true)),
            Self.json(.init(directReturn: true), ["directRouting": true]),
        ] {
            let error = #expect(throws: EBPF.DirectReturnNeedsVXLAN.self) { try EBPF(settings) }
            #expect(error?.description.contains("directRouting") == true)
        }
    }
}
