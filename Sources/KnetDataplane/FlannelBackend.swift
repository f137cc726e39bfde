public import KnetCore

/// What a node writes onto its Node object so that Flannel nodes find the way to its pods
/// (https://github.com/flannel-io/flannel/blob/master/Documentation/kubernetes.md#annotations).
public enum FlannelBackend {
    public static let prefix = "flannel.alpha.coreos.com/"

    /// - Parameters:
    ///   - type: `vxlan` or `host-gw`.
    ///   - ways: by family of the outer address: that address, and the backend's data as compact JSON.
    /// - Returns: annotations; `nil` for one that must not be there.
    public static func annotations(
        type: String, ways: [IPFamily: (address: IPAddress, data: String)]
    ) -> [String: String?] {
        [
            prefix + "backend-type": type,
            prefix + "kube-subnet-manager": "true",
            prefix + "backend-data": ways[.v4]?.data,
            prefix + "public-ip": ways[.v4]?.address.description,
            prefix + "backend-v6-data": ways[.v6]?.data,
            prefix + "public-ipv6": ways[.v6]?.address.description,
        ]
    }
}
