import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import NIOSSL
import Synchronization

/// Where the access to the cluster is described.
enum AccessSource: Sendable, Hashable {
    /// - Parameter context: `nil` takes the file's own.
    case kubeconfig(path: String, context: String?)
    /// The service account of the pod that this process runs in.
    case serviceAccount(directory: String)
}

/// What a request needs: the servers, what to trust, and who asks.
struct Credentials: Sendable {
    let servers: [ServerURL]
    let serverName: String?
    let tls: TLSConfiguration
    /// The certificate of ours that ends soonest, as a message has it; `nil` while it is good.
    let certificateFault: String?
    let authorization: String?
    let proxy: String?
}

/// Keeps the credentials as files and plugins have them: what is rotated is taken up with the next request.
final class CredentialStore: Sendable {
    private struct Contents {
        var stamps: [String: FileStamp?] = [:]
        var credentials: Credentials?
        var plugin: ExecPlugin.Credential?

        /// Whether no file has changed since it was read, and no plugin's answer has ended.
        var isFresh: Bool {
            guard credentials != nil, plugin?.isValid != false else { return false }
            return stamps.allSatisfy { FileStamp(path: $0.key) == $0.value }
        }
    }

    private let source: AccessSource
    private let servers: [String]
    private let contents = Mutex(Contents())

    /// - Parameter servers: instead of those of the kubeconfig or the pod's environment.
    init(source: AccessSource, servers: [String]) {
        self.source = source
        self.servers = servers
    }

    /// - Throws: what is wrong with the kubeconfig or a file that it names.
    func current() async throws(APIError) -> Credentials {
        if let kept = contents.withLock({ $0.isFresh ? $0.credentials : nil }) { return kept }
        do {
            // Files are read and plugins run on a thread that may block.
            return try await blocking { [self] in try contents.withLock { try read(&$0) } }
        } catch let error as APIError {
            throw error
        } catch {
            throw APIError(.access, "\(error)")
        }
    }

    /// The server did not accept who asked: next time everything is read again, and a plugin is run again.
    func forget() {
        contents.withLock {
            $0.credentials = nil
            $0.plugin = nil
        }
    }

    private func read(_ contents: inout Contents) throws(APIError) -> Credentials {
        var files = Files()
        contents.credentials = nil
        var access = try access(&files)
        if !servers.isEmpty { access.servers = servers }
        guard !access.servers.isEmpty else {
            throw APIError(
                .access, "no API server is named",
                remedy: "set cluster.kubernetes.servers, as [\"https://10.0.0.1:6443\"]")
        }
        if let plugin = access.plugin, contents.plugin?.isValid != true { contents.plugin = try plugin.credential() }
        let plugin = access.plugin == nil ? nil : contents.plugin
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.minimumTLSVersion = .tlsv12
        if !access.isVerified { tls.certificateVerification = .none }
        if let authority = access.authority {
            tls.trustRoots = .certificates(try files.certificates(authority))
        }
        var fault: String?
        if let certificate = try identity(access, plugin, &files) {
            tls.certificateChain = certificate.chain.map { .certificate($0) }
            tls.privateKey = .privateKey(certificate.key)
            fault = certificate.chain.first.flatMap { Validity.fault(of: $0, what: "the client certificate") }
        }
        let token = plugin?.token ?? access.tokenFile.flatMap { files.text($0) } ?? access.token
        let credentials = Credentials(
            servers: access.servers.compactMap(ServerURL.init), serverName: access.serverName, tls: tls,
            certificateFault: fault, authorization: token.map { "Bearer \($0)" }, proxy: access.proxy)
        contents.stamps = files.stamps
        contents.credentials = credentials
        return credentials
    }

    private func access(_ files: inout Files) throws(APIError) -> ClusterAccess {
        switch source {
        case .kubeconfig(let path, let context):
            files.note(path)
            return try Kubeconfig(path: path).access(context: context)
        case .serviceAccount(let directory): return try ServiceAccount.access(directory: directory)
        }
    }

    private func identity(
        _ access: ClusterAccess, _ plugin: ExecPlugin.Credential?, _ files: inout Files
    ) throws(APIError) -> (chain: [NIOSSLCertificate], key: NIOSSLPrivateKey)? {
        if let certificate = plugin?.certificate, let key = plugin?.key {
            let place = "the exec plugin's answer"
            return (
                try files.certificates(.data(certificate, place: place)), try files.key(.data(key, place: place))
            )
        }
        return try access.certificate.map { certificate throws(APIError) in
            (try files.certificates(certificate.chain), try files.key(certificate.key))
        }
    }
}

extension ExecPlugin.Credential {
    /// Good for the next half minute.
    fileprivate var isValid: Bool { expires.map { $0.timeIntervalSinceNow > 30 } ?? true }
}

/// Files as they are read, with what tells when they change.
private struct Files {
    var stamps: [String: FileStamp?] = [:]

    mutating func note(_ path: String) { stamps[path] = FileStamp(path: path) }

    /// A file's text without white space around it; `nil` where it cannot be read or is empty.
    mutating func text(_ path: String) -> String? {
        note(path)
        return (try? contents(ofFile: path)).flatMap { String(decoding: $0, as: UTF8.self).trimmed.nonEmpty }
    }

    mutating func bytes(_ material: ClusterAccess.Material) throws(APIError) -> [UInt8] {
        switch material {
        case .data(let bytes, _): return bytes
        case .file(let path):
            note(path)
            do {
                return Array(try contents(ofFile: path))
            } catch {
                throw APIError(.access, "\(path) cannot be read (\(error))", remedy: "the kubeconfig names it")
            }
        }
    }

    mutating func certificates(_ material: ClusterAccess.Material) throws(APIError) -> [NIOSSLCertificate] {
        let bytes = try bytes(material)
        guard let certificates = try? NIOSSLCertificate.fromPEMBytes(bytes), !certificates.isEmpty else {
            throw APIError(.access, "\(material.place) is not a certificate in PEM")
        }
        return certificates
    }

    mutating func key(_ material: ClusterAccess.Material) throws(APIError) -> NIOSSLPrivateKey {
        let bytes = try bytes(material)
        guard let key = try? NIOSSLPrivateKey(bytes: bytes, format: .pem) else {
            throw APIError(.access, "\(material.place) is not a private key in PEM")
        }
        return key
    }
}

/// When a certificate holds.
enum Validity {
    /// Why it does not hold now; `nil` where it does.
    static func fault(of certificate: NIOSSLCertificate, what: String) -> String? {
        let now = time_t(Date().timeIntervalSince1970)
        if certificate.notValidAfter < now { return "\(what) ended \(text(certificate.notValidAfter))" }
        if certificate.notValidBefore > now { return "\(what) begins \(text(certificate.notValidBefore))" }
        return nil
    }

    private static func text(_ time: time_t) -> String {
        Date(timeIntervalSince1970: Double(time)).formatted(.iso8601)
    }
}
