import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Measures the DNS module beside unbound and knot with the same names, in the same namespace, on the same processor.
struct DNSSection {
    private let stage: Stage
    private let sizes: [Int]
    private let seconds: Int
    private let rounds: Int
    private let serial: Int

    init(_ stage: Stage) {
        self.stage = stage
        let quick = stage.options.isQuick
        sizes = quick ? [100] : [1_000, 10_000]
        seconds = quick ? 1 : 3
        rounds = quick ? 1 : 3
        serial = quick ? 100 : 10_000
    }

    static func row(_ server: String, _ kind: DNSContents.Kind, _ size: Int) -> String {
        "\(server): \(kind.rawValue), \(size) services"
    }

    private struct Collectors {
        var rate = Collector()
        var work = Collector()
        var serial = Collector()
        var memory = Collector()
        var allocations = Collector()
        var change = Collector()
    }

    func measure() throws -> [Table] {
        var figures = Collectors()
        figures.memory.add(Self.memoryRow(Self.withModule, 0), [try memory(DNSContents(services: 0), hasDNS: true)])
        for size in sizes { try measure(DNSContents(services: size), &figures) }
        figures.change = try DNSChanges(stage, services: sizes.last ?? 0).measure()
        return [
            Table(
                id: "dns.rate", title: "Queries a second, one thread on one processor", unit: "1/s",
                rows: figures.rate.rows,
                remark: "dnsperf has the other processor, and is the limit where servers are alike"),
            Table(
                id: "dns.work", title: "Processor time of the server for a query, in the same seconds", unit: "µs",
                rows: figures.work.rows,
                remark: "what a whole processor would answer, whoever asks: the targets are by this"),
            Table(
                id: "dns.serial", title: "From query to answer, one after the other, both ends on one processor",
                unit: "µs",
                rows: figures.serial.rows),
            Table(id: "dns.memory", title: "Resident memory", unit: "MiB", rows: figures.memory.rows),
            Table(
                id: "dns.allocations", title: "What is allocated for a query", unit: "allocations",
                rows: figures.allocations.rows),
            Table(
                id: "dns.change", title: "From a changed Service in the cluster's state to the first answer with it",
                unit: "ms",
                rows: figures.change.rows),
        ]
    }

    static func memoryRow(_ server: String, _ size: Int) -> String { "\(server), \(size) services" }

    /// A knetd that nobody asked yet; one that was asked has answers of others too.
    static let withModule = "knetd, before any query"
    /// The same cluster in a knetd without the module.
    static let withoutModule = "knetd without dns"

    private func memory(_ contents: DNSContents, hasDNS: Bool) throws -> Double {
        let playground = try node(contents, counter: nil, hasDNS: hasDNS)
        defer { playground.down() }
        // What reading them took is given back a while later.
        if contents.services > 0 { sleep(3) }
        return try Memory.held(by: playground.process(of: "node1")).first { $0.0 == .resident }?.1 ?? 0
    }

    private func node(
        _ contents: DNSContents, counter: AllocationCounter?, hasDNS: Bool = true
    ) throws -> Playground {
        let dns: JSONValue = ["threads": 1, "upstreams": [.string(DNSServer.upstream)], "listen": ["169.254.20.10"]]
        let playground = try stage.playground(
            "dns", nodes: 1,
            [
                "network": Stage.onlyFour,
                "plugins": hasDNS ? ["overlay": [:], "dns": dns] : ["overlay": [:]],
            ], daemon: counter?.environment ?? [:])
        try Data(contents.manifests.text().utf8).write(
            to: URL(fileURLWithPath: "\(playground.manifests)/services.json"), options: .atomic)
        try playground.addPod("c", node: "node1")
        return playground
    }

    private func measure(_ contents: DNSContents, _ figures: inout Collectors) throws {
        let size = contents.services
        try Progress.step("dns: \(size) services")
        let folder = "\(stage.directory)/dns-\(size)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let counter = try AllocationCounter(folder: folder)
        let playground = try node(contents, counter: counter)
        defer { playground.down() }
        let namespace = try playground.namespace("node1")
        try DNSServer.prepare(namespace)
        var servers = [DNSServer.running(playground)]
        defer { for server in servers { server.stop() } }
        for make in [DNSServer.startKnot, DNSServer.startUnbound] {
            do {
                servers.append(try make(contents, folder, namespace))
            } catch let missing as DNSServer.Missing {
                for kind in DNSContents.Kind.allCases {
                    figures.rate.end(Self.row(missing.program, kind, size), .skipped("\(missing)"))
                }
            }
        }
        let client = DNSClient(namespace: try playground.namespace("c"), folder: folder)
        for server in servers {
            try wait(for: server, client, contents)
            try server.pin()
        }
        for (number, kind) in DNSContents.Kind.allCases.enumerated() {
            let queries = contents.queries(kind)
            guard kind != .external || servers.contains(where: { $0.name == DNSServer.knot }) else {
                figures.rate.end(
                    Self.row(DNSServer.knetd, kind, size), .skipped("knot, which knows them, is not installed"))
                continue
            }
            // What is held must have been asked for once.
            for server in servers { _ = try client.serial(server, queries, count: min(queries.count, 1_000)) }
            for round in 0..<rounds {
                for index in servers.indices {
                    try Progress.check()
                    let server = servers[(index + round + number) % servers.count]
                    let row = Self.row(server.name, kind, size)
                    let before = counter.count
                    let start = try ProcessorTime.milliseconds(of: server.process)
                    let rate = try client.rate(server, queries, seconds: seconds)
                    let spent = try ProcessorTime.milliseconds(of: server.process) - start
                    figures.work.add(row, [spent * 1000 / (rate * Double(seconds))])
                    if server.name == DNSServer.knetd {
                        figures.allocations.add(row, [Double(counter.count - before) / (rate * Double(seconds))])
                    }
                    figures.rate.add(row, [rate])
                    figures.serial.add(row, try client.serial(server, queries, count: serial))
                }
            }
        }
        figures.memory.add(Self.memoryRow(Self.withModule, size), [try memory(contents, hasDNS: true)])
        figures.memory.add(Self.memoryRow(Self.withoutModule, size), [try memory(contents, hasDNS: false)])
        for server in servers {
            let memory = try Memory.held(by: server.process).first { $0.0 == .resident }?.1
            figures.memory.add(Self.memoryRow(server.name, size), memory.map { [$0] } ?? [])
        }
    }

    private func wait(for server: DNSServer, _ client: DNSClient, _ contents: DNSContents) throws {
        let last = ["service-\(contents.services - 1).default.svc.cluster.local A"]
        let deadline = ContinuousClock.now + .seconds(30)
        while true {
            do {
                _ = try client.serial(server, last, count: 1)
                return
            } catch {
                guard ContinuousClock.now < deadline else { throw error }
                usleep(100_000)
            }
        }
    }
}

/// Counts the allocations of a program by a library that comes before the C library's.
final class AllocationCounter {
    let environment: [String: String]
    private let file: Data

    private static let source = """
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <fcntl.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <unistd.h>
        static long spare, *count = &spare;
        __attribute__((constructor)) static void open_counter(void) {
            int file = open(getenv("ALLOCATIONS"), O_RDWR);
            void *page = file < 0 ? MAP_FAILED : mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (page != MAP_FAILED) count = page;
        }
        extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
        void *malloc(size_t size) { __atomic_add_fetch(count, 1, __ATOMIC_RELAXED); return __libc_malloc(size); }
        void *calloc(size_t n, size_t size) { __atomic_add_fetch(count, 1, __ATOMIC_RELAXED); return __libc_calloc(n, size); }
        void *realloc(void *old, size_t size) { __atomic_add_fetch(count, 1, __ATOMIC_RELAXED); return __libc_realloc(old, size); }

        """

    init(folder: String) throws {
        let (library, page) = ("\(folder)/allocations.so", "\(folder)/allocations")
        try Data(Self.source.utf8).write(to: URL(fileURLWithPath: "\(folder)/allocations.c"))
        try Data(count: 4_096).write(to: URL(fileURLWithPath: page))
        let compiled = try ChildProcess.run(
            "/bin/sh",
            ["-c", "$(command -v clang || command -v cc) -O2 -shared -fPIC \(folder)/allocations.c -o \(library)"])
        guard compiled.status == 0 else {
            throw Playground.Failure("allocations cannot be counted: \(compiled.errors)")
        }
        environment = ["LD_PRELOAD": library, "ALLOCATIONS": page]
        file = try Data(contentsOf: URL(fileURLWithPath: page), options: .alwaysMapped)
    }

    var count: Int { file.withUnsafeBytes { $0.loadUnaligned(as: Int.self) } }
}
