import KnetCore
import KnetLinux
import Logging
import TestSupport
import Testing

@testable import EBPFPlugin

/// Streams look for their pods again when the daemon says that these may have changed.
@Suite(.enabled(if: Root.isAvailable)) struct GenerationTests {
    @Test func anotherOneBeginsWhereAnEndpointChangesOrGoes() throws {
        try NetworkNamespace.anonymous().run {
            _ = try (ProgramBench.makeLink("knet-a"), ProgramBench.makeLink("knet-b"))
            let kernel = PathKernel(EBPF.Settings(), pool: NetlinkPool(), logger: Logger(label: "test"))
            let map = try #require(kernel.object?.maps[.settings], "\(kernel.refusal ?? "")")
            var known: UInt32 = 0
            /// Whether it is another one than before.
            func isAnother() throws -> Bool {
                let now = try #require(map.value([0, 0, 0, 0]).flatMap(MapForm.settings)).generation
                defer { known = now }
                return now != known
            }
            func add(_ entry: PathEntry) { #expect(kernel.apply(KernelChanges(add: [entry])).failures.isEmpty) }
            let address = try #require(IPAddress("10.42.1.2"))
            func endpoint(_ link: String, _ number: UInt64 = 2) -> PathEntry {
                .endpoint(
                    address, link: link, podMAC: MACAddress(number: number), hostMAC: ProgramBench.hostMAC)
            }
            #expect(try isAnother(), "none is 0")
            add(endpoint("knet-a"))
            add(endpoint("knet-a"))
            add(.settings(PathSettings(isPoliced: true)))
            #expect(try !isAnother())
            add(endpoint("knet-b"))
            #expect(try isAnother())
            add(endpoint("knet-b", 3))
            #expect(try isAnother())
            _ = kernel.apply(KernelChanges(remove: [endpoint("knet-b", 3)]))
            #expect(try isAnother())
            _ = kernel.apply(KernelChanges(remove: [.settings(PathSettings(isPoliced: true))]))
            #expect(try !isAnother())
            #expect(try kernel.read().isEmpty)
        }
    }
}
