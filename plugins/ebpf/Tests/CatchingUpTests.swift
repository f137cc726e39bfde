import CKnetBPF
import KnetCore
import KnetLinux
import Logging
import TestSupport
import Testing

@testable import EBPFPlugin

/// Programs with other maps take the place of older ones, which go on to note connections until each of them is replaced.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct CatchingUpTests {
    private typealias Stage = BalanceStage
    private static let (syn, ack, rst) = (TestPacket.Flags.syn, TestPacket.Flags.ack, TestPacket.Flags.rst)

    /// The stack would send it to an endpoint of its own choice. All else goes where it always goes.
    @Test func whatMayBeOfAnUnknownStreamIsSentAgain() throws {
        for isRemote in [false, true] {
            try Stage.with({ [isRemote ? $0.remote : $0.b] }) { stage throws in
                let maps = stage.bench.object.maps
                let answer = try BalanceAnswerTests.ways(stage, isRemote: isRemote, Self.syn)[0]
                func forget() throws {
                    for key in maps[.translations]?.keys ?? [] { try maps[.translations]?.remove(key) }
                }
                func become(_ packet: TestPacket, _ role: PathRole = .fromOutside) throws -> UInt32? {
                    try stage.bench.run(packet.summed.bytes, role, on: role == .fromPod ? answer.link : stage.uplink)?
                        .verdict
                }
                for isCatchingUp in [true, false] {
                    try forget()
                    try stage.setCatchingUp(isCatchingUp)
                    let before = stage.bench.count(.dropped)
                    let outcome = isCatchingUp ? ProgramBench.shot : ProgramBench.stack
                    for flags in [Self.ack, Self.rst, Self.syn | Self.ack] {
                        #expect(try become(stage.packet(flags)) == outcome)
                    }
                    #expect(try become(answer.packet, answer.role) == outcome)
                    #expect(stage.bench.count(.dropped) == before + (isCatchingUp ? 4 : 0))
                    // Of no Service, of the node itself, an error, and what cannot be in a stream's midst.
                    var other = stage.packet(Self.ack)
                    other.payload[3] += 1
                    #expect(try become(other) == ProgramBench.stack)
                    other = stage.packet(Self.ack)
                    other.destination = stage.router
                    #expect(try become(other) == ProgramBench.stack)
                    #expect(try become(stage.packet(Self.ack).answer.error) == ProgramBench.stack)
                    #expect(try become(stage.packet()) == ProgramBench.redirect)
                    #expect(try become(stage.packet(Self.syn)) == ProgramBench.redirect)
                    #expect(try become(stage.packet(Self.ack)) == ProgramBench.redirect, "it is known now")
                    #expect(stage.bench.count(.dropped) == before + (isCatchingUp ? 4 : 0))
                }
            }
        }
    }

    /// From the moment at which the new ones are there until the last of the old ones is gone; and what those noted meanwhile is known.
    @Test func programsWithOtherMapsCatchUp() throws {
        try NetworkNamespace.anonymous().run {
            let links = try ["knet-a", "knet-b"].map { name in
                _ = try ProgramBench.makeLink(name)
                return name
            }
            let pool = NetlinkPool()
            func programs() -> [PathEntry] {
                [
                    .program(.fromOutside, link: links[1], isCurrent: true),
                    .program(.fromPod, link: links[0], isCurrent: true),
                ]
            }
            func kernel(_ flows: Int) throws -> (PathKernel, LoadedObject<PathRole, PathMap>) {
                let kernel = PathKernel(EBPF.Settings(flows: flows), pool: pool, logger: Logger(label: "test"))
                return (kernel, try #require(kernel.object, "\(kernel.refusal ?? "")"))
            }
            func isCatchingUp(_ object: LoadedObject<PathRole, PathMap>) throws -> Bool {
                try #require(object.maps[.settings]?.value([0, 0, 0, 0]).flatMap(MapForm.settings)).isCatchingUp
            }
            let (first, old) = try kernel(4096)
            #expect(try !isCatchingUp(old), "there is none before")
            #expect(first.apply(KernelChanges(add: programs())).failures.isEmpty)
            let (second, same) = try kernel(4096)
            #expect(try !isCatchingUp(same), "these go on with the same maps")
            #expect(try Set(second.read()).isSuperset(of: programs()), "and with the same programs")
            #expect(second.apply(KernelChanges(add: programs())).failures.isEmpty)

            let (third, new) = try kernel(8192)
            #expect(try isCatchingUp(new))
            var connection = knet_connection()
            connection.transport = 6
            let key = withUnsafeBytes(of: connection) { Array($0) }
            try old.maps[.flows]?.set(key, [UInt8](repeating: 1, count: MemoryLayout<knet_flow>.size))
            // What needs no program does not end it.
            #expect(third.apply(KernelChanges(add: [.settings(PathSettings(isTold: true))])).failures.isEmpty)
            #expect(try isCatchingUp(new) && new.maps[.flows]?.value(key) == nil)
            #expect(third.apply(KernelChanges(add: programs())).failures.isEmpty)
            #expect(try !isCatchingUp(new) && new.maps[.flows]?.value(key) != nil)
            #expect(try third.read().contains(.settings(PathSettings(isTold: true))))
        }
    }
}
