import FoundationEssentials
import KnetCore
import Testing

@testable import LoadBalancerPlugin

/// What is refused before anything is touched, with the place and the remedy.
@Suite struct SettingsTests {
    private static func problems(_ settings: JSONValue) throws -> [String] {
        let reader = ConfigurationReader(compiledIn: [
            LoadBalancer.settings,
            PluginSettings(name: "overlay", isDataplane: true, fields: []),
            PluginSettings(
                name: "serviceProxy", isDataplane: false,
                fields: [Field("serviceCIDRs", .list(of: .text(.cidr)), default: [], "Ranges.")]),
        ])
        let file: JSONValue = [
            "network": ["podCIDRs": ["10.42.0.0/16", "fd42::/48"]],
            "plugins": ["overlay": [:], "serviceProxy": ["serviceCIDRs": ["10.96.0.0/16"]], "loadBalancer": settings],
        ]
        do {
            _ = try reader.read(Data(file.text().utf8))
            return []
        } catch { return error.problems.map(\.description) }
    }

    private static func pool(_ name: String, _ addresses: JSONValue..., more: [String: JSONValue] = [:]) -> JSONValue {
        .object(["name": .string(name), "addresses": .array(addresses)].merging(more) { $1 })
    }

    @Test func whatIsRightIsTaken() throws {
        let pools: JSONValue = [
            Self.pool("a", "192.0.2.0/28", "192.0.2.16-192.0.2.20", "192.0.2.30"),
            Self.pool("b", "2001:db8::1-2001:db8::ff", more: ["serviceSelector": ["matchLabels": ["tier": ""]]]),
        ]
        #expect(try Self.problems(["pools": pools, "layer2": ["pools": ["a"], "interfaces": ["eth0"]]]) == [])
        #expect(try Self.problems([:]) == [])
    }

    private static let contradictions: [(pools: JSONValue, problem: String)] = [
        (
            [pool("a", "192.0.2.0/28"), pool("b", "192.0.2.15-192.0.2.40")],
            "$.plugins.loadBalancer.pools[1].addresses[0]: found 192.0.2.15-192.0.2.40, which overlaps 192.0.2.0-192.0.2.15 of the pool \"a\", allowed is addresses that nothing else has"
        ),
        (
            [pool("a", "10.42.3.0/24")],
            "$.plugins.loadBalancer.pools[0].addresses[0]: found 10.42.3.0-10.42.3.255, which overlaps the pod network 10.42.0.0/16, allowed is addresses that nothing else has"
        ),
        (
            [pool("a", "10.96.0.10")],
            "$.plugins.loadBalancer.pools[0].addresses[0]: found 10.96.0.10, which overlaps the Services' range 10.96.0.0/16, allowed is addresses that nothing else has"
        ),
        (
            [pool("a", "192.0.2.1"), pool("a", "192.0.2.2")],
            "$.plugins.loadBalancer.pools[1].name: found \"a\", which another pool has too, allowed is a name of its own"
        ),
        (
            [pool("a", "127.0.0.1")],
            "$.plugins.loadBalancer.pools[0].addresses[0]: found 127.0.0.1, which overlaps 127.0.0.0/8 (loopback), allowed is addresses that clients can reach"
        ),
        (
            [pool("a", "192.0.2.9-192.0.2.1")],
            "$.plugins.loadBalancer.pools[0].addresses[0]: found string \"192.0.2.9-192.0.2.1\", allowed is \(AddressSpan.title)"
        ),
    ]

    @Test(arguments: contradictions) func whatContradictsIsRefused(pools: JSONValue, problem: String) throws {
        #expect(try Self.problems(["pools": pools]) == [problem])
    }

    @Test func aPoolThatIsNotThereIsNamed() throws {
        let found = try Self.problems(["pools": [Self.pool("lan", "192.0.2.1")], "layer2": ["pools": ["lam"]]])
        #expect(
            found == [
                "$.plugins.loadBalancer.layer2.pools[0]: found \"lam\", allowed is a pool's name: lan; did you mean \"lan\"?"
            ])
    }
}
