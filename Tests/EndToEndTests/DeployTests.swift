import FoundationEssentials
import Glibc
import KnetCore
import KnetDataplane
import KnetLinux
import KnetPlayground
import KnetYAML
import TestSupport
import Testing

@testable import KnetKubernetes
@testable import knetd

/// The manifests against what the code does with them.
@Suite struct DeployTests {
    static let overlays = DeployFiles.names(in: "overlays")

    private static func configuration(_ overlay: String) throws -> KnetCore.Configuration {
        try Plugins.configuration.read(path: "\(DeployFiles.folder)/overlays/\(overlay)/knetd.json")
    }

    private static func pod() throws -> Pod {
        Pod(spec: try #require(DeployFiles.base("DaemonSet").first?["spec"]?["template"]?["spec"]))
    }

    /// What of the DaemonSet's pod is asked for here.
    private struct Pod {
        let spec: JSONValue
        var daemon: JSONValue { container("containers") }
        var installer: JSONValue { container("initContainers") }

        private func container(_ list: String) -> JSONValue { spec[list]?.array?.first ?? .null }

        func arguments(_ container: JSONValue) -> [String] { (container["args"]?.array ?? []).compactMap(\.string) }

        /// The container's mount that holds `path`, with its volume.
        func mount(of path: String, in container: JSONValue) -> (mount: JSONValue, volume: JSONValue)? {
            let mounts = container["volumeMounts"]?.array ?? []
            guard let mount = mounts.first(where: { "\(path)/".hasPrefix("\($0["mountPath"]?.string ?? "")/") }),
                let volume = spec["volumes"]?.array?.first(where: { $0["name"] == mount["name"] })
            else { return nil }
            return (mount, volume)
        }

        /// Whether `path` is the same folder inside and on the node, and can be written.
        func isShared(_ path: String, in container: JSONValue) -> Bool {
            guard let (mount, volume) = mount(of: path, in: container) else { return false }
            return volume["hostPath"]?["path"] == mount["mountPath"] && mount["readOnly"] != true
        }
    }

    @Test func everyManifestIsReadable() throws {
        let files = try FileManager.default.subpathsOfDirectory(atPath: DeployFiles.folder).filter {
            $0.hasSuffix(".yaml")
        }
        #expect(files.count >= 6)
        for file in files {
            let documents = try DeployFiles.documents(file)
            #expect(!documents.isEmpty && documents.allSatisfy { $0["kind"]?.string != nil }, "\(file)")
        }
    }

    // MARK: Overlays

    @Test func thereAreOverlays() { #expect(Self.overlays.contains("overlay") && Self.overlays.contains("routed")) }

    @Test(arguments: overlays) func anOverlayIsTheBaseWithAConfiguration(overlay: String) throws {
        let kustomization = try #require(DeployFiles.documents("overlays/\(overlay)/kustomization.yaml").first)
        #expect(kustomization["resources"] == ["../../base"])
        let volume = try #require(try Self.pod().mount(of: "/etc/knetd/knetd.json", in: Self.pod().daemon)?.volume)
        #expect(
            kustomization["configMapGenerator"]
                == [["name": volume["configMap"]?["name"] ?? .null, "files": ["knetd.json"]]])
        // The base says `knetd`, and each overlay what that is.
        let pod = try Self.pod()
        #expect(pod.daemon["image"] == "knetd" && pod.installer["image"] == "knetd")
        #expect(
            kustomization["images"] == [
                ["name": "knetd", "newName": "localhost/knetd", "newTag": .string(Version.current)]
            ])
    }

    @Test(arguments: overlays) func anOverlaysConfigurationIsValidAndAsksTheAPIServer(overlay: String) throws {
        let configuration = try Self.configuration(overlay)
        #expect(configuration.cluster.kubernetes != nil && configuration.cluster.kubernetes?.kubeconfig == nil)
    }

    @Test func overlaysNamedAfterADataplaneEnableIt() throws {
        for name in Plugins.all.map(\.settings).filter(\.isDataplane).map(\.name) {
            #expect(try Self.configuration(name).plugins[name] != nil)
        }
    }

    // MARK: RBAC

    /// The resource of a path as the API server's authorizer names it
    /// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources).
    private static func resource(of path: String) -> (group: String, resource: String) {
        var parts = path.split(separator: "/").map(String.init)
        let group = parts.removeFirst() == "apis" ? parts.removeFirst() : ""
        parts.removeFirst()
        return (group, parts.count > 2 ? "\(parts[0])/\(parts[2])" : parts[0])
    }

    /// What a knetd of this configuration asks for.
    private static func asked(_ configuration: KnetCore.Configuration) throws -> Set<DeployFiles.Permission> {
        let needs = try Plugins.all.reduce(ClusterNeeds([])) { needs, plugin in
            guard let settings = configuration.plugins[plugin.settings.name] else { return needs }
            return needs.union(try plugin.needs(settings))
        }
        var asked: Set<DeployFiles.Permission> = []
        for resource in KubernetesSource.resources(for: needs, nodeName: "node1") {
            let (group, plural) = Self.resource(of: resource.path)
            for verb in ["list", "watch"] {
                asked.insert(DeployFiles.Permission(verb: verb, group: group, resource: plural))
            }
        }
        let request = NodePublisher.request(nodeName: "node1")
        let (group, plural) = Self.resource(of: request.path)
        asked.insert(DeployFiles.Permission(verb: "\(request.method)".lowercased(), group: group, resource: plural))
        if needs.writes {
            for (verb, group, resource) in [
                ("patch", "", "services/status"), ("create", "", "events"), ("get", "coordination.k8s.io", "leases"),
                ("create", "coordination.k8s.io", "leases"), ("update", "coordination.k8s.io", "leases"),
            ] {
                asked.insert(DeployFiles.Permission(verb: verb, group: group, resource: resource))
            }
        }
        return asked
    }

    @Test(arguments: overlays) func rolesAllowWhatTheCodeAsksForAndNothingElse(overlay: String) throws {
        let allowed = try DeployFiles.permissions(overlay)
        let asked = try Self.asked(Self.configuration(overlay))
        #expect(allowed.subtracting(asked).isEmpty, "too wide")
        #expect(asked.subtracting(allowed).isEmpty, "too narrow")
        for kind in ["Role", "RoleBinding"] { #expect(try DeployFiles.objects(kind, of: overlay).isEmpty) }
    }

    @Test(arguments: overlays) func rolesAreBoundToTheDaemonSetsAccountAlone(overlay: String) throws {
        let account = try #require(DeployFiles.base("ServiceAccount").first?["metadata"]?["name"])
        let namespace = try #require(DeployFiles.documents("base/kustomization.yaml").first?["namespace"])
        let bindings = try DeployFiles.objects("ClusterRoleBinding", of: overlay)
        for binding in bindings {
            #expect(binding["subjects"] == [["kind": "ServiceAccount", "name": account, "namespace": namespace]])
        }
        let roles = try DeployFiles.objects("ClusterRole", of: overlay)
        #expect(bindings.map { $0["roleRef"]?["name"] } == roles.map { $0["metadata"]?["name"] })
        #expect(try Self.pod().spec["serviceAccountName"] == account)
    }

    // MARK: The pod

    @Test func capabilitiesAreThoseOfTheUnit() throws {
        let unit = try String(
            decoding: Data(contentsOf: URL(fileURLWithPath: "\(DeployFiles.folder)/knetd.service")), as: UTF8.self)
        let line = try #require(unit.split(separator: "\n").first { $0.hasPrefix("CapabilityBoundingSet=") })
        let names = line.dropFirst("CapabilityBoundingSet=".count).split(separator: " ").map {
            $0.dropFirst("CAP_".count)
        }
        let pod = try Self.pod()
        let context = pod.daemon["securityContext"]
        #expect(context?["capabilities"]?["drop"] == ["ALL"])
        let added = (context?["capabilities"]?["add"]?.array ?? []).compactMap(\.string)
        #expect(Set(added) == Set(names.map(String.init)))
        #expect(pod.installer["securityContext"]?["capabilities"] == ["drop": ["ALL"]])
        for container in [pod.daemon, pod.installer] {
            let context = container["securityContext"]
            #expect(context?["privileged"] == nil && context?["allowPrivilegeEscalation"] == false)
            #expect(context?["readOnlyRootFilesystem"] == true)
        }
    }

    @Test(arguments: overlays) func foldersOfTheConfigurationAreTheNodes(overlay: String) throws {
        let (pod, configuration) = (try Self.pod(), try Self.configuration(overlay))
        for folder in [configuration.agent.runDirectory, configuration.agent.stateDirectory] {
            #expect(pod.isShared(folder, in: pod.daemon), "\(folder)")
        }
        for folder in [configuration.cni.binaryDirectory, configuration.cni.configDirectory] {
            #expect(pod.isShared(folder, in: pod.installer), "\(folder)")
            #expect(pod.mount(of: folder, in: pod.daemon) == nil, "\(folder) is for the installer")
        }
    }

    @Test func bothContainersReadTheMountedConfiguration() throws {
        let pod = try Self.pod()
        for (container, command) in [(pod.daemon, ["run"]), (pod.installer, ["install", "--at-once"])] {
            #expect(pod.arguments(container) == command + ["--config", "/etc/knetd/knetd.json"])
            #expect(pod.mount(of: "/etc/knetd/knetd.json", in: container)?.volume["configMap"] != nil)
        }
    }

    @Test func theDaemonIsToldItsNodeAndWhereSettingsAreWritten() throws {
        let pod = try Self.pod()
        let variables = pod.daemon["env"]?.array ?? []
        #expect(
            variables.contains(["name": "KNETD_NODE_NAME", "valueFrom": ["fieldRef": ["fieldPath": "spec.nodeName"]]]))
        let settings = variables.first { $0["name"] == "KNETD_PROC_SYS_NET" }?["value"]?.string ?? ""
        let (mount, volume) = try #require(pod.mount(of: settings, in: pod.daemon))
        #expect(mount["mountPath"]?.string == settings && mount["readOnly"] == nil)
        #expect(volume["hostPath"]?["path"] == "/proc/sys/net")
    }

    @Test(.enabled(if: Root.isAvailable)) func settingsAreWrittenWhereTheManifestSays() throws {
        try withPlayground { playground in
            try playground.stopDaemon("node1")
            try playground.startDaemon("node1", environment: ["KNETD_PROC_SYS_NET": "/nowhere"])
            var report = ""
            for _ in 0..<100 where !report.contains("/nowhere/") {
                usleep(50_000)
                report = try knetd("status", "--config", playground.configurationPath("node1")).output
            }
            #expect(report.contains("open /nowhere/ipv"), "\(report)")
        }
    }

    @Test(arguments: overlays) func probesAskWhereStatusIsServed(overlay: String) throws {
        let served = try Self.configuration(overlay).agent.statusAddresses.map(\.description)
        for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
            let get = try #require(try Self.pod().daemon[probe]?["httpGet"])
            #expect(served.contains("\(get["host"]?.string ?? ""):\(get["port"]?.integer ?? 0)"))
            #expect(get["path"]?.string == path)
        }
    }

    @Test func itRunsOnEveryNodeAndIsReplacedOneByOne() throws {
        let spec = try Self.pod().spec
        #expect(spec["hostNetwork"] == true && spec["tolerations"] == [["operator": "Exists"]])
        #expect(spec["priorityClassName"] == "system-node-critical")
        let update = try DeployFiles.base("DaemonSet").first?["spec"]?["updateStrategy"]
        #expect(update == ["type": "RollingUpdate", "rollingUpdate": ["maxUnavailable": 1]])
    }
}
