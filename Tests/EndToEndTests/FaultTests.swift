import Dispatch
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Reloads, restarts and hostile input at the wrong moment.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct FaultTests {
    @Test func twentyReloadsRemoveNothingAndLoseNoPing() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node2")
            let prober = Prober(try playground.namespace("a"), milliseconds: 1000)
            for _ in 0..<20 {
                kill(playground.process(of: "node1"), SIGHUP)
                for _ in 0..<5 { for address in peer { try prober.ping(address) } }
            }
            try playground.waitUntilReady("node1")
            let removed = playground.log(of: "node1").matches(of: #/removed=([1-9][0-9]*)/#).map { String($0.output.0) }
            #expect(removed.isEmpty, "\(playground.log(of: "node1"))")
        }
    }

    @Test func addsDuringReloadsAllEndAndAllPodsAreReached() throws {
        try withPlayground { playground in
            let node = try playground.namespace("node1")
            nonisolated(unsafe) let cni = CNIRun(playground: playground)
            for round in 0..<6 {
                let names = (0..<6).map { "r\(round)p\($0)" }
                for name in names { try NetworkNamespace.create(path: playground.namespacePath(name)) }
                let process = playground.process(of: "node1")
                nonisolated(unsafe) var outcomes = [JSONValue](repeating: .null, count: names.count)
                let lock = DispatchSemaphore(value: 1)
                DispatchQueue.concurrentPerform(iterations: names.count + 1) { index in
                    guard index < names.count else {
                        for _ in 0..<5 {
                            kill(process, SIGHUP)
                            usleep(15_000)
                        }
                        return
                    }
                    let outcome = (try? cni("ADD", pod: names[index]))?.json ?? "no outcome"
                    lock.wait()
                    outcomes[index] = outcome
                    lock.signal()
                }
                for (name, outcome) in zip(names, outcomes) {
                    // Between two configurations the node is not ready for a moment; the runtime tries again.
                    if outcome["code"] == 11 { continue }
                    let addresses = (outcome["ips"]?.array ?? []).compactMap {
                        $0["address"]?.string?.split(separator: "/").first.flatMap { IPAddress($0) }
                    }
                    #expect(addresses.count == 2, "\(name): \(outcome)")
                    for address in addresses { try Prober(node, milliseconds: 500).ping(address) }
                }
                for name in names { #expect(try cni("DEL", pod: name).status == 0) }
            }
            #expect(try playground.status(of: "node1")["allocations"]?.array?.isEmpty == true)
        }
    }

    @Test func aReloadAtTheVeryStartDoesNotEndTheDaemon() throws {
        try withPlayground { playground in
            for delay: UInt32 in [0, 5, 20, 40] {
                try playground.stopDaemon("node1")
                try playground.startDaemon("node1")
                // Before its first instruction no program can help it.
                try eventually(within: 5) { try ignoresOrCatchesHangup(playground.process(of: "node1")) }
                usleep(delay * 1000)
                kill(playground.process(of: "node1"), SIGHUP)
                try playground.waitUntilReady("node1")
            }
        }
    }

    /// Bit 0 of the masks in /proc/PID/status is signal 1, SIGHUP.
    private func ignoresOrCatchesHangup(_ process: Int32) throws -> Bool {
        let status = try String(contentsOf: URL(fileURLWithPath: "/proc/\(process)/status"), encoding: .utf8)
        return status.matches(of: #/Sig(?:Ign|Cgt):\s+[0-9a-f]+([13579bdf])\n/#).count > 0
    }

    @Test func aNodeThatLosesAndRegainsAFamilyKeepsBothReachable() throws {
        try withPlayground(nodes: 2) { playground in
            let node = try playground.namespace("node1")
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node2")
            let six = try #require(peer.last)
            let prober = Prober(try playground.namespace("a"), milliseconds: 300)
            _ = try shell("ip -6 addr del fd77::b/64 dev eth0", in: node)
            try eventually { try shell("ip -6 route show fd42:0:0:2::/64", in: node).contains("dev knetd.1 ") }
            _ = try shell("ip -6 addr add fd77::b/64 dev eth0 nodad", in: node)
            try eventually { try shell("ip -6 route show fd42:0:0:2::/64", in: node).contains("dev knetd6.1 ") }
            try eventually { (try? prober.ping(six)) != nil }
            #expect(try playground.status(of: "node1")["plugins"]?.array?.first?["faults"] == [])
        }
    }

    @Test func theUplinksMTUIsFollowed() throws {
        try withPlayground(nodes: 2) { playground in
            let node = try playground.namespace("node1")
            _ = try shell("ip link set eth0 mtu 1400", in: node)
            try eventually {
                try shell("ip -o link show knetd.1; ip -o link show knetd6.1", in: node).matches(
                    of: #/mtu 1350|mtu 1330/#
                ).count == 2
            }
        }
    }

    @Test func aManifestDirectoryThatGoesAwayLeavesEverythingInForce() throws {
        try withPlayground(nodes: 2) { playground in
            let node = try playground.namespace("node1")
            let before = try shell("ip route show proto 107", in: node)
            rename(playground.manifests, playground.manifests + ".moved")
            try eventually(within: 3) { try playground.status(of: "node1").text().contains("does not exist any more") }
            #expect(try shell("ip route show proto 107", in: node) == before)
            rename(playground.manifests + ".moved", playground.manifests)
            try playground.writeNode("node9", host: 99, podCIDRs: [try #require(CIDR("10.42.9.0/24"))])
            try eventually(within: 3) { try shell("ip route show proto 107", in: node).contains("10.42.9.0/24") }
        }
    }

    @Test func withoutAnyNodeLeftTheRangeInForceStays() throws {
        try withPlayground { playground in
            unlink("\(playground.manifests)/node1.yaml")
            try eventually { try playground.status(of: "node1").text().contains("stays in force") }
            #expect(try playground.status(of: "node1")["ranges"]?.array?.first?["cidr"] == "10.42.1.0/24")
        }
    }

    @Test func aLinkedManifestIsNoticed() throws {
        try withPlayground { playground in
            let target = "\(playground.directory)/node9.yaml"
            try Data(
                "kind: Node\nmetadata: {name: node9}\nspec: {podCIDRs: [10.42.9.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 192.168.77.99}]}\n"
                    .utf8
            )
            .write(to: URL(fileURLWithPath: target))
            symlink(target, "\(playground.manifests)/node9.yaml")
            try eventually { try playground.status(of: "node1")["peers"]?.array?.count == 1 }
        }
    }

    @Test(arguments: [
        ("10.42.1.0/24", "10.42.9.0/32", "too small"), ("10.42.1.0/24", "192.168.77.0/25", "outside the pod network"),
        ("10.42.1.0/24", "10.50.0.0/24", "outside the pod network"),
    ])
    func aRangeThatTheNodeCannotHaveIsRefusedAndTheOldOneStays(good: String, bad: String, words: String) throws {
        try withPlayground { playground in
            try playground.writeNode("node1", host: 11, podCIDRs: [try #require(CIDR(bad))])
            try eventually { try playground.status(of: "node1").text().contains(words) }
            #expect(try playground.status(of: "node1")["ranges"]?.array?.first?["cidr"] == .string(good))
            try playground.writeNode("node1", host: 11, podCIDRs: [try #require(CIDR(good))])
            try playground.waitUntilReady("node1")
        }
    }

    @Test func slowClientsKeepNobodyWaiting() throws {
        try withPlayground { playground in
            let path = playground.socketPath("node1")
            let process = playground.process(of: "node1")
            let threads = { try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process)/task").count }
            let before = try threads()
            var clients: [SharedDescriptor] = []
            for index in 0..<100 {
                let descriptor = SharedDescriptor(
                    Descriptor(owning: try syscall("socket") { socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0) }))
                var address = sockaddr_un()
                address.sun_family = sa_family_t(AF_UNIX)
                withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
                try syscall("connect") {
                    withUnsafePointer(to: &address) {
                        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                            connect(descriptor.number, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
                        }
                    }
                }
                // Half of them begin a request and leave it at that.
                if index % 2 == 0 { send(descriptor.number, "{", 1, 0) }
                clients.append(descriptor)
            }
            let start = ContinuousClock.now
            #expect(try CNIRun(playground: playground)("STATUS").status == 0)
            #expect(ContinuousClock.now - start < .seconds(1))
            // They are shown out after five seconds.
            try eventually(within: 8) { try threads() <= before + 4 }
            clients = []
            #expect(try CNIRun(playground: playground)("STATUS").status == 0)
        }
    }

    @Test func whatIsNoRequestDoesTheDaemonNoHarm() throws {
        try withPlayground { playground in
            let path = playground.socketPath("node1")
            for junk in ["", "x", "{}", #"{"cni":{}}"#, String(repeating: "[", count: 100_000)] {
                let reply = try AgentSocket.ask(path, Data(junk.utf8), descriptor: nil, seconds: 5)
                #expect(String(decoding: reply, as: UTF8.self).contains("not understood"))
            }
            _ = try? AgentSocket.ask(path, Data(count: AgentReply.limit + 1), descriptor: nil, seconds: 5)
            #expect(try CNIRun(playground: playground)("STATUS").status == 0)
            #expect(try shell("stat -c %a:%u \(path)", in: playground.namespace("node1")) == "600:0\n")
            // Over the socket nothing is believed that the CNI mode would have refused.
            let odd =
                #"{"cni":{"_0":{"command":"ADD","version":"1.1.0","containerID":"../x","interface":"eth0","namespacePath":"/x","arguments":{},"config":{"name":"n"}}}}"#
            let reply = try AgentSocket.ask(path, Data(odd.utf8), descriptor: nil, seconds: 5)
            #expect(String(decoding: reply, as: UTF8.self).contains("CNI_CONTAINERID"))
        }
    }
}

/// The examples in the READMEs do what they say.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DocumentationTests {
    private func blocks(_ path: String, _ language: String) throws -> [String] {
        let text = try String(contentsOf: URL(fileURLWithPath: "\(Checkout.path)/\(path)"), encoding: .utf8)
        return text.split(separator: "```\(language)\n").dropFirst().map { rest in
            String(rest[..<(rest.firstRange(of: "```")?.lowerBound ?? rest.endIndex)])
        }
    }

    @Test(arguments: ["overlay", "routed"]) func thePluginsExamplesShowSomething(plugin: String) throws {
        let commands = try blocks("plugins/\(plugin)/README.md", "console").joined().split(separator: "\n")
        #expect(!commands.isEmpty)
        try withPlayground(nodes: 2, ["plugins": [plugin: [:]]]) { playground in
            for command in commands {
                let output = try shell(String(command), in: playground.namespace("node1"))
                #expect(!output.isEmpty, "\(command)")
            }
        }
    }

    @Test func theReadmesManifestIsUnderstood() throws {
        let manifest = try #require(blocks("README.md", "yaml").first)
        try withPlayground { playground in
            try Data(manifest.utf8).write(to: URL(fileURLWithPath: "\(playground.manifests)/readme.yaml"))
            try eventually { try playground.status(of: "node1")["peers"]?.array?.first?["name"] == "node2" }
            #expect(try playground.status(of: "node1")["source"]?["faults"] == [])
        }
    }
}
