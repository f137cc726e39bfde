import NIOCore
import NIOHTTP1
import Synchronization

/// How a connection ends when it does not end as HTTP would have it. Triggered as an outbound event, so that it happens
/// below TLS: without a goodbye.
enum AbruptEnd: Sendable {
    /// FIN.
    case close
    /// RST.
    case reset
}

/// One request and the way to its answer.
final class Exchange: Sendable {
    let channel: any Channel
    let head: HTTPRequestHead
    let body: ByteBuffer
    /// Whether the client showed a certificate that its authority signed.
    let hasClientCertificate: Bool
    /// The watch that this exchange became.
    let watch = Mutex<WatchStream?>(nil)

    init(channel: any Channel, head: HTTPRequestHead, body: ByteBuffer, hasClientCertificate: Bool) {
        self.channel = channel
        self.head = head
        self.body = body
        self.hasClientCertificate = hasClientCertificate
    }

    func header(_ name: String) -> String? { head.headers.first(name: name) }

    /// Begins an answer.
    /// - Parameter length: of the body; `nil` sends it in chunks.
    func begin(_ code: Int, contentType: String, headers: [(String, String)] = [], length: Int?) {
        var fields = HTTPHeaders([("Cache-Control", "no-cache, private"), ("Content-Type", contentType)])
        fields.add(contentsOf: headers)
        if let length { fields.add(name: "Content-Length", value: "\(length)") }
        if !head.isKeepAlive { fields.add(name: "Connection", value: "close") }
        let response = HTTPResponseHead(
            version: .http1_1, status: HTTPResponseStatus(statusCode: code), headers: fields)
        channel.writeAndFlush(HTTPServerResponsePart.head(response), promise: nil)
    }

    func write(_ bytes: ByteBuffer) {
        channel.write(HTTPServerResponsePart.body(.byteBuffer(bytes)), promise: nil)
    }

    /// Ends the answer; the connection serves the next request.
    func end() {
        let written = channel.writeAndFlush(HTTPServerResponsePart.end(nil))
        if !head.isKeepAlive { written.whenComplete { [channel] _ in channel.close(promise: nil) } }
    }

    /// A whole answer. What is longer than 2 KiB goes in chunks that end anywhere, as from Go's server.
    func answer(_ code: Int, contentType: String, headers: [(String, String)] = [], _ body: ByteBuffer) {
        var rest = body
        let isShort = rest.readableBytes <= 2048
        begin(code, contentType: contentType, headers: headers, length: isShort ? rest.readableBytes : nil)
        while let chunk = rest.readSlice(length: min(rest.readableBytes, 32_768)), chunk.readableBytes > 0 {
            write(chunk)
        }
        end()
    }

    func answer(_ code: Int, text: String, headers: [(String, String)] = []) {
        answer(code, contentType: "text/plain; charset=utf-8", headers: headers, ByteBuffer(string: text))
    }

    func answer(_ status: Status) {
        let format = Negotiation.errorFormat(accept: header("accept"))
        var body = ByteBuffer(bytes: format.encode(status))
        if format == .json { body.writeString("\n") }
        let wait = status.retryAfterSeconds > 0 ? [("Retry-After", "\(status.retryAfterSeconds)")] : []
        answer(status.code, contentType: format.contentType, headers: wait, body)
    }

    /// Ends the connection once everything written has left; nothing must have been written before an answer began.
    func endAbruptly(_ end: AbruptEnd) {
        channel.writeAndFlush(HTTPServerResponsePart.body(.byteBuffer(ByteBuffer()))).whenComplete { [channel] _ in
            channel.triggerUserOutboundEvent(end, promise: nil)
        }
    }

    /// Ends the connection instead of answering.
    func endUnanswered(_ end: AbruptEnd) { channel.triggerUserOutboundEvent(end, promise: nil) }
}
