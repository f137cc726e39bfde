import FoundationEssentials
import KnetCore
import Testing

@Suite struct CNITests {
    private static let environment = [
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "abc-1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;odd",
    ]

    private func request(
        _ changes: [String: String?] = [:], config: JSONValue = ["cniVersion": "1.0.0", "name": "net"]
    ) throws -> CNIRequest {
        var environment = Self.environment
        for (name, value) in changes { environment[name] = value }
        return try CNIRequest(environment: environment, config: config)
    }

    @Test func aRequestIsReadFromEnvironmentAndInput() throws {
        let request = try request()
        #expect(request.command == .add && request.version == .v100 && request.network == "net")
        #expect(request.id == AttachmentID(containerID: "abc-1", interface: "eth0"))
        #expect(request.arguments["K8S_POD_NAME"] == "web" && request.arguments["K8S_POD_NAMESPACE"] == "shop")
    }

    @Test(
        arguments: [
            (["CNI_COMMAND": nil], 4, "CNI_COMMAND"), (["CNI_COMMAND": "add"], 4, "ADD"),
            (["CNI_CONTAINERID": nil], 4, "CNI_CONTAINERID"), (["CNI_NETNS": nil], 4, "CNI_NETNS"),
            (["CNI_IFNAME": nil, "CNI_NETNS": ""], 4, "CNI_IFNAME, CNI_NETNS"),
            (["CNI_CONTAINERID": "../x"], 4, "not valid"), (["CNI_CONTAINERID": "a b"], 4, "not valid"),
            (["CNI_IFNAME": "an-interface-name"], 4, "1 to 15 bytes"), (["CNI_IFNAME": "a/b"], 4, "without \"/\""),
            (["CNI_IFNAME": ".."], 4, "not an interface name"),
        ] as [([String: String?], Int, String)])
    func aBadEnvironmentHasItsCodeAndNamesTheVariable(changes: [String: String?], code: Int, word: String) throws {
        let error = try #require(throws: CNIError.self) { try request(changes) }
        #expect(error.code.rawValue == code)
        #expect("\(error)".contains(word), "\(error)")
    }

    @Test(
        arguments: [
            ("ADD", ["cniVersion": "9.9.9", "name": "n"], 1), ("ADD", ["name": "n"], 1),
            ("CHECK", ["cniVersion": "0.3.1", "name": "n"], 1), ("GC", ["cniVersion": "1.0.0", "name": "n"], 1),
            ("STATUS", ["cniVersion": "1.0.0", "name": "n"], 1), ("ADD", ["cniVersion": "1.0.0"], 7),
            ("CHECK", ["cniVersion": "1.0.0", "name": "n"], 7), ("ADD", [1], 6),
        ] as [(String, JSONValue, Int)])
    func aBadNetworkConfigurationHasItsCode(command: String, config: JSONValue, code: Int) throws {
        let error = try #require(throws: CNIError.self) { try request(["CNI_COMMAND": command], config: config) }
        #expect(error.code.rawValue == code, "\(error)")
    }

    @Test func delNeedsNoNamespace() throws {
        #expect(try request(["CNI_COMMAND": "DEL", "CNI_NETNS": nil]).namespacePath.isEmpty)
    }

    @Test func garbageCollectionMustBeToldWhatToKeep() throws {
        let config: JSONValue = ["cniVersion": "1.1.0", "name": "n"]
        #expect(throws: CNIError.self) { try request(["CNI_COMMAND": "GC"], config: config).validAttachments() }
        let list: JSONValue = [
            "cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": [["containerID": "a", "ifname": "eth0"]],
        ]
        #expect(
            try request(["CNI_COMMAND": "GC"], config: list).validAttachments() == [
                AttachmentID(containerID: "a", interface: "eth0")
            ])
    }

    @Test(
        arguments: [
            (
                CNIVersion.v031,
                #"{"cniVersion":"0.3.1","dns":{"nameservers":["1.1.1.1"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"knet0"},{"mac":"02:00:00:00:00:02","name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.42.1.5/32","gateway":"169.254.1.1","interface":1,"version":"4"},{"address":"fd42::5/128","gateway":"fe80::1","interface":1,"version":"6"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]}"#
            ),
            (
                CNIVersion.v110,
                #"{"cniVersion":"1.1.0","dns":{"nameservers":["1.1.1.1"]},"interfaces":[{"mac":"02:00:00:00:00:01","mtu":1450,"name":"knet0"},{"mac":"02:00:00:00:00:02","mtu":1450,"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.42.1.5/32","gateway":"169.254.1.1","interface":1},{"address":"fd42::5/128","gateway":"fe80::1","interface":1}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]}"#
            ),
        ])
    func aResultIsWrittenInTheVersionAskedFor(version: CNIVersion, text: String) throws {
        let result = CNIResult(
            interfaces: [
                .init(name: "knet0", mac: MACAddress(number: 0x0200_0000_0001), mtu: 1450, sandbox: nil),
                .init(name: "eth0", mac: MACAddress(number: 0x0200_0000_0002), mtu: 1450, sandbox: "/ns"),
            ],
            addresses: ["10.42.1.5", "fd42::5"].compactMap { IPAddress($0) },
            gateways: [.v4: .v4(0xA9FE_0101), .v6: .v6((UInt128(0xFE80) << 112) | 1)],
            dns: ["nameservers": ["1.1.1.1"]])
        #expect(result.json(version: version).text() == text)
    }

    @Test func anErrorHasTheSpecificationsForm() {
        let json = CNIError(.tryAgainLater, "not ready", details: "soon").json(version: .v100)
        #expect(json.text() == #"{"cniVersion":"1.0.0","code":11,"details":"soon","msg":"not ready"}"#)
    }

    @Test func hostLinksHaveNamesThatTheKernelTakesAndThatDiffer() {
        let names = (0..<5000).map { Attachment.hostLink(of: AttachmentID(containerID: "c\($0)", interface: "eth0")) }
        #expect(Set(names).count == names.count)
        #expect(names.allSatisfy { InterfaceName.isValid($0) && $0.hasPrefix("knet") })
    }

    @Test(arguments: [
        (#"{"portMappings": [{"hostPort": 99999, "containerPort": 1}]}"#, "portMappings[0].hostPort is 99999"),
        (#"{"portMappings": [{"hostPort": 80}]}"#, "portMappings[0].containerPort is 0"),
        (#"{"portMappings": [{"hostPort": 80, "containerPort": 1, "protocol": "icmp"}]}"#, "protocol is \"icmp\""),
        (
            #"{"portMappings": [{"hostPort": 80, "containerPort": 1, "hostIP": "host"}]}"#,
            "hostIP: \"host\" is not an IP address"
        ),
        (#"{"bandwidth": {"ingressRate": 8000}}"#, "runtimeConfig.bandwidth.ingressBurst is not"),
        (
            #"{"bandwidth": {"egressRate": "1M", "egressBurst": 1}}"#,
            "runtimeConfig.bandwidth.egressRate is string \"1M\""
        ),
        (#"{"bandwidth": {"egressRate": 7, "egressBurst": 1}}"#, "less than one byte per second"),
    ]) func aBadCapabilityIsNamed(runtimeConfig: String, words: String) throws {
        let config = #"{"name": "n", "cniVersion": "1.0.0", "runtimeConfig": \#(runtimeConfig)}"#
        let request = try request(config: JSONValue(parsing: Data(config.utf8)))
        let error = #expect(throws: CNIError.self) { try request.options() }
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
    }
}
