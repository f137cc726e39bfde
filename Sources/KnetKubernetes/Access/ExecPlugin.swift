import FoundationEssentials
import KnetCore
import KnetLinux

/// A program that tells who asks (https://kubernetes.io/docs/reference/access-authn-authz/authentication/
/// #client-go-credential-plugins).
struct ExecPlugin: Hashable {
    static let versions = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"]
    private static let seconds = 30

    let command: String
    let arguments: [String]
    let environment: [String: String]
    let version: String
    /// What its maker says on how to install it.
    let hint: String?

    struct Credential {
        let token: String?
        /// PEM.
        let certificate: [UInt8]?
        let key: [UInt8]?
        /// `nil` holds until it is refused.
        let expires: Date?
    }

    /// Runs the program, which may take long.
    func credential() throws(APIError) -> Credential {
        let info: JSONValue = [
            "apiVersion": .string(version), "kind": "ExecCredential", "spec": ["interactive": false],
        ]
        var environment = environment
        environment["KUBERNETES_EXEC_INFO"] = info.text()
        let outcome: ChildProcess.Outcome
        do {
            outcome = try ChildProcess.run(command, arguments, environment: environment, seconds: Self.seconds)
        } catch {
            throw APIError(.access, "the exec plugin \(command) cannot be run (\(error))", remedy: hint)
        }
        guard outcome.status == 0 else {
            throw APIError(
                .access, "the exec plugin \(command) ended with \(outcome.status): \(outcome.errors.trimmed)",
                remedy: hint)
        }
        guard let value = try? JSONValue(parsing: Data(outcome.output.utf8)),
            value["kind"]?.string == "ExecCredential", let status = value["status"]
        else {
            throw APIError(.access, "the exec plugin \(command) did not print an ExecCredential with a status")
        }
        guard value["apiVersion"]?.string == version else {
            throw APIError(
                .access, "the exec plugin \(command) printed \(value["apiVersion"]?.string ?? "no apiVersion")",
                remedy: "the kubeconfig asks for \(version)")
        }
        let credential = Credential(
            token: status["token"]?.string,
            certificate: status["clientCertificateData"]?.string.map { Array($0.utf8) },
            key: status["clientKeyData"]?.string.map { Array($0.utf8) },
            expires: status["expirationTimestamp"]?.string.flatMap { try? Date($0, strategy: .iso8601) })
        guard credential.token != nil || (credential.certificate != nil && credential.key != nil) else {
            throw APIError(.access, "the exec plugin \(command) gave neither a token nor a certificate with its key")
        }
        return credential
    }
}
