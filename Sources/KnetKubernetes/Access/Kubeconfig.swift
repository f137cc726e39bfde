import FoundationEssentials
import KnetCore
import KnetYAML

/// Reads a kubeconfig (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/).
struct Kubeconfig {
    private let path: String
    private let document: JSONValue

    init(path: String) throws(APIError) {
        self.path = path
        let data: Data
        do {
            data = try contents(ofFile: path)
        } catch {
            throw APIError(
                .access, "\(path) cannot be read (\(error))",
                remedy: "put a kubeconfig there, or name another in cluster.kubernetes.kubeconfig")
        }
        let documents = YAMLDocuments(parsing: data)
        if let error = documents.error { throw APIError(.access, "\(path) is not valid YAML: \(error)") }
        guard let document = documents.values.first, document.object != nil else {
            throw APIError(.access, "\(path) is not a kubeconfig", remedy: "it has clusters, users and contexts")
        }
        self.document = document
    }

    /// - Parameter context: `nil` takes the file's `current-context`.
    /// - Throws: what is wrong, with its place in the file.
    func access(context: String?) throws(APIError) -> ClusterAccess {
        guard let name = context ?? document["current-context"]?.string, !name.isEmpty else {
            throw problem("current-context", "is missing", "set it, or cluster.kubernetes.context")
        }
        let entry = try entry("contexts", name)
        guard let clusterName = entry.value["context"]?["cluster"]?.string else {
            throw problem("\(entry.place).context.cluster", "is missing")
        }
        var access = try cluster(try self.entry("clusters", clusterName))
        if let userName = entry.value["context"]?["user"]?.string, !userName.isEmpty {
            try identify(&access, by: try self.entry("users", userName))
        }
        return access
    }

    private struct Entry {
        let place: String
        let value: JSONValue
    }

    private func problem(_ place: String, _ what: String, _ remedy: String? = nil) -> APIError {
        APIError(.access, "\(path): \(place) \(what)", remedy: remedy)
    }

    private func entry(_ list: String, _ name: String) throws(APIError) -> Entry {
        guard let entries = document[list]?.array else { throw problem(list, "is not a list") }
        guard let index = entries.firstIndex(where: { $0["name"]?.string == name }) else {
            let names = entries.compactMap { $0["name"]?.string }.sorted().joined(separator: ", ")
            throw problem(list, "has no \"\(name)\"", "there is \(names.isEmpty ? "none" : names)")
        }
        return Entry(place: "\(list)[\(index)]", value: entries[index])
    }

    private func cluster(_ entry: Entry) throws(APIError) -> ClusterAccess {
        let place = "\(entry.place).cluster"
        guard let cluster = entry.value["cluster"], cluster.object != nil else { throw problem(place, "is missing") }
        guard let server = cluster["server"]?.string else { throw problem("\(place).server", "is missing") }
        guard let url = ServerURL(server) else {
            throw problem("\(place).server", "is \"\(server)\"", "allowed is \(ServerURL.title)")
        }
        var access = ClusterAccess(servers: [url.description])
        access.serverName = cluster["tls-server-name"]?.string
        access.authority = try material("certificate-authority", of: cluster, place)
        if let proxy = cluster["proxy-url"]?.string, !proxy.isEmpty {
            guard let url = ServerURL(proxy), !url.isEncrypted else {
                throw problem("\(place).proxy-url", "is \"\(proxy)\"", "allowed is http://host:port")
            }
            access.proxy = proxy
        }
        if try flag("insecure-skip-tls-verify", of: cluster, place) {
            guard access.authority == nil else {
                throw problem(place, "has both insecure-skip-tls-verify and a certificate authority", "remove one")
            }
            access.isVerified = false
        }
        return access
    }

    private func identify(_ access: inout ClusterAccess, by entry: Entry) throws(APIError) {
        let place = "\(entry.place).user"
        guard let user = entry.value["user"], user.object != nil else { throw problem(place, "is missing") }
        for (key, since) in [("auth-provider", "1.26"), ("username", "1.19"), ("password", "1.19")]
        where user[key] != nil {
            throw problem(
                "\(place).\(key)", "is no longer part of Kubernetes (since \(since))",
                "use a client certificate, token, tokenFile or exec")
        }
        let chain = try material("client-certificate", of: user, place)
        let key = try material("client-key", of: user, place)
        switch (chain, key) {
        case (let chain?, let key?): access.certificate = .init(chain: chain, key: key)
        case (nil, nil): break
        case (_?, nil): throw problem(place, "has client-certificate without client-key")
        case (nil, _?): throw problem(place, "has client-key without client-certificate")
        }
        access.token = user["token"]?.string?.trimmed
        access.tokenFile = user["tokenFile"]?.string.map(absolute)
        if let exec = user["exec"] {
            access.plugin = try plugin(exec, "\(place).exec")
        }
    }

    private func plugin(_ exec: JSONValue, _ place: String) throws(APIError) -> ExecPlugin {
        guard let command = exec["command"]?.string, !command.isEmpty else {
            throw problem("\(place).command", "is missing")
        }
        let version = exec["apiVersion"]?.string ?? ""
        guard ExecPlugin.versions.contains(version) else {
            throw problem(
                "\(place).apiVersion", "is \"\(version)\"",
                "allowed is \(ExecPlugin.versions.joined(separator: ", "))")
        }
        if exec["interactiveMode"]?.string == "Always" {
            throw problem("\(place).interactiveMode", "is Always, and knetd has nobody to ask")
        }
        var environment: [String: String] = [:]
        for variable in exec["env"]?.array ?? [] {
            guard let name = variable["name"]?.string, let value = variable["value"]?.string else {
                throw problem("\(place).env", "has an entry without name or value")
            }
            environment[name] = value
        }
        return ExecPlugin(
            // A path with a slash is relative to the file, a bare name is looked for in PATH.
            command: command.contains("/") ? absolute(command) : command,
            arguments: exec["args"]?.array?.compactMap(\.string) ?? [], environment: environment, version: version,
            hint: exec["installHint"]?.string)
    }

    /// `NAME-data` in base64, or the file `NAME`; the first counts where both are there, as everywhere.
    private func material(_ name: String, of value: JSONValue, _ place: String) throws(APIError)
        -> ClusterAccess.Material?
    {
        let data = "\(name)-data"
        if let text = value[data]?.string, !text.isEmpty {
            guard let bytes = Data(base64Encoded: text, options: .ignoreUnknownCharacters), !bytes.isEmpty else {
                throw problem("\(place).\(data)", "is not base64")
            }
            return .data(Array(bytes), place: "\(path): \(place).\(data)")
        }
        return value[name]?.string.flatMap { $0.isEmpty ? nil : .file(absolute($0)) }
    }

    private func flag(_ name: String, of value: JSONValue, _ place: String) throws(APIError) -> Bool {
        switch value[name] {
        case nil, .null: return false
        case .boolean(let flag): return flag
        default: throw problem("\(place).\(name)", "is not true or false")
        }
    }

    /// Paths are relative to the file's folder.
    private func absolute(_ file: String) -> String {
        guard !file.hasPrefix("/") else { return file }
        let folder = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        return folder.isEmpty ? file : "\(folder)/\(file)"
    }
}

extension String {
    /// Without white space around it.
    var trimmed: String {
        String(drop(while: \.isWhitespace).reversed().drop(while: \.isWhitespace).reversed())
    }
}
