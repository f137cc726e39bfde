import CMnl
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// The allocations' store is damaged, its disk is full or read-only: pods go on, and nothing is given twice.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct StoreFaultTests {
    private func attach(_ name: String, _ playground: Playground, port: Int? = nil) throws -> (
        status: Int32, json: JSONValue
    ) {
        if !FileManager.default.fileExists(atPath: playground.namespacePath(name)) {
            try NetworkNamespace.create(path: playground.namespacePath(name))
        }
        var cni = CNIRun(playground: playground)
        if let port {
            cni.extra["runtimeConfig"] = ["portMappings": [["hostPort": .integer(port), "containerPort": 80]]]
        }
        return try cni("ADD", pod: name)
    }

    private func address(_ added: (status: Int32, json: JSONValue)) -> String {
        added.json["ips"]?.array?.first?["address"]?.string ?? "\(added.json)"
    }

    private func used(_ playground: Playground) throws -> [Int] {
        (try playground.status(of: "node1")["ranges"]?.array ?? []).compactMap { $0["used"]?.integer }
    }

    /// A file system of its own for the node's state, while `body` runs.
    private func withStateDisk(_ playground: Playground, _ body: (String) throws -> Void) throws {
        let state = "\(playground.directory)/node1/state"
        try playground.stopDaemon("node1")
        try syscall("mount") { mount("none", state, "tmpfs", 0, "size=512k") }
        defer {
            try? playground.stopDaemon("node1")
            umount2(state, knet_mnt_detach)
        }
        try body(state)
    }

    @Test func aDamagedStoreIsMovedAsideAndFilledFromTheKernel() throws {
        try withPlayground { playground in
            #expect(try address(attach("a", playground, port: 8080)) == "10.42.1.1/32")
            #expect(try address(attach("b", playground)) == "10.42.1.2/32")
            let node = try playground.namespace("node1")
            let before = try shell("ip route; ip neigh show nud permanent; nft list ruleset", in: node)
            try playground.stopDaemon("node1", signal: SIGKILL)
            let file = "\(playground.directory)/node1/state/knetd.db"
            try Data(repeating: 0x5A, count: 20_000).write(to: URL(fileURLWithPath: file))
            // Its log would mend it.
            unlink(file + "-wal")
            try playground.startDaemon("node1")
            try playground.waitUntilReady("node1")
            usleep(200_000)
            #expect(try shell("ip route; ip neigh show nud permanent; nft list ruleset", in: node) == before)
            #expect(try metric("knetd_kernel_writes_total", of: "node1", playground) == 0)
            let status = try playground.status(of: "node1")
            #expect(status["storeFault"]?.string?.contains("the store was damaged; it is now \(file).damaged-") == true)
            #expect(status["allocations"]?.array?.count == 2)
            let folder = try FileManager.default.contentsOfDirectory(atPath: "\(playground.directory)/node1/state")
            #expect(folder.contains { $0.hasPrefix("knetd.db.damaged-") }, "\(folder)")

            #expect(try address(attach("c", playground)) == "10.42.1.3/32", "no address is given twice")
            #expect(try attach("d", playground, port: 8080).json["code"] == 104, "nor is a host port")
            #expect(try CNIRun(playground: playground)("DEL", pod: "a").status == 0)
            #expect(try attach("d", playground, port: 8080).status == 0)
            for pod in ["b", "c", "d"] { #expect(try CNIRun(playground: playground)("DEL", pod: pod).status == 0) }
            try eventually { try used(playground) == [0, 0] }
        }
    }

    @Test func onAFullDiskPodsGoAndNewOnesAreToldWhy() throws {
        try withPlayground { playground in
            try withStateDisk(playground) { state in
                try playground.startDaemon("node1")
                try playground.waitUntilReady("node1")
                #expect(try attach("a", playground).status == 0)
                _ = try? shell("dd if=/dev/zero of=\(state)/filler bs=1k", in: playground.namespace("node1"))
                let refused = try attach("b", playground)
                #expect(refused.json["code"] == 5)
                #expect(
                    refused.json["msg"]?.string?.contains("free space on its file system") == true, "\(refused.json)")
                #expect(try !shell("ip link", in: playground.namespace("b")).contains("eth0"), "nothing is half made")
                #expect(try CNIRun(playground: playground)("DEL", pod: "b").status == 0)
                #expect(try CNIRun(playground: playground)("DEL", pod: "a").status == 0, "a pod can go")
                let node = try playground.namespace("node1")
                try eventually { try !shell("ip route; ip link", in: node).contains("10.42.1.1") }
                unlink("\(state)/filler")
                NetworkNamespace.remove(path: playground.namespacePath("a"))
                #expect(try attach("b", playground).status == 0)
                // What could not be recorded is found by the sweep of the next start.
                try playground.stopDaemon("node1", signal: SIGKILL)
                try playground.startDaemon("node1")
                try playground.waitUntilReady("node1")
                try eventually { try used(playground) == [1, 1] }
            }
        }
    }

    @Test(arguments: ["ro", "full"]) func withoutAUsableFolderAllocationsAreKeptInMemory(how: String) throws {
        try withPlayground { playground in
            #expect(try address(attach("a", playground)) == "10.42.1.1/32")
            try withStateDisk(playground) { state in
                _ = try shell(
                    how == "ro" ? "mount -o remount,ro \(state)" : "dd if=/dev/zero of=\(state)/filler bs=1k; true",
                    in: playground.namespace("node1"))
                try playground.startDaemon("node1")
                try playground.waitUntilReady("node1")
                let fault = try playground.status(of: "node1")["storeFault"]?.string ?? ""
                #expect(fault.contains("cannot be used") && fault.contains("node1/run instead"), "\(fault)")
                #expect(try address(attach("b", playground)) == "10.42.1.2/32")
                // The memory outlives the daemon.
                try playground.stopDaemon("node1", signal: SIGKILL)
                try playground.startDaemon("node1")
                try playground.waitUntilReady("node1")
                #expect(try used(playground) == [2, 2])
                for pod in ["a", "b"] { #expect(try CNIRun(playground: playground)("DEL", pod: pod).status == 0) }
                try eventually { try used(playground) == [0, 0] }
            }
            // The disk is as it was: it knows of a pod that is gone.
            try playground.startDaemon("node1")
            try playground.waitUntilReady("node1")
            NetworkNamespace.remove(path: playground.namespacePath("a"))
            #expect(try playground.status(of: "node1")["storeFault"] == nil)
        }
    }
}
