import APIDouble
import AsyncHTTPClient
import FoundationEssentials
import KnetCore
import NIOCore
import NIOHTTP1
import NIOSSL
import Testing

/// Sends requests as they are and reads answers as they come.
struct Client: Sendable {
    let server: APIDouble
    let http: HTTPClient
    var headers: [(String, String)] = []

    static let json = "application/json"
    static let protobuf = "application/vnd.kubernetes.protobuf"
    static let mergePatch = "application/merge-patch+json"
    static let strategicPatch = "application/strategic-merge-patch+json"

    struct Answer {
        let code: Int
        let headers: [String: String]
        let body: [UInt8]

        var json: JSONValue? { try? JSONValue(parsing: Data(body)) }
        var text: String { String(decoding: body, as: UTF8.self) }
    }

    /// Runs `body` with a server and a client of it, and closes both.
    static func with(
        _ options: APIDouble.Options = APIDouble.Options(), _ body: (Client) async throws -> Void
    ) async throws {
        let server = try await APIDouble.start(options)
        var configuration = HTTPClient.Configuration()
        if options.tls != nil {
            var tls = TLSConfiguration.makeClientConfiguration()
            tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(TestCertificates.authority.utf8)))
            configuration.tlsConfiguration = tls
        }
        try await with(server, configuration, body)
    }

    static func with(
        _ server: APIDouble, _ configuration: HTTPClient.Configuration, _ body: (Client) async throws -> Void
    ) async throws {
        let http = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        let outcome: Result<Void, any Error>
        do { outcome = .success(try await body(Client(server: server, http: http))) } catch {
            outcome = .failure(error)
        }
        try await http.shutdown()
        await server.stop()
        try outcome.get()
    }

    struct Stream {
        let code: Int
        let headers: [String: String]
        let body: HTTPClientResponse.Body
    }

    func get(_ path: String, accept: String = json) async throws -> Answer {
        try await request("GET", path, accept: accept)
    }

    func request(
        _ method: String, _ path: String, accept: String = json, body: JSONValue? = nil, contentType: String = json
    ) async throws -> Answer {
        let stream = try await begin(path, method, accept: accept, body: body, contentType: contentType)
        let bytes = try await stream.body.collect(upTo: 1 << 26)
        return Answer(code: stream.code, headers: stream.headers, body: Array(bytes.readableBytesView))
    }

    /// Sends a request and returns when its answer begins.
    func begin(
        _ path: String, _ method: String = "GET", accept: String = json, body: JSONValue? = nil,
        contentType: String = json
    ) async throws -> Stream {
        var request = HTTPClientRequest(url: server.url + path)
        request.method = HTTPMethod(rawValue: method)
        request.headers.add(name: "Accept", value: accept)
        for (name, value) in headers { request.headers.add(name: name, value: value) }
        if let body {
            request.headers.add(name: "Content-Type", value: contentType)
            request.body = .bytes(Array(body.text().utf8))
        }
        let response = try await http.execute(request, timeout: .seconds(20))
        let fields = response.headers.map { ($0.name, $0.value) }
        return Stream(
            code: Int(response.status.code), headers: Dictionary(fields) { first, _ in first }, body: response.body)
    }

    /// The events of a watch, one JSON value each, until `count` of them have come or the stream is over.
    /// - Parameter then: is run once the watch is open.
    func watch(
        _ path: String, count: Int = .max, then: () throws -> Void = {}
    ) async throws -> [JSONValue] {
        let response = try await begin(path)
        #expect(response.code == 200)
        try then()
        var events: [JSONValue] = []
        var lines = LineReader()
        for try await chunk in response.body {
            for line in lines.read(chunk) {
                events.append(try JSONValue(text: line))
                if events.count == count { return events }
            }
        }
        return events
    }
}

extension JSONValue {
    init(text: String) throws { try self.init(parsing: Data(text.utf8)) }

    /// `self[first][second]…`.
    func at(_ path: String...) -> JSONValue? { path.reduce(self) { value, key in value?[key] } }

    var name: String? { at("metadata", "name")?.string }
    var revision: Int? { at("metadata", "resourceVersion")?.string.flatMap { Int($0) } }
    var names: [String?] { self["items"]?.array?.map(\.name) ?? [] }

    /// `ADDED a`, of a watch event; of a bookmark `BOOKMARK end` at the end of the initial events.
    var line: String {
        let endsInitialEvents = at("object", "metadata", "annotations", "k8s.io/initial-events-end")?.string == "true"
        let subject =
            at("object", "metadata", "name")?.string ?? (endsInitialEvents ? "end" : nil)
            ?? at("object", "code")?.integer.map { "\($0)" }
        return [self["type"]?.string, subject].compactMap { $0 }.joined(separator: " ")
    }
}
