import Dispatch
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// Every verb in every version, and every error, through the real executable.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct CNITableTests {
    private static let versions = CNIVersion.allCases.map(\.rawValue)

    private func pod(_ name: String, _ playground: Playground) throws -> String {
        try NetworkNamespace.create(path: playground.namespacePath(name))
        return name
    }

    private func code(_ outcome: (status: Int32, json: JSONValue)) -> Int? {
        outcome.status == 0 ? nil : outcome.json["code"]?.integer
    }

    private func allocations(_ playground: Playground) throws -> Int {
        try playground.status(of: "node1")["allocations"]?.array?.count ?? -1
    }

    @Test func everyVerbInEveryVersion() throws {
        try withPlayground { playground in
            for version in Self.versions {
                var cni = CNIRun(playground: playground)
                cni.version = version
                let pod = try pod("v\(version.filter(\.isNumber))", playground)
                let isOld = version == "0.3.1"
                let isNew = version == "1.1.0"

                #expect(try cni("VERSION").json["supportedVersions"] == .array(Self.versions.map(JSONValue.string)))
                let added = try cni("ADD", pod: pod)
                #expect(added.status == 0, "\(version): \(added.json)")
                #expect(added.json["cniVersion"] == .string(version))
                #expect(added.json["ips"]?.array?.count == 2)
                #expect(added.json["interfaces"]?.array?.map { $0["name"]?.string ?? "" }.last == "eth0")
                #expect((added.json["interfaces"]?.array?.last?["mtu"] != nil) == isNew)
                #expect((added.json["ips"]?.array?.first?["version"] != nil) == (version < "1"))

                cni.extra["prevResult"] = added.json
                #expect(try code(cni("CHECK", pod: pod)) == (isOld ? 1 : nil), "\(version)")
                cni.extra["prevResult"] = nil
                #expect(try code(cni("STATUS")) == (isNew ? nil : 1))
                cni.extra["cni.dev/valid-attachments"] = [["containerID": .string("test-\(pod)"), "ifname": "eth0"]]
                #expect(try code(cni("GC")) == (isNew ? nil : 1))
                cni.extra["cni.dev/valid-attachments"] = nil
                #expect(try allocations(playground) == 1)
                for _ in 0..<2 { #expect(try cni("DEL", pod: pod).status == 0) }
                #expect(try allocations(playground) == 0)
            }
        }
    }

    @Test func whatTheRuntimeGetsWrongHasItsCodeAndARemedy() throws {
        try withPlayground { playground in
            let cni = CNIRun(playground: playground)
            let pod = try pod("a", playground)
            try Data("x".utf8).write(to: URL(fileURLWithPath: "\(playground.directory)/file"))
            func with(_ environment: [String: String], version: String = "1.1.0", command: String = "ADD") throws
                -> JSONValue
            {
                var cni = cni
                cni.environment = environment
                cni.version = version
                let outcome = try cni(command, pod: pod)
                #expect(outcome.status == 1)
                return outcome.json
            }
            let table: [(JSONValue, Int, String)] = [
                (try with([:], version: "2.0.0"), 1, "supported are 0.3.1"),
                (try with([:], version: "0.1.0"), 1, "supported are 0.3.1"),
                (try with([:], command: "FETCH"), 4, "one of ADD"),
                (try with(["CNI_CONTAINERID": ""]), 4, "CNI_CONTAINERID not set"),
                (try with(["CNI_IFNAME": ""]), 4, "CNI_IFNAME not set"),
                (try with(["CNI_NETNS": ""]), 4, "CNI_NETNS not set"),
                (try with(["CNI_CONTAINERID": "a/b"]), 4, "not valid"),
                (try with(["CNI_CONTAINERID": String(repeating: "a", count: 500)]), 4, "200 in all"),
                (try with(["CNI_IFNAME": "a-name-with-16-by"]), 4, "1 to 15 bytes"),
                (try with(["CNI_NETNS": "/run/netns/not-there"]), 3, "must exist"),
                (try with(["CNI_NETNS": "\(playground.directory)/file"]), 4, "not a network namespace"),
                (try with(["CNI_NETNS": "/proc/self/ns/mnt"]), 4, "not a network namespace"),
                (try with(["CNI_NETNS": playground.namespacePath("node1")]), 4, "node's own namespace"),
                (try with(["CNI_IFNAME": "lo"]), 101, "exists already"),
                (try with([:], command: "CHECK"), 7, "prevResult"),
                (try with([:], command: "GC"), 7, "valid-attachments"),
                (try cni("ADD", pod: pod, input: "").json, 6, "standard input is empty"),
                (try cni("ADD", pod: pod, input: "{").json, 6, "not valid JSON"),
                (try cni("ADD", pod: pod, input: "[]").json, 6, "not a JSON object"),
                (try cni("ADD", pod: pod, input: #"{"cniVersion": "1.0.0"}"#).json, 7, "\"name\""),
            ]
            for (json, code, words) in table {
                let text = "\(json["msg"]?.string ?? "") \(json["details"]?.string ?? "")"
                #expect(json["code"] == .integer(code), "\(json)")
                #expect(text.contains(words), "\(text)")
                #expect(json["cniVersion"] != nil)
            }
            #expect(try allocations(playground) == 0)
            let links = try shell("ip -o link show type veth", in: playground.namespace("node1"))
            // The node's own uplink shows that the listing is one.
            #expect(links.contains("eth0") && !links.contains(Attachment.hostLinkPrefix), "\(links)")
        }
    }

    @Test func aSecondAddIsRefusedAndTheFirstStands() throws {
        try withPlayground { playground in
            let cni = CNIRun(playground: playground)
            let pod = try pod("a", playground)
            let first = try cni("ADD", pod: pod)
            let second = try cni("ADD", pod: pod)
            #expect(second.json["code"] == 101)
            #expect(second.json["details"]?.string?.contains("10.42.1.1") == true, "\(second.json)")
            var check = cni
            check.extra["prevResult"] = first.json
            #expect(try check("CHECK", pod: pod).status == 0)
        }
    }

    @Test func addAfterALostDelStartsAnew() throws {
        try withPlayground { playground in
            let cni = CNIRun(playground: playground)
            let pod = try pod("a", playground)
            _ = try cni("ADD", pod: pod)
            NetworkNamespace.remove(path: playground.namespacePath(pod))
            _ = try self.pod("a", playground)
            let again = try cni("ADD", pod: pod)
            #expect(again.status == 0, "\(again.json)")
            #expect(try allocations(playground) == 1)
        }
    }

    @Test func delSucceedsWhateverIsGone() throws {
        try withPlayground { playground in
            var cni = CNIRun(playground: playground)
            #expect(try cni("DEL", pod: "never").status == 0)
            let pod = try pod("a", playground)
            _ = try cni("ADD", pod: pod)
            NetworkNamespace.remove(path: playground.namespacePath(pod))
            #expect(try cni("DEL", pod: pod).status == 0)
            _ = try self.pod("b", playground)
            _ = try cni("ADD", pod: "b")
            cni.environment["CNI_NETNS"] = ""
            #expect(try cni("DEL", pod: "b").status == 0)
            #expect(try allocations(playground) == 0)
            #expect(
                try shell("ip route show proto 107", in: playground.namespace("node1")) == "unreachable 10.42.1.0/24 \n"
            )
        }
    }

    @Test func delWhileTheDaemonIsDownIsDoneWhenItIsBack() throws {
        try withPlayground { playground in
            let cni = CNIRun(playground: playground)
            for name in ["a", "b"] { _ = try cni("ADD", pod: pod(name, playground)) }
            try playground.stopDaemon("node1", signal: SIGKILL)
            for name in ["a", "a", "b"] { #expect(try cni("DEL", pod: name).status == 0) }
            try playground.startDaemon("node1")
            try playground.waitUntilReady("node1")
            // A new pod of an old name waits for nothing that was queued for the old one.
            #expect(try cni("ADD", pod: "b").json["ips"]?.array?.first?["address"] == "10.42.1.3/32")
            try eventually { try allocations(playground) == 1 }
            #expect(try !shell("ip link", in: playground.namespace("a")).contains("eth0"))
            #expect(
                try FileManager.default.contentsOfDirectory(atPath: "\(playground.directory)/node1/run/pending-del")
                    .isEmpty)
            try Prober(playground.namespace("b")).ping(#require(playground.address(of: "node1", .v4)))
        }
    }

    @Test func checkSeesWhatWasChanged() throws {
        try withPlayground { playground in
            var cni = CNIRun(playground: playground)
            let pod = try pod("a", playground)
            cni.extra["prevResult"] = try cni("ADD", pod: pod).json
            #expect(try cni("CHECK", pod: pod).status == 0)
            _ = try shell("ip -6 addr flush dev eth0 scope global; ip route del default", in: playground.namespace("a"))
            let outcome = try cni("CHECK", pod: pod)
            #expect(outcome.json["code"] == 102)
            let details = outcome.json["details"]?.string ?? ""
            #expect(details.contains("address fd42:0:0:1::1 is missing"), "\(details)")
            #expect(details.contains("default route via 169.254.1.1 is missing"), "\(details)")
            #expect(try code(cni("CHECK", pod: "other")) == 3)
        }
    }

    @Test func garbageCollectionFreesWhatIsNotValidAndKeepsTheRest() throws {
        try withPlayground { playground in
            var cni = CNIRun(playground: playground)
            for name in ["a", "b", "c"] { _ = try cni("ADD", pod: pod(name, playground)) }
            var elsewhere = cni
            elsewhere.extra["name"] = "another-network"
            elsewhere.extra["cni.dev/valid-attachments"] = []
            #expect(try elsewhere("GC").status == 0)
            #expect(try allocations(playground) == 3)
            cni.extra["cni.dev/valid-attachments"] = [["containerID": "test-b", "ifname": "eth0"]]
            for _ in 0..<2 { #expect(try cni("GC").status == 0) }
            #expect(try allocations(playground) == 1)
            #expect(try !shell("ip link", in: playground.namespace("a")).contains("eth0"))
            #expect(try shell("ip link", in: playground.namespace("b")).contains("eth0"))
            cni.extra["cni.dev/valid-attachments"] = .null
            #expect(try cni("GC").status == 0)
            #expect(try allocations(playground) == 0)
        }
    }

    @Test func anExhaustedRangeIsToldAndItsAddressesComeBack() throws {
        try withPlayground { playground in
            try playground.writeNode("node1", host: 11, podCIDRs: [try #require(CIDR("10.42.1.0/29"))])
            try eventually { try playground.status(of: "node1")["ranges"]?.array?.count == 1 }
            let cni = CNIRun(playground: playground)
            for index in 0..<6 { #expect(try cni("ADD", pod: pod("p\(index)", playground)).status == 0) }
            let outcome = try cni("ADD", pod: pod("p6", playground))
            #expect(outcome.json["code"] == 100)
            #expect(outcome.json["msg"]?.string?.contains("all 6 are in use") == true, "\(outcome.json)")
            #expect(try cni("DEL", pod: "p2").status == 0)
            #expect(try cni("ADD", pod: "p6").json["ips"]?.array?.first?["address"] == "10.42.1.3/32")
        }
    }

    @Test func statusBeforeAndAfterReadiness() throws {
        try withPlayground { playground in
            let cni = CNIRun(playground: playground)
            #expect(try cni("STATUS").status == 0)
            try playground.stopDaemon("node1")
            #expect(try code(cni("STATUS")) == 50)
            let refused = try cni("ADD", pod: pod("a", playground))
            #expect(refused.json["code"] == 11 && refused.json["msg"]?.string?.contains("no daemon answers") == true)
            try playground.writeNode("node1", host: 11, podCIDRs: [])
            try playground.startDaemon("node1")
            try eventually(within: 5) {
                try code(cni("STATUS")) == 50 && cni("STATUS").json.text().contains("no spec.podCIDRs")
            }
            #expect(try code(cni("ADD", pod: "a")) == 11)
            try playground.writeNode("node1", host: 11, podCIDRs: [try #require(CIDR("10.42.1.0/24"))])
            try eventually { try cni("STATUS").status == 0 }
            #expect(try cni("ADD", pod: "a").status == 0)
        }
    }

    @Test func aDaemonThatDoesNotAnswerIsNotWaitedForLongerThanConfigured() throws {
        try withPlayground { playground in
            var cni = CNIRun(playground: playground)
            cni.extra["timeoutSeconds"] = 1
            kill(playground.process(of: "node1"), SIGSTOP)
            defer { kill(playground.process(of: "node1"), SIGCONT) }
            let start = ContinuousClock.now
            let outcome = try cni("ADD", pod: pod("a", playground))
            #expect(outcome.json["code"] == 11)
            #expect(outcome.json["msg"]?.string?.contains("within 1 s") == true, "\(outcome.json)")
            #expect(ContinuousClock.now - start < .seconds(3))
        }
    }

    @Test func tenAtOnceAllGetAddressesOfTheirOwn() throws {
        try withPlayground { playground in
            let names = try (0..<10).map { try pod("p\($0)", playground) }
            let results = Results()
            // Executing the plugin only reads the playground.
            nonisolated(unsafe) let cni = CNIRun(playground: playground)
            DispatchQueue.concurrentPerform(iterations: names.count) { index in
                results.add((try? cni("ADD", pod: names[index]))?.json ?? .null)
            }
            let addresses = results.all.flatMap { $0["ips"]?.array ?? [] }.compactMap { $0["address"]?.string }
            #expect(Set(addresses).count == 20, "\(results.all)")
        }
    }
}

private final class Results: Sendable {
    private let contents = Mutex<[JSONValue]>([])
    var all: [JSONValue] { contents.withLock { $0 } }
    func add(_ value: JSONValue) { contents.withLock { $0.append(value) } }
}
