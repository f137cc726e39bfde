import APIDouble
import FoundationEssentials
import Glibc
import HashTreeCollections
import KnetCore
import TestSupport
import Testing

@testable import KnetKubernetes

/// How many random runs: `make nightly` asks for many more.
private let runs = getenv("KNETD_RANDOM_RUNS").flatMap { Int(String(cString: $0)) } ?? 200

@Suite struct FollowTests {
    /// Whatever a server, a proxy or the network does meanwhile: in the end the state is the server's.
    @Test func whateverHappensTheStateEndsAsTheServers() async throws {
        let seeds = (0..<runs).map { _ in UInt64.random(in: 0...UInt64.max) }
        try await withKubeconfig { kubeconfig in
            for (number, seed) in seeds.enumerated() {
                try await follow(seed, isProtobuf: number % 4 != 0, kubeconfig)
                if number % 1000 == 999 { print("\(number + 1) runs") }
            }
        }
    }

    private func follow(_ seed: UInt64, isProtobuf: Bool, _ kubeconfig: String) async throws {
        var random = SeededGenerator(seed: seed)
        var options = APIDouble.Options()
        options.watchList = Bool.random(using: &random)
        options.refusesOldWatches = Bool.random(using: &random)
        options.bookmarkInterval = .milliseconds(20)
        options.logsRequests = false
        options.threads = 1
        let double = try await APIDouble.start(options)
        double.register(.clusterNetworkPolicies)
        for _ in 0..<20 { try Example.change(double, &random) }
        let share: Double = [0, 0.02, 0.1].randomElement(using: &random) ?? 0
        double.faults = .everything(share, seed: seed)
        double.faults.longestDelay = .milliseconds(20)
        double.faults.retryAfterSeconds = 0
        let follower = Follower(double, isProtobuf: isProtobuf, kubeconfig: kubeconfig)
        let rest = UInt64.random(in: 0...UInt64.max, using: &random)
        try await follower.run {
            var random = SeededGenerator(seed: rest)
            // A second new history could have come just as far as what is known of the first: nobody can tell them apart.
            var isNewHistory = false
            for step in 0..<30 {
                try Example.change(double, &random)
                if step % 5 == 0 { try await Task.sleep(for: .milliseconds(Int.random(in: 0...10, using: &random))) }
                switch Int.random(in: 0..<60, using: &random) {
                case 0: double.compact()
                case 1: try await double.restart()
                case 2 where !isNewHistory:
                    isNewHistory = true
                    try await double.forgetEverything(objectsToo: Bool.random(using: &random))
                default: break
                }
            }
            double.faults = .none
            await follower.agrees(with: double, "seed \(seed)")
            // And it goes on from there.
            try Example.change(double, &random)
            await follower.agrees(with: double, "seed \(seed), afterwards")
        }
        await double.stop()
    }

    // MARK: One by one

    private func followed(
        _ options: APIDouble.Options = .init(), timing: Timing = Follower.quick,
        _ body: @Sendable (APIDouble, Follower) async throws -> Void
    ) async throws {
        try await withKubeconfig { kubeconfig in
            let double = try await APIDouble.start(options)
            try double.put(Example.object(.pod, "p", value: 1))
            let follower = Follower(double, kinds: [.pod], kubeconfig: kubeconfig, timing: timing)
            try await follower.run {
                await follower.agrees(with: double)
                try await body(double, follower)
            }
            await double.stop()
        }
    }

    @Test func theListIsStreamedWhereTheServerCan() async throws {
        try await followed { double, _ in
            #expect(double.requests.map(\.verb) == ["watch"])
            #expect(double.requests.first?.accept == "application/vnd.kubernetes.protobuf;stream=watch")
            #expect(double.requests.first?.userAgent == "knetd/test")
        }
    }

    @Test func aServerThatCannotStreamIsListedInParts() async throws {
        var options = APIDouble.Options()
        options.watchList = false
        try await withKubeconfig { kubeconfig in
            let double = try await APIDouble.start(options)
            for number in 0..<1200 { try double.put(Example.object(.pod, "pod-\(number)", value: number)) }
            let follower = Follower(double, kinds: [.pod], kubeconfig: kubeconfig)
            try await follower.run {
                await follower.agrees(with: double)
                #expect(await double.waitForWatches(of: [.pods]))
            }
            #expect(double.requests.map(\.verb).prefix(5) == ["watch", "list", "list", "list", "watch"])
            #expect(follower.reflectors[0].report.lists == 2, "one that was refused, and one in parts")
            await double.stop()
        }
    }

    @Test func aStreamThatFallsSilentIsLeft() async throws {
        try await followed { double, follower in
            double.faults.silence = 1
            try double.put(Example.object(.pod, "q", value: 1))
            #expect(await double.waitForSilence())
            double.faults = .none
            await follower.agrees(with: double)
            #expect(follower.reflectors[0].report.lists == 1, "history was not lost")
        }
    }

    @Test func deletionsThatWereMissedAreNoticed() async throws {
        try await followed { double, follower in
            await double.stop()
            double.delete(.pods, namespace: "shop", name: "p")
            try double.put(Example.object(.pod, "q", value: 1))
            double.compact()
            try await double.restart()
            await follower.agrees(with: double)
            #expect(follower.reflectors[0].report.lists == 2)
        }
    }

    @Test func aServerWithAnotherHistoryIsListedAnew() async throws {
        try await followed { double, follower in
            try await double.forgetEverything(objectsToo: true)
            try double.put(Example.object(.pod, "q", value: 2))
            await follower.agrees(with: double)
        }
    }

    @Test func anObjectWithADefectIsSkippedAndTheOthersGoOn() async throws {
        try await followed { double, follower in
            var bad = Example.object(.pod, "bad", value: 1).object ?? [:]
            bad["status"] = ["podIPs": [["ip": "nonsense"]]]
            try double.put(.object(bad))
            try double.put(Example.object(.pod, "q", value: 2))
            let deadline = ContinuousClock.now + .seconds(5)
            while follower.store.current.pods.count < 2, ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(2))
            }
            #expect(follower.store.current.pods.keys.map(\.name).sorted() == ["p", "q"])
            #expect(follower.faults == ["Pod/shop/bad: status.podIPs: \"nonsense\" is not an IP address"])
            double.delete(.pods, namespace: "shop", name: "bad")
            try double.put(Example.object(.pod, "r", value: 3))
            await follower.agrees(with: double)
            #expect(follower.faults.isEmpty)
        }
    }

    @Test func whoAsksTooMuchWaitsAsLongAsTheServerSays() async throws {
        try await followed { double, follower in
            double.faults.tooManyRequests = 1
            double.faults.retryAfterSeconds = 1
            double.forgetRequests()
            try await double.restart()
            try await Task.sleep(for: .milliseconds(900))
            let asked = double.requests.filter { $0.code == 429 }.count
            #expect((1...2).contains(asked), "\(asked) requests in 0.9 s")
            double.faults = .none
            await follower.agrees(with: double)
        }
    }

    @Test func aTokenThatIsRotatedIsTakenUp() async throws {
        let file =
            "\(FileManager.default.temporaryDirectory.path)/knetd-test-\(UInt32.random(in: 0...UInt32.max)).token"
        try Data("one\n".utf8).write(to: URL(fileURLWithPath: file))
        defer { unlink(file) }
        var options = APIDouble.Options()
        options.tokens = ["one"]
        try await withKubeconfig(user: "{tokenFile: \(file)}") { kubeconfig in
            let double = try await APIDouble.start(options)
            let follower = Follower(double, kinds: [.pod], kubeconfig: kubeconfig)
            try await follower.run {
                await follower.agrees(with: double)
                double.tokens = ["two"]
                try await double.restart()
                let deadline = ContinuousClock.now + .seconds(5)
                while follower.reflectors[0].report.trouble?.kind != .unauthorized, ContinuousClock.now < deadline {
                    try await Task.sleep(for: .milliseconds(2))
                }
                let trouble = try #require(follower.reflectors[0].report.trouble)
                #expect(trouble.description.contains("does not accept who asks (401); renew the token"))
                try Data("two\n".utf8).write(to: URL(fileURLWithPath: file), options: .atomic)
                try double.put(Example.object(.pod, "q", value: 1))
                await follower.agrees(with: double)
            }
            await double.stop()
        }
    }
}
