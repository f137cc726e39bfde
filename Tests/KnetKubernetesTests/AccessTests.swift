import FoundationEssentials
import KnetCore
import Testing

@testable import KnetKubernetes

/// A file below a folder of its own that goes with it.
func withFolder<Result>(_ files: [String: String], _ body: (String) throws -> Result) throws -> Result {
    let folder = "\(FileManager.default.temporaryDirectory.path)/knetd-test-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    for (name, text) in files { try Data(text.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name)")) }
    return try body(folder)
}

@Suite struct AccessTests {
    private static let good = """
        apiVersion: v1
        kind: Config
        current-context: one
        contexts:
        - {name: one, context: {cluster: c1, user: u1}}
        - {name: two, context: {cluster: c2, user: u2}}
        clusters:
        - {name: c1, cluster: {server: "https://10.0.0.1:6443/", certificate-authority: ca.pem, tls-server-name: kube}}
        - {name: c2, cluster: {server: "https://[fd00::1]", insecure-skip-tls-verify: true}}
        users:
        - {name: u1, user: {tokenFile: token, token: old}}
        - {name: u2, user: {client-certificate-data: QQ==, client-key: /k.pem}}
        """

    @Test func aKubeconfigIsRead() throws {
        try withFolder(["config": Self.good]) { folder in
            let kubeconfig = try Kubeconfig(path: "\(folder)/config")
            let one = try kubeconfig.access(context: nil)
            #expect(one.servers == ["https://10.0.0.1:6443"] && one.serverName == "kube" && one.isVerified)
            #expect(
                one.authority == .file("\(folder)/ca.pem") && one.tokenFile == "\(folder)/token" && one.token == "old")
            let two = try kubeconfig.access(context: "two")
            #expect(two.servers == ["https://[fd00::1]:443"] && !two.isVerified)
            #expect(
                two.certificate
                    == .init(
                        chain: .data([65], place: "\(folder)/config: users[1].user.client-certificate-data"),
                        key: .file("/k.pem")))
        }
    }

    @Test(arguments: [
        ("current-context: one", "current-context: three", "contexts has no \"three\"; there is one, two"),
        ("cluster: c1,", "cluster: c9,", "clusters has no \"c9\"; there is c1, c2"),
        ("user: u1}", "user: u9}", "users has no \"u9\""),
        (
            "server: \"https://10.0.0.1:6443/\"", "server: \"10.0.0.1\"",
            "clusters[0].cluster.server is \"10.0.0.1\"; allowed is https://host:port"
        ),
        (
            "certificate-authority: ca.pem", "certificate-authority-data: \"%\"",
            "clusters[0].cluster.certificate-authority-data is not base64"
        ),
        (
            "tls-server-name: kube", "insecure-skip-tls-verify: true",
            "both insecure-skip-tls-verify and a certificate authority"
        ),
        ("tokenFile: token", "username: me", "users[0].user.username is no longer part of Kubernetes"),
        ("tokenFile: token", "client-key: k", "has client-key without client-certificate"),
        ("tokenFile: token", "exec: {command: x, apiVersion: v0}", "users[0].user.exec.apiVersion is \"v0\""),
        ("contexts:", "contexts: [", "is not valid YAML"),
        (
            "tokenFile: token", "exec: {apiVersion: client.authentication.k8s.io/v1}",
            "users[0].user.exec.command is missing"
        ),
    ]) func aBadKubeconfigIsNamedByItsPlace(from: String, to: String, words: String) throws {
        try withFolder(["config": Self.good.replacing(from, with: to)]) { folder in
            let error = #expect(throws: APIError.self) {
                try Kubeconfig(path: "\(folder)/config").access(context: nil)
            }
            #expect(error?.description.contains(words) == true, "\(String(describing: error))")
            #expect(error?.description.contains("\(folder)/config") == true)
        }
    }

    @Test func anAddressOfAServerIsRead() {
        #expect(ServerURL("https://a")?.description == "https://a:443")
        #expect(ServerURL("http://[::1]:8080/x/")?.description == "http://[::1]:8080/x")
        for text in [
            "a", "ftp://a", "https://", "https://a:0", "https://a:b", "https://u@a", "https://[::1", "https://a:1:2",
        ] {
            #expect(ServerURL(text) == nil, "\(text)")
        }
    }

    @Test func aPluginTellsWhoAsks() throws {
        let answer = """
            #!/bin/sh
            echo "$KUBERNETES_EXEC_INFO" | grep -q '"interactive":false' || exit 3
            echo '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "'$1$MORE'", "expirationTimestamp": "2030-01-01T00:00:00Z"}}'
            """
        try withFolder(["plugin": answer]) { folder in
            try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: "\(folder)/plugin")
            func plugin(_ command: String) -> ExecPlugin {
                ExecPlugin(
                    command: command, arguments: ["secret"], environment: ["MORE": "!"],
                    version: ExecPlugin.versions[0],
                    hint: "install it")
            }
            let credential = try plugin("\(folder)/plugin").credential()
            #expect(credential.token == "secret!" && credential.expires != nil)
            for (command, words) in [("false", "ended with 1"), ("true", "did not print"), ("/none", "cannot be run")] {
                let error = #expect(throws: APIError.self) { try plugin(command).credential() }
                #expect(error?.description.contains(words) == true, "\(String(describing: error))")
            }
        }
    }
}
