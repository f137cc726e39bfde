import FoundationEssentials
import KnetCore

/// Where the next page of a list begins: k8s.io/apiserver/pkg/storage/continue.go.
struct ContinueToken {
    /// The state that all pages show; -1 goes on with the present one.
    let revision: Int
    /// The key after which the page begins.
    let after: String

    init(revision: Int, after: String) {
        self.revision = revision
        self.after = after
    }

    /// - Throws: 400 for what no server gave out.
    init(_ text: String) throws(Status) {
        let padded =
            text.replacing("-", with: "+").replacing("_", with: "/")
            + String(repeating: "=", count: (4 - text.utf8.count % 4) % 4)
        guard let data = Data(base64Encoded: padded), let json = try? JSONValue(parsing: data),
            json["v"]?.string == "meta.k8s.io/v1", let revision = json["rv"]?.integer, revision != 0,
            let start = json["start"]?.string, start.hasSuffix("\0")
        else { throw .badRequest("invalid continue token: continue key is not valid") }
        self.revision = revision
        after = String(start.dropLast().drop { $0 == "/" })
    }

    var text: String {
        let json = JSONWriter.text(
            of: .object([
                "v": "meta.k8s.io/v1", "rv": .integer(revision), "start": .string("/\(after)\0"),
            ]))
        return Data(json).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_")
            .replacing("=", with: "")
    }
}
