import FoundationEssentials
import KnetCore
import KnetYAML
import TestSupport
import Testing

/// What is in the folder `deploy`.
enum DeployFiles {
    static let folder = "\(Checkout.path)/deploy"

    static func names(in subfolder: String) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: "\(folder)/\(subfolder)")) ?? []).sorted()
    }

    static func documents(_ path: String) throws -> [JSONValue] {
        let documents = YAMLDocuments(parsing: try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(path)")))
        if let error = documents.error { throw error }
        return documents.values
    }

    /// All of the base's objects of a kind.
    static func base(_ kind: String) throws -> [JSONValue] {
        let resources = try documents("base/kustomization.yaml").first?["resources"]?.array ?? []
        return try resources.compactMap(\.string).flatMap { try documents("base/\($0)") }
            .filter { $0["kind"]?.string == kind }
    }

    struct Permission: Hashable, CustomStringConvertible {
        let verb: String
        let group: String
        let resource: String
        var description: String { "\(verb) \(group.isEmpty ? "" : "\(group)/")\(resource)" }
    }

    /// An overlay's objects of a kind: the base's and those of its components.
    static func objects(_ kind: String, of overlay: String) throws -> [JSONValue] {
        let components = try documents("overlays/\(overlay)/kustomization.yaml").first?["components"]?.array ?? []
        return try base(kind)
            + components.compactMap(\.string).flatMap { component in
                let folder = "overlays/\(overlay)/\(component)"
                let resources = try documents("\(folder)/kustomization.yaml").first?["resources"]?.array ?? []
                return try resources.compactMap(\.string).flatMap { try documents("\(folder)/\($0)") }
            }.filter { $0["kind"]?.string == kind }
    }

    /// What an overlay's ClusterRoles allow.
    static func permissions(_ overlay: String) throws -> Set<Permission> {
        var allowed: Set<Permission> = []
        for rule in try objects("ClusterRole", of: overlay).flatMap({ $0["rules"]?.array ?? [] }) {
            #expect(Set((rule.object ?? [:]).keys) == ["apiGroups", "resources", "verbs"])
            let parts = ["apiGroups", "resources", "verbs"].map { (rule[$0]?.array ?? []).compactMap(\.string) }
            for group in parts[0] {
                for resource in parts[1] {
                    for verb in parts[2] { allowed.insert(Permission(verb: verb, group: group, resource: resource)) }
                }
            }
        }
        return allowed
    }
}
