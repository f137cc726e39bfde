/// How the API server is reached and who asks: what a kubeconfig or a pod's service account says.
struct ClusterAccess: Hashable {
    /// Bytes that are in the file itself, or in another one.
    enum Material: Hashable {
        /// - Parameter place: where they stand, for messages.
        case data([UInt8], place: String)
        case file(String)

        var place: String {
            switch self {
            case .data(_, let place): place
            case .file(let path): path
            }
        }
    }

    struct Certificate: Hashable {
        let chain: Material
        let key: Material
    }

    /// `https://host:port`, tried in turn.
    var servers: [String]
    /// The name on the server's certificate, where it is not that of the URL.
    var serverName: String?
    /// `nil` trusts what the system trusts.
    var authority: Material?
    /// Whether the server's certificate is looked at.
    var isVerified = true
    /// `http://host:port`.
    var proxy: String?
    var certificate: Certificate?
    /// A bearer token, used where `tokenFile` is not readable.
    var token: String?
    var tokenFile: String?
    var plugin: ExecPlugin?
}
