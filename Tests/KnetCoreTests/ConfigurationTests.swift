import FoundationEssentials
import KnetCore
import Testing

@Suite struct ConfigurationTests {
    static let overlay = PluginSettings(
        name: "overlay", isDataplane: true,
        fields: [
            Field("vni", .integer(1...16_777_215), default: 1, "VNI"),
            Field("port", .integer(1...65535), default: 8472, "port"),
            Field("directRouting", .boolean, default: false, "direct"),
        ])
    static let routed = PluginSettings(name: "routed", isDataplane: true, fields: [])
    static let reader = ConfigurationReader(compiledIn: [overlay, routed])

    @Test func anEmptyObjectIsAWholeConfiguration() throws {
        let configuration = try Self.reader.read(Data("{}".utf8))
        #expect(configuration.network.podCIDRs.map(\.description) == ["10.42.0.0/16", "fd42::/48"])
        #expect(configuration.plugins == ["overlay": ["vni": 1, "port": 8472, "directRouting": false]])
        #expect(configuration.network.mtu == .automatic)
        #expect(configuration.agent.socketPath == "/run/knetd/knetd.sock")
    }

    @Test func whatIsShownCanBeReadAgain() throws {
        let configuration = try Self.reader.read(Data(#"{"network": {"mtu": 1400}, "node": {"name": "a"}}"#.utf8))
        let shown = try JSONValue(encoding: configuration).text()
        #expect(try Self.reader.read(Data(shown.utf8)) == configuration)
    }

    /// A broken file, the path that must be named, and a word of the message.
    struct Broken: Sendable, CustomTestStringConvertible {
        let text: String
        let path: String
        let word: String
        var testDescription: String { text }

        init(_ text: String, _ path: String, _ word: String) {
            self.text = text
            self.path = path
            self.word = word
        }
    }

    static let broken = [
        Broken("", "$", "not valid JSON"),
        Broken("[]", "$", "an empty list"),
        Broken("{", "$", "not valid JSON"),
        Broken(#"{"plugin": {}}"#, "$.plugin", "did you mean \"plugins\"?"),
        Broken(#"{"networks": {}}"#, "$.networks", "did you mean \"network\"?"),
        Broken(#"{"network": {"podCIDR": []}}"#, "$.network.podCIDR", "did you mean \"podCIDRs\"?"),
        Broken(#"{"network": {"podCIDRs": "10.42.0.0/16"}}"#, "$.network.podCIDRs", #"did you mean ["10.42.0.0/16"]?"#),
        Broken(#"{"network": {"podCIDRs": []}}"#, "$.network.podCIDRs", "at least 1"),
        Broken(#"{"network": {"podCIDRs": ["10.42.0.0"]}}"#, "$.network.podCIDRs[0]", "no prefix length"),
        Broken(
            #"{"network": {"podCIDRs": ["10.42.0.1/16"]}}"#, "$.network.podCIDRs[0]", "did you mean \"10.42.0.0/16\"?"),
        Broken(#"{"network": {"podCIDRs": ["10.42.0.0/40"]}}"#, "$.network.podCIDRs[0]", "0…32"),
        Broken(#"{"network": {"podCIDRs": ["fd42::/48", 5]}}"#, "$.network.podCIDRs[1]", "integer 5"),
        Broken(
            #"{"network": {"podCIDRs": ["10.42.0.0/16", "10.42.7.0/24"]}}"#, "$.network.podCIDRs[1]",
            "overlaps 10.42.0.0/16"),
        Broken(#"{"network": {"podCIDRs": ["10.42.0.0/31"]}}"#, "$.network.podCIDRs[0]", "too small"),
        Broken(#"{"network": {"mtu": "automatic"}}"#, "$.network.mtu", "did you mean \"auto\"?"),
        Broken(#"{"network": {"mtu": 500}}"#, "$.network.mtu", "did you mean 1280?"),
        Broken(#"{"network": {"mtu": 1400.5}}"#, "$.network.mtu", "number 1400.5"),
        Broken(#"{"network": {"masquerade": "true"}}"#, "$.network.masquerade", "true without quotes"),
        Broken(
            #"{"network": {"masqueradeExcept": ["10.0.0.0/8", "x"]}}"#, "$.network.masqueradeExcept[1]",
            "no prefix length"),
        Broken(#"{"plugins": {"overlay": {}, "routed": {}}}"#, "$.plugins", "2 dataplanes"),
        Broken(#"{"plugins": {}}"#, "$.plugins", "exactly one of overlay, routed"),
        Broken(#"{"plugins": {"overlay": {"vni": 0}}}"#, "$.plugins.overlay.vni", "did you mean 1?"),
        Broken(#"{"plugins": {"overlay": {"vni": "7"}}}"#, "$.plugins.overlay.vni", "7 without quotes"),
        Broken(#"{"plugins": {"overlay": {"vnid": 1}}}"#, "$.plugins.overlay.vnid", "did you mean \"vni\"?"),
        Broken(#"{"plugins": {"overlay": true}}"#, "$.plugins.overlay", "an object"),
        Broken(#"{"plugins": {"routed": {"port": 1}}}"#, "$.plugins.routed.port", "no key here"),
        Broken(#"{"plugins": {"overlay": {}, "dns": {}}}"#, "$.plugins.dns", "built without"),
        Broken(#"{"plugins": {"overly": {}}}"#, "$.plugins.overly", "did you mean \"overlay\"?"),
        Broken(#"{"agent": {"statusAddresses": ["127.0.0.1"]}}"#, "$.agent.statusAddresses[0]", "address:port"),
        Broken(#"{"agent": {"runDirectory": "run"}}"#, "$.agent.runDirectory", "did you mean \"/run\"?"),
        Broken(#"{"agent": {"logLevel": "warn"}}"#, "$.agent.logLevel", "did you mean \"warning\"?"),
        Broken(#"{"agent": {"resyncSeconds": 0}}"#, "$.agent.resyncSeconds", "from 1"),
        Broken(#"{"node": {"podCIDRs": ["10.99.0.0/24"]}}"#, "$.node.podCIDRs[0]", "a part of network.podCIDRs"),
        Broken(#"{"node": {"uplink": "a-name-that-is-too-long"}}"#, "$.node.uplink", "1 to 15 bytes"),
        Broken(#"{"node": {"name": ""}}"#, "$.node.name", "an empty string"),
        Broken(#"{"cni": {"configFile": "a/b.conflist"}}"#, "$.cni.configFile", "without \"/\""),
        Broken("{\n  \"node\": {,}\n}", "$", "instead of a key in double quotes, line 2, column 12"),
        Broken(#"{"node": {}, "node": {}}"#, "$", "the key \"node\" stands twice"),
        Broken(#"{"network": {"podCIDRs": ["127.0.0.0/16"]}}"#, "$.network.podCIDRs[0]", "loopback"),
        Broken(#"{"network": {"podCIDRs": ["::/0"]}}"#, "$.network.podCIDRs[0]", "overlaps"),
        Broken(#"{"node": {"podCIDRs": ["10.42.0.0/31"]}}"#, "$.node.podCIDRs[0]", "too small"),
        Broken(#"{"cni": {"networkName": "a b"}}"#, "$.cni.networkName", "a letter or digit"),
        Broken(#"{"cni": {"configFile": ".."}}"#, "$.cni.configFile", ".conflist"),
        Broken(#"{"cluster": {"manifests": {"directory": null}}}"#, "$.cluster.manifests.directory", "null"),
    ]

    @Test(arguments: broken)
    func aBrokenFileIsRefusedWithThePlaceAndTheRemedy(_ broken: Broken) throws {
        let error = try #require(throws: ConfigurationError.self) { try Self.reader.read(Data(broken.text.utf8)) }
        let problem = try #require(error.problems.first { $0.path == broken.path }, "\(error)")
        #expect(problem.description.contains(broken.word), "\(problem)")
        #expect(!problem.allowed.isEmpty)
    }

    @Test func allProblemsAreToldAtOnce() throws {
        let text = #"{"network": {"mtu": 1}, "agent": {"logLevel": "x"}, "foo": 1}"#
        let error = try #require(throws: ConfigurationError.self) { try Self.reader.read(Data(text.utf8)) }
        #expect(error.problems.map(\.path) == ["$.agent.logLevel", "$.foo", "$.network.mtu"])
    }

    @Test func aFileThatIsNotThereIsNamed() throws {
        let error = try #require(throws: ConfigurationError.self) { try Self.reader.read(path: "/nowhere/knetd.json") }
        #expect(error.problems[0].path == "/nowhere/knetd.json")
        #expect(error.problems[0].found.contains("No such file or directory"))
    }

    @Test func withoutADataplaneInTheBuildNoneIsAskedFor() throws {
        let reader = ConfigurationReader(compiledIn: [])
        #expect(try reader.read(Data("{}".utf8)).plugins.isEmpty)
    }

    @Test(arguments: [("overlai", "overlay"), ("OVERLAY", "overlay"), ("rooted", "routed"), ("zzz", nil)])
    func aMistypedWordFindsItsNeighbour(word: String, nearest: String?) {
        #expect(Spelling.nearest(to: word, among: ["overlay", "routed"]) == nearest)
    }
}
