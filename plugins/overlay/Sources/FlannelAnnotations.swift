import FoundationEssentials
import KnetCore
import KnetDataplane

/// What a Flannel node writes onto its Node object
/// (https://github.com/flannel-io/flannel/blob/master/Documentation/kubernetes.md#annotations).
struct FlannelAnnotations {
    private struct BackendData: Decodable {
        let vni: UInt32?
        let vtepMAC: MACAddress?

        enum CodingKeys: String, CodingKey {
            case vni = "VNI"
            case vtepMAC = "VtepMAC"
        }
    }

    private let annotations: [String: String]

    init(_ annotations: [String: String]) { self.annotations = annotations }

    func publicIP(_ family: IPFamily) -> IPAddress? {
        let names =
            family == .v4 ? ["public-ip-overwrite", "public-ip"] : ["public-ipv6-overwrite", "public-ipv6"]
        return names.lazy.compactMap { self[$0].flatMap { IPAddress($0) } }.first
    }

    func vtepMAC(_ family: IPFamily) -> MACAddress? { data(family)?.vtepMAC }

    /// - Throws: `UnreachablePeer` where the node speaks another dialect.
    func check(vni: UInt32) throws {
        if let type = self["backend-type"], type != "vxlan" {
            throw UnreachablePeer("its Flannel backend is \(type), not vxlan")
        }
        for family in IPFamily.allCases {
            if let other = data(family)?.vni, other != vni {
                throw UnreachablePeer("its VXLAN network is \(other), this node's plugins.overlay.vni is \(vni)")
            }
        }
    }

    private subscript(_ name: String) -> String? { annotations[FlannelBackend.prefix + name] }

    private func data(_ family: IPFamily) -> BackendData? {
        guard let text = self[family == .v4 ? "backend-data" : "backend-v6-data"] else { return nil }
        return try? JSONDecoder().decode(BackendData.self, from: Data(text.utf8))
    }
}
