import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// The benchmark program runs and tells all that it should. Whether a figure is good is for people to judge, not for a test.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct BenchmarkTests {
    private func benchmark(_ arguments: String...) throws -> ChildProcess.Outcome {
        try ChildProcess.run(
            Checkout.benchmark, ["--quick", "--knetd", Checkout.executable] + arguments, seconds: 180)
    }

    private static let figures = [
        "cni.add", "cni.del", "cni.del.gone", "cni.add.at-once", "cni.del.at-once", "cni.add.all", "cni.del.all",
        "cni.del.gone.all", "cni.dual.add", "cni.dual.del", "cni.dual.del.gone", "path.same.throughput",
        "path.same.cost", "path.same.throughput.one-processor", "path.same.request", "path.same.request.alone",
        "path.same.request.rate",
        "path.same.request.rate.free", "path.same.connect", "path.same.connect.rate", "path.cross.throughput",
        "path.cross.cost", "path.cross.throughput.one-processor", "path.cross.request", "path.cross.request.alone",
        "path.cross.request.rate",
        "path.cross.request.rate.free",
        "path.cross.connect", "path.cross.connect.rate",
        "path.service.throughput", "path.service.cost", "path.service.throughput.one-processor", "path.service.request",
        "path.service.request.alone",
        "path.service.request.rate", "path.service.request.rate.free", "path.service.connect",
        "path.service.connect.rate", "start.ready", "start.resident", "start.anonymous",
        "start.size", "api.complete", "api.work", "api.peak", "api.steady", "api.anonymous", "api.change", "api.delay",
        "services.cold", "services.change", "services.work", "services.elements", "services.memory", "services.connect",
        "dns.rate", "dns.work", "dns.serial", "dns.memory", "dns.allocations", "dns.change",
        "policies.cold", "policies.change", "policies.work", "policies.elements", "policies.memory",
        "policies.path.throughput", "policies.path.cost", "policies.path.throughput.one-processor",
        "policies.path.request", "policies.path.request.alone", "policies.path.request.rate",
        "policies.path.request.rate.free",
        "policies.path.connect", "policies.path.connect.rate",
    ]

    @Test func everyTableIsThereAndEveryRowHasFiguresOrAReason() throws {
        let outcome = try benchmark("--json")
        #expect(outcome.status == 0, "\(outcome.errors)")
        let report = try JSONValue(parsing: Data(outcome.output.utf8))
        #expect(report["host"]?["kernel"]?.string?.isEmpty == false)
        let tables = report["tables"]?.array ?? []
        #expect(tables.map { $0["id"]?.string } == Self.figures)
        for row in tables.flatMap({ $0["rows"]?.array ?? [] }) {
            let isMeasured = (row["n"]?.integer ?? 0) > 0 && row["p50"] != .null && row["p99"] != .null
            #expect(isMeasured != (row["reason"]?.string != nil), "\(row.text())")
            #expect(row["unit"]?.string?.isEmpty == false && row["ratio"] != nil, "\(row.text())")
        }
        for table in tables { #expect((table["rows"]?.array ?? []).count >= 1, "\(table.text())") }
        let targets = report["targets"]?.array ?? []
        #expect(targets.count == 47 && targets.allSatisfy { $0["verdict"]?.string != nil })
    }

    @Test func whatIsMissingIsSkippedWithItsReason() throws {
        let outcome = try benchmark("--only", "cni", "--reference-plugins", "/nonexistent")
        #expect(outcome.status == 0, "\(outcome.errors)")
        #expect(outcome.output.contains("skipped: there is no /nonexistent/bridge"), "\(outcome.output)")
        #expect(outcome.output.contains("CNI ADD") && !outcome.output.contains("TCP"), "\(outcome.output)")
    }

    @Test func nothingIsLeftBehindByARunThatIsInterrupted() throws {
        let log = "\(FileManager.default.temporaryDirectory.path)/knetd-bench-\(UInt32.random(in: 0...UInt32.max)).log"
        defer { unlink(log) }
        let process = try ChildProcess.start(
            Checkout.benchmark, ["--quick", "--only", "path", "--knetd", Checkout.executable], in: nil, log: log)
        let playground = "bench-\(process)-1"
        try eventually(within: 20) { Self.isListed(playground, in: "/run/knetd-playground") }
        #expect(Self.isListed("knetd-bench-\(process)", in: "/run"))
        kill(process, SIGINT)
        var status: Int32 = 0
        #expect(waitpid(process, &status, 0) == process && status == 1 << 8)
        // Folders in which something is still mounted could not have been removed.
        #expect(!Self.isListed(playground, in: "/run/knetd-playground"))
        #expect(!Self.isListed("knetd-bench-\(process)", in: "/run"))
        #expect(try String(contentsOf: URL(fileURLWithPath: log), encoding: .utf8).contains("interrupted"))
    }

    private static func isListed(_ name: String, in folder: String) -> Bool {
        ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []).contains(name)
    }
}
