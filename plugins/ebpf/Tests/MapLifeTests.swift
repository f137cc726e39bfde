import CBPF
import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import Logging
import ServiceProxyPlugin
import TestSupport
import Testing

@testable import EBPFPlugin

/// What is done with maps and programs where something is not as it should be.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct MapLifeTests {
    /// One that goes on to none of the others would end the chain before ours.
    @Test func programsAreBeforeThoseOfOthers() throws {
        let hooks = ProgramHooks(refused: BPF.refused)
        if hooks == .filter { return }
        try ProgramBench.with { bench throws in
            // `r0 = 0; exit`: TC_ACT_OK.
            var code = [bpf_insn(), bpf_insn()]
            code[0].code = 0xB7
            code[1].code = 0x95
            let number = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "other", "GPL", &code, 2, nil)
            try BPF.check("load another's program", number)
            let other = Descriptor(owning: number)
            let ours = try #require(bench.object.programs[.fromPod])
            #expect(knet_tcx_attach(other.number, bench.links.a, -1) == 0)
            try hooks.attach(ours.descriptor.number, to: bench.links.a)
            var (ids, count) = ([UInt32](repeating: 0, count: 4), UInt32(4))
            #expect(knet_tcx_query(bench.links.a, &ids, &count) == 0)
            let another = try BPF.programInfo(other.number).id
            #expect(ids.prefix(Int(count)) == [ours.info.id, another])
            try hooks.detach(from: bench.links.a)
            count = 4
            #expect(knet_tcx_query(bench.links.a, &ids, &count) == 0)
            #expect(ids.prefix(Int(count)) == [another], "it is somebody else's")
        }
    }

    /// As after pods have gone while the daemon was away.
    @Test func podsWithoutLinksAreNotWaitedFor() throws {
        try NetworkNamespace.anonymous().run {
            _ = try ProgramBench.makeLink("knet-a")
            let kernel = PathKernel(EBPF.Settings(), pool: NetlinkPool(), logger: Logger(label: "test"))
            _ = try #require(kernel.object, "\(kernel.refusal ?? "")")
            let entries = (0..<20).map { PathEntry.program(.fromPod, link: "knet-gone\($0)", isCurrent: true) }
            let time = ContinuousClock().measure {
                #expect(kernel.apply(KernelChanges(add: entries)).failures.isEmpty)
            }
            // With the patience that devices of the transport have it would be six; emulated processors are slow.
            #expect(time < .seconds(2.5))
            #expect(kernel.faults.count == 4, "\(kernel.faults)")
        }
    }

    /// Where nobody can tell which pods there are, none has gone.
    @Test func nothingIsForgottenWherePodsCannotBeRead() throws {
        try ProgramBench.with { bench throws in
            let maps = bench.object.maps
            let (flows, translations) = (try #require(maps[.flows]), try #require(maps[.translations]))
            var (connection, flow) = (knet_connection(), knet_flow())
            connection.transport = UInt8(IPPROTO_TCP)
            flow.pods.0.link = 4711
            let key = withUnsafeBytes(of: connection) { Array($0) }
            try flows.set(key, withUnsafeBytes(of: flow) { Array($0) })
            // It has no keys to go through.
            let unreadable = FlowMaps(
                flows: flows, translations: translations, endpoints: try #require(maps[.events]))
            #expect(unreadable.forgetWhatIsOver().isEmpty)
            #expect(flows.value(key) != nil)
            let readable = FlowMaps(
                flows: flows, translations: translations, endpoints: try #require(maps[.endpoints]))
            #expect(readable.forgetWhatIsOver().count == 1)
            #expect(flows.value(key) == nil)
        }
    }

    /// As where a daemon is killed between two writes: a datagram would be led to an endpoint that is none.
    @Test func aMemberWithoutASlotGoes() throws {
        let object = try LoadedObject<SocketHook, SocketMap>(
            "socket.o", Embedded.socket, sizes: [.frontends: 16, .slots: 64, .members: 64], kept: [:])
        let members = try #require(object.maps[.members])
        let maps = FrontendMaps(
            try #require(object.maps[.frontends]), slots: try #require(object.maps[.slots]), members: members)
        let id = PlainFrontend.ID(transport: 17, address: try #require(IPAddress("10.96.0.1")), port: 53)
        func slot(_ number: UInt32, _ host: UInt32) -> PlainFrontend.Slot {
            .init(number: number, address: .v4(0x0A2A_0100 + host), port: 5353)
        }
        let wanted = PlainFrontend(id: id, size: 2, slots: [slot(0, 2), slot(2, 2)])
        try maps.set(wanted, replacing: nil, SocketForm.number(2))
        #expect(try maps.read() == [wanted])
        let orphan = SocketForm.member(slot(0, 9), of: id)
        try members.set(orphan, SocketForm.number(1))
        var found = try maps.read()
        #expect(found.count == 1 && found != [wanted], "it shows")
        try maps.set(wanted, replacing: found.first, SocketForm.number(2))
        #expect(try maps.read() == [wanted])
        #expect(members.keys == [SocketForm.member(slot(0, 2), of: id)])
        // Without a frontend too.
        try maps.remove(wanted)
        try members.set(orphan, SocketForm.number(1))
        found = try maps.read()
        #expect(found.map(\.size) == [0])
        for frontend in found { try maps.remove(frontend) }
        #expect(members.keys.isEmpty)
        #expect(try maps.read().isEmpty)
    }
}
