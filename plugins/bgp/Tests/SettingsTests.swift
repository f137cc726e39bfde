import FoundationEssentials
import KnetCore
import Testing

@testable import BGPPlugin

/// What is refused before anything is touched, with the place and the remedy.
@Suite struct SettingsTests {
    private static func problems(_ settings: JSONValue) throws -> [String] {
        let reader = ConfigurationReader(compiledIn: [
            BGP.settings, PluginSettings(name: "routed", isDataplane: true, fields: []),
        ])
        do {
            let file: JSONValue = ["plugins": ["routed": [:], "bgp": settings]]
            _ = try reader.read(Data(file.text().utf8))
            return []
        } catch { return error.problems.map(\.description) }
    }

    @Test func whatIsRightIsTaken() throws {
        let settings: JSONValue = [
            "as": 64512, "mesh": ["reflectors": ["matchLabels": ["role": ""]]],
            "peers": [
                ["address": "192.0.2.1", "as": 4_200_000_000, "import": [["cidr": "0.0.0.0/0", "le": 0]]],
                ["range": "192.0.2.0/24", "as": 0],
            ], "advertise": ["communities": ["64512:1", "64512:1:2"], "aggregate": ["IPv4": 24]],
        ]
        #expect(try Self.problems(settings) == [])
    }

    private static let contradictions: [(peer: JSONValue, problem: String)] = [
        (["address": "192.0.2.1", "range": "192.0.2.0/24", "as": 1], "peers[0]: found both address and range"),
        (["as": 1], "peers[0]: found neither address nor range"),
        (["address": "192.0.2.1", "as": 0], "peers[0].as: found 0"),
        (
            ["address": "192.0.2.1", "as": 1, "holdSeconds": 2],
            "peers[0].holdSeconds: found 2, allowed is 0, or at least 3"
        ),
        (
            ["address": "192.0.2.1", "as": 1, "import": [["cidr": "10.0.0.0/8", "ge": 4]]],
            "peers[0].import[0]: found lengths from 4 to 32, allowed is lengths from 8 to 32"
        ),
    ]

    @Test(arguments: contradictions) func whatContradictsIsRefused(peer: JSONValue, problem: String) throws {
        let found = try Self.problems(["as": 64512, "peers": [peer]])
        #expect(found.count == 1 && found[0].hasPrefix("$.plugins.bgp.\(problem)"), "\(found)")
    }

    @Test func whatIsNoCommunityIsRefused() throws {
        let found = try Self.problems(["as": 64512, "advertise": ["communities": ["64512"]]])
        #expect(found.count == 1 && found[0].hasPrefix("$.plugins.bgp.advertise.communities[0]: found"), "\(found)")
        #expect(try Self.problems(["as": 1, "port": 0, "mesh": [:]]).count == 1)
        #expect(try Self.problems([:]).first?.hasPrefix("$.plugins.bgp.as: found nothing") == true)
    }
}
