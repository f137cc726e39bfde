import HashTreeCollections
import KnetCore

/// A query of a person: the answer, and where it comes from.
struct Explanation {
    struct Refused: Error, CustomStringConvertible {
        let description: String
    }

    private let name: DomainName
    private let type: UInt16
    private let client: IPAddress?

    /// - Parameter words: a name, a type, and a pod.
    init(_ words: [String], in state: ClusterState) throws {
        guard let text = words.first, let name = DomainName(text) else {
            throw Refused(description: "\"\(words.first ?? "")\" is no domain name")
        }
        let typeName = words.count > 1 ? words[1] : "A"
        guard let type = RecordType.number(typeName) else {
            throw Refused(
                description: "\"\(typeName)\" is no type of records; say A, AAAA, SRV, PTR, TXT or TYPE and a number")
        }
        self.name = name
        self.type = type
        guard words.count > 2 else {
            client = nil
            return
        }
        let pods = state.attachments.values.filter { $0.title == words[2] || $0.podName == words[2] }
        guard let address = pods.first?.addresses.first else {
            let known = Spelling.nearest(to: words[2], among: state.attachments.values.map(\.title))
            throw Refused(
                description: "there is no pod \"\(words[2])\" on this node"
                    + (known.map { "; did you mean \($0)?" } ?? ""))
        }
        client = address
    }

    func json(_ recursor: Recursor) async throws -> JSONValue {
        let query = QueryMessage.bytes(Question(name, type), id: 1, withEDNS: true)
        let answer = await recursor.answer(query, from: client, refuses: false, isDatagram: false, trace: [])
        guard let ((bytes, facts), steps) = answer else { throw Refused(description: "there was no answer") }
        let records = bytes.withUnsafeBytes { message in
            ReplyRecord.all(message, from: query.count - Answer.optLength).map { $0.answers + $0.authorities } ?? []
        }
        return [
            "name": .string("\(name)"), "type": .string(RecordType.name(type)), "code": .string(facts.code.name),
            "records": .array(records.map { .string($0.text) }), "steps": .array(steps.map(JSONValue.string)),
        ]
    }
}

extension ReplyRecord {
    /// As in a zone file.
    var text: String { "\(name) \(ttl) \(RecordType.name(type)) \(content)" }

    private var content: String {
        switch type {
        case RecordType.a, RecordType.aaaa: IPAddress(bytes: data).map { "\($0)" } ?? unknown
        case RecordType.cname, RecordType.ns, RecordType.ptr: "\(DomainName(asWritten: data))"
        case RecordType.srv where data.count > 6:
            data.withUnsafeBytes { "\($0.short(0)) \($0.short(2)) \($0.short(4))" }
                + " \(DomainName(asWritten: Array(data[6...])))"
        case RecordType.mx where data.count > 2:
            data.withUnsafeBytes { "\($0.short(0))" } + " \(DomainName(asWritten: Array(data[2...])))"
        case RecordType.soa:
            "\(DomainName(asWritten: data)) serial \(data.suffix(20).withUnsafeBytes { $0.count == 20 ? $0.long(0) : 0 })"
        case RecordType.txt: strings.map { "\"\($0)\"" }.joined(separator: " ")
        default: unknown
        }
    }

    /// As RFC 3597 §5 has it.
    private var unknown: String {
        "\\# \(data.count) " + data.map { String(UInt16(0x100) + UInt16($0), radix: 16).suffix(2) }.joined()
    }

    private var strings: [String] {
        var (strings, rest) = ([String](), data[...])
        while let length = rest.popFirst() {
            strings.append(String(decoding: rest.prefix(Int(length)), as: UTF8.self))
            rest = rest.dropFirst(Int(length))
        }
        return strings
    }
}
