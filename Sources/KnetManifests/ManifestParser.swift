import FoundationEssentials
import KnetCore
import KnetYAML

/// A document that cannot be used, and why.
public struct ManifestFault: Hashable, Sendable, CustomStringConvertible {
    /// File name, with the number of the document where the file has several.
    public let place: String
    public let reason: String

    public var description: String { "\(place): \(reason)" }
}

/// What one file holds.
struct ParsedManifest: Sendable {
    var objects: [AnyClusterObject] = []
    var faults: [ManifestFault] = []
}

/// Reads Kubernetes manifests: YAML with any number of documents, or JSON; a `List` stands for its items. Kinds that
/// knetd has no use for are passed over.
enum ManifestParser {
    static let extensions = ["yaml", "yml", "json"]

    static func parse(_ data: Data, file: String) -> ParsedManifest {
        var result = ParsedManifest()
        do {
            let documents = try file.hasSuffix(".json") ? [JSONValue(parsing: data)] : yaml(data, file, into: &result)
            for (index, document) in documents.enumerated() {
                let place = documents.count > 1 ? "\(file), document \(index + 1)" : file
                read(document, place: place, into: &result)
            }
        } catch {
            result.faults.append(ManifestFault(place: file, reason: "\(error)"))
        }
        return result
    }

    /// The documents up to the first that is not YAML, which is reported.
    private static func yaml(_ data: Data, _ file: String, into result: inout ParsedManifest) -> [JSONValue] {
        let documents = YAMLDocuments(parsing: data)
        if let error = documents.error {
            result.faults.append(
                ManifestFault(place: "\(file), document \(documents.values.count + 1)", reason: "\(error)"))
        }
        return documents.values
    }

    private static func read(_ document: JSONValue, place: String, into result: inout ParsedManifest) {
        if document == .null { return }
        guard let kind = document["kind"]?.string else {
            result.faults.append(ManifestFault(place: place, reason: "no \"kind\": not a Kubernetes manifest"))
            return
        }
        if kind.hasSuffix("List"), let items = document["items"]?.array {
            for (index, item) in items.enumerated() {
                read(item, place: "\(place), items[\(index)]", into: &result)
            }
            return
        }
        guard let kind = ObjectKey.Kind(rawValue: kind), ObjectKey.clusterKinds.contains(kind) else { return }
        do {
            if kind == .clusterNetworkPolicy, let version = document["apiVersion"]?.string,
                version != ClusterNetworkPolicy.apiVersion
            {
                throw OtherVersion(found: version, read: ClusterNetworkPolicy.apiVersion)
            }
            let object = try AnyClusterObject(document, kind)
            if let defect = object.defect {
                result.faults.append(ManifestFault(place: place, reason: "\(object.key): \(defect)"))
            } else {
                result.objects.append(object)
            }
        } catch {
            let name = document["metadata"]?["name"]?.string ?? "without a name"
            result.faults.append(ManifestFault(place: place, reason: "\(kind.rawValue)/\(name): \(explain(error))"))
        }
    }

    /// Other groups have kinds of the same name, which say other things.
    private struct OtherVersion: Error, CustomStringConvertible {
        let found: String
        let read: String
        var description: String { "apiVersion is \(found), and only \(read) is read" }
    }

    private static func explain(_ error: any Error) -> String {
        func path(_ context: DecodingError.Context, _ key: (any CodingKey)? = nil) -> String {
            (context.codingPath + (key.map { [$0] } ?? [])).reduce("") { text, key in
                key.intValue.map { "\(text)[\($0)]" } ?? (text.isEmpty ? key.stringValue : "\(text).\(key.stringValue)")
            }
        }
        switch error {
        case DecodingError.keyNotFound(let key, let context): return "\(path(context, key)) is missing"
        case DecodingError.typeMismatch(let type, let context): return "\(path(context)) is not \(name(of: type))"
        case DecodingError.valueNotFound(let type, let context):
            return "\(path(context)) is empty, not \(name(of: type))"
        case DecodingError.dataCorrupted(let context): return "\(path(context)): \(context.debugDescription)"
        default: return "\(error)"
        }
    }

    private static func name(of type: any Any.Type) -> String {
        switch type {
        case is String.Type: "a string"
        case is Int.Type: "an integer"
        case is Bool.Type: "true or false"
        case is [String: Any].Type: "a mapping"
        case is [Any].Type: "a list"
        default: "\(type)"
        }
    }
}
