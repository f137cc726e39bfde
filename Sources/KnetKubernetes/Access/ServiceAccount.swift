import Glibc
import KnetCore

/// A pod's own identity (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/).
enum ServiceAccount {
    static let directory = "/var/run/secrets/kubernetes.io/serviceaccount"

    static func access(directory: String = directory) throws(APIError) -> ClusterAccess {
        func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) }?.nonEmpty }
        let token = "\(directory)/token"
        guard access(token, R_OK) == 0 else {
            throw APIError(
                .access, "there is no service account at \(directory)",
                remedy: "outside of a pod, name a kubeconfig in cluster.kubernetes.kubeconfig")
        }
        var servers: [String] = []
        if let host = variable("KUBERNETES_SERVICE_HOST") {
            let address = host.contains(":") ? "[\(host)]" : host
            servers = ["https://\(address):\(variable("KUBERNETES_SERVICE_PORT") ?? "443")"]
        }
        var access = ClusterAccess(servers: servers)
        access.authority = .file("\(directory)/ca.crt")
        access.tokenFile = token
        return access
    }

    private static func access(_ path: String, _ mode: Int32) -> Int32 { Glibc.access(path, mode) }
}
