import KnetCore

/// Names that say a pod's address: `10-42-0-7.default.pod.cluster.local`.
enum PodName {
    /// - Parameter apex: where in the name its domain begins.
    /// - Returns: the address; `nil` where the name says none, or there is no such namespace.
    static func address(_ name: UnsafeRawBufferPointer, apex: Int, in zone: Zone) -> IPAddress? {
        let label = Int(name[0])
        let namespace = 1 + label
        guard label > 0, namespace < apex else { return nil }
        let kind = namespace + 1 + Int(name[namespace])
        guard kind + 4 == apex, name[kind] == 3, name[kind + 1..<apex].elementsEqual("pod".utf8),
            zone.find(UnsafeRawBufferPointer(rebasing: name[namespace...])) != nil
        else { return nil }
        return IPAddress(dashed: String(decoding: name[1..<namespace], as: UTF8.self))
    }
}
