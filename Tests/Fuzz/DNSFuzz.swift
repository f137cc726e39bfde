import HashTreeCollections
import KnetCore

@testable import DNSPlugin

// libFuzzer's entrance (https://llvm.org/docs/LibFuzzer.html). The first byte says what the rest is: a client's query, or an upstream's
// reply. A trap is a finding.

private let zone: Zone = {
    let domain = DomainName("cluster.local") ?? .root
    var zone = Zone(domains: [domain])
    zone.isComplete = true
    var spec = Service.Spec(clusterIP: "10.96.0.11", clusterIPs: ["10.96.0.11", "fd96::b"])
    spec.ports = [.init(name: "http", protocol: "TCP", port: 80, targetPort: nil, nodePort: nil)]
    let service = Service(metadata: Metadata(name: "web", namespace: "default"), spec: spec)
    let names = ServiceNames(service, slices: [], in: domain, isPrimary: true, into: NameTable(ttl: 5))
    for part in [names?.table.part, DomainNames.part(namespace: "default", in: [domain], withPods: true)] {
        if let part { zone.insert(part) }
    }
    return zone
}()

private let pod = IPAddress.v4(0x0A2A_0007)
nonisolated(unsafe) private let resolver = Resolver(cache: AnswerCache(.init()), walks: SearchWalks())
nonisolated(unsafe) private let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 1_232, alignment: 8)
private let contents: Contents = {
    var contents = Contents(zone: zone)
    contents.trustsPodNames = true
    contents.clients[pod] = Client(title: "default/p", namespace: "default", domains: zone.domains)
    return contents
}()
private let question = Question(DomainName("www.example.com") ?? .root, RecordType.a)
nonisolated(unsafe) private var round: Int64 = 0

@_silgen_name("LLVMFuzzerRunDriver")
private func runFuzzer(
    _ count: UnsafeMutablePointer<CInt>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ body: @convention(c) (UnsafePointer<UInt8>, Int) -> CInt
) -> CInt

/// The package manager links `main` to this name.
@_cdecl("dns_fuzz_main")
public func main(_ count: CInt, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> CInt {
    var (count, arguments) = (count, arguments)
    return runFuzzer(&count, &arguments, fuzz)
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    guard count > 0 else { return 0 }
    let message = UnsafeRawBufferPointer(start: start + 1, count: count - 1)
    if start[0] & 1 == 0 { answer(message) } else { read(message) }
    return 0
}

private func answer(_ query: UnsafeRawBufferPointer) {
    round += 1
    var material = Resolver.Material(contents: contents, now: round)
    while true {
        switch resolver.answer(query, from: pod, isDatagram: true, with: material, into: room) {
        case .ignore: return
        case .send(let length):
            precondition(length >= Query.headerLength && length <= room.count)
            return
        case .fetch(let question):
            precondition(material.fetched.count < 24)
            let code: ResponseCode = question.name.wire.count % 2 == 0 ? .nameError : .serverFailure
            material.fetched.append((question, .init(answer: .failure(code, lifetime: 1), age: 0)))
        }
    }
}

private func read(_ reply: UnsafeRawBufferPointer) {
    guard
        case .answer(let held) = UpstreamReply(
            reply, to: question, id: reply.count > 1 ? reply.short(0) : 0, lifetimes: .init())
    else { return }
    let message = QueryMessage.bytes(question, id: 9, withEDNS: true)
    withUnsafeTemporaryAllocation(byteCount: 256, alignment: 8) { name in
        message.withUnsafeBytes { bytes in
            guard case .query(let query) = Query.read(bytes, name: name) else { return }
            var answer = Answer(to: query, bytes, into: room, limit: 512)
            answer.append(held, age: 1, stale: nil)
            let length = answer.finish()
            precondition(length <= 512)
            let sent = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(room)[..<length])
            precondition(ReplyRecord.all(sent, from: query.questionEnd) != nil)
        }
    }
}
