import CMnl
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// The C libraries' own resolvers, with the kubelet's resolv.conf.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DNSResolverTests {
    enum Library: String, CaseIterable { case glibc, musl }

    private static let resolvConf = """
        search default.svc.cluster.local svc.cluster.local cluster.local corp.example
        nameserver \(DNSStage.clusterDNS)
        options ndots:5

        """

    /// The search domains of the node, which its resolv.conf names.
    private static func settings(_ folder: String) throws -> [String: JSONValue] {
        let path = "\(folder)/node-resolv.conf"
        try Data("search corp.example\nnameserver 127.0.0.1\n".utf8).write(to: URL(fileURLWithPath: path))
        return ["resolvConf": .string(path)]
    }

    /// Compiles the program that resolves.
    private static func compile(_ library: Library, in folder: String) throws -> String {
        let (source, program) = ("\(Checkout.path)/Tests/stub-resolver.c", "\(folder)/stub-\(library)")
        let compiler = try shell("command -v clang || command -v cc", in: .current()).trimmed
        let musl = "/usr/lib/\(try shell("uname -m", in: .current()).trimmed)-linux-musl"
        let options =
            library == .glibc
            ? source
            : "-nostdinc -isystem \(musl.replacing("/lib/", with: "/include/")) -nostdlib -static "
                + "\(musl)/crt1.o \(musl)/crti.o \(source) \(musl)/libc.a \(musl)/crtn.o"
        _ = try shell("\(compiler) \(options) -o \(program)", in: .current())
        return program
    }

    /// Resolves all lines where a file of ours is `/etc/resolv.conf`.
    private static func resolve(_ lines: [String], by program: String, folder: String, in namespace: NetworkNamespace)
        throws -> [String]
    {
        try Data(resolvConf.utf8).write(to: URL(fileURLWithPath: "\(folder)/resolv.conf"))
        try Data(lines.map { "\($0)\n" }.joined().utf8).write(to: URL(fileURLWithPath: "\(folder)/names"))
        let output = try shell(
            "unshare --mount sh -c 'mount --bind \(folder)/resolv.conf /etc/resolv.conf && exec \(program) < \(folder)/names'",
            in: namespace)
        // The order of addresses is not the server's business.
        return output.split(separator: "\n").map { line in
            let words = line.split(separator: " ")
            return (words.prefix(3) + words.dropFirst(3).sorted()).joined(separator: " ")
        }
    }

    private static func withFolder(_ body: (String) throws -> Void) throws {
        let folder = "\(FileManager.default.temporaryDirectory.path)/knetd-dns-\(UInt32.random(in: 0...UInt32.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try body(folder)
    }

    @Test(arguments: Library.allCases) func anExternalNameCostsOnePacketOfEachType(library: Library) throws {
        try Self.withFolder { folder in
            try DNSStage.with(Self.settings(folder)) { stage in
                let program = try Self.compile(library, in: folder)
                let pod = try stage.playground.namespace("p")
                let capture = try QueryCapture(in: pod)
                let found = try Self.resolve(["u ok.example.test"], by: program, folder: folder, in: pod)
                #expect(found == ["u ok.example.test 0 192.0.2.1 2001:db8::1"])
                let packets = capture.end()
                #expect(packets.count == 2, "\(packets)")
                // Without it: four domains, then the name, each of both types.
                let node = try stage.playground.namespace("node1")
                let plain = try QueryCapture(in: node, link: "lo")
                _ = try Self.resolve(["u ok.example.test"], by: program, folder: folder, in: node)
                #expect(plain.end().count == 10)
            }
        }
    }

    /// The node itself gets plain answers: its resolver walks the list. Without failures, for which musl waits until its time is up:
    /// these are in the module's own tests.
    @Test(arguments: Library.allCases) func twoThousandNamesAreFoundAsByWalkingTheList(library: Library) throws {
        var generator = SeededGenerator(seed: 66)
        func pick(_ all: [String]) -> String { all[Int.random(in: all.indices, using: &generator)] }
        let heads = ["ok", "nx", "nodata", "alias", "web", "db", "db-0.db", "ext", "kube-dns", "a"]
        let tails = [
            "", ".default", ".kube-system", ".default.svc", ".svc", ".test", ".example.test", ".corp.example.test",
            ".default.default",
            ".default.svc.cluster.local", ".kube-system.svc.cluster.local", ".cluster.local", ".pod", ".a.b.c.d.test",
        ]
        let lines = (0..<2_000).compactMap { index -> String? in
            let name = pick(heads) + (index % 3 == 0 ? ".n\(index)" : "") + pick(tails) + (index % 7 == 0 ? "." : "")
            // What is told to be absolute, below the pod's own domain, cannot be told from a searched name.
            if name.hasSuffix(".default.svc.cluster.local."), name.split(separator: ".").count > 5 { return nil }
            return "\(pick(["u", "4", "6"])) \(name)"
        }
        try Self.withFolder { folder in
            try DNSStage.with(Self.settings(folder)) { stage in
                let program = try Self.compile(library, in: folder)
                let walking = try Self.resolve(
                    lines, by: program, folder: folder, in: stage.playground.namespace("node1"))
                let completed = try Self.resolve(
                    lines, by: program, folder: folder, in: stage.playground.namespace("p"))
                #expect(walking.count == lines.count && completed.count == lines.count)
                let wrong = zip(walking, completed).filter { $0 != $1 }
                #expect(wrong.isEmpty, "\(wrong.prefix(10))")
                let found = walking.count { $0.split(separator: " ").count > 3 }
                #expect(lines.count > 1_900 && found > 400 && found < 1_600, "\(found) of \(lines.count) found")
            }
        }
    }
}

/// Counts the queries that leave a namespace.
private final class QueryCapture: Sendable {
    private let socket: SharedDescriptor
    private let isStopped = Atomic(false)
    private let isDone = Atomic(false)
    private let names = Mutex<[String]>([])

    /// - Parameter link: which interface's packets count.
    init(in namespace: NetworkNamespace, link: String = "eth0") throws {
        socket = try namespace.run {
            // ETH_P_ALL, packets without their link's header.
            let number = try syscall("socket") {
                Glibc.socket(
                    AF_PACKET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), Int32(UInt16(3).bigEndian))
            }
            Sockets.limit(number, milliseconds: 100)
            return SharedDescriptor(Descriptor(owning: number))
        }
        let index = try namespace.run { try NetlinkSocket.index(of: link) }
        try DedicatedThread.start(name: "capture") { [self] in
            var bytes = [UInt8](repeating: 0, count: 2_048)
            var (quiet, from) = (0, sockaddr_ll())
            while quiet < 3 {
                var length = socklen_t(MemoryLayout<sockaddr_ll>.size)
                let count = withUnsafeMutablePointer(to: &from) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        recvfrom(socket.number, &bytes, bytes.count, 0, $0, &length)
                    }
                }
                guard count > 0 else {
                    quiet = isStopped.load(ordering: .relaxed) ? quiet + 1 : 0
                    continue
                }
                // PACKET_OUTGOING of this link; IPv4 without options, UDP, port 53.
                let isQuery =
                    from.sll_pkttype == 4 && from.sll_ifindex == index && bytes[0] == 0x45 && bytes[9] == 17
                    && bytes[22] == 0 && bytes[23] == 53
                if isQuery, let query = DoubleQuery(Array(bytes[28..<count])) {
                    names.withLock { $0.append("\(query.name) \(query.type)") }
                }
            }
            isDone.store(true, ordering: .releasing)
        }
    }

    /// - Returns: name and type of each query.
    func end() -> [String] {
        isStopped.store(true, ordering: .relaxed)
        while !isDone.load(ordering: .acquiring) { usleep(10_000) }
        return names.withLock { $0 }
    }
}

extension String {
    fileprivate var trimmed: String { String(split(whereSeparator: \.isWhitespace).joined(separator: " ")) }
}
