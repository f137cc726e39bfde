import FoundationEssentials
import KnetCore
import SwiftProtobuf

/// A message that is an object.
protocol WireObject: SwiftProtobuf.Message {
    var metadata: WireObjectMeta { get }
}

extension WireNode: WireObject {}
extension WireNamespace: WireObject {}
extension WirePod: WireObject {}
extension WireService: WireObject {}
extension WireEndpointSlice: WireObject {}
extension WireNetworkPolicy: WireObject {}

extension AnyClusterObject {
    /// In the API's form, without an envelope: of custom resources that is JSON.
    func serialized() throws -> Data {
        switch self {
        case .node(let object): try object.wire.serializedData()
        case .namespace(let object): try object.wire.serializedData()
        case .pod(let object): try object.wire.serializedData()
        case .service(let object): try object.wire.serializedData()
        case .endpointSlice(let object): try object.wire.serializedData()
        case .networkPolicy(let object): try object.wire.serializedData()
        case .clusterNetworkPolicy(let object): try JSONEncoder().encode(object)
        }
    }
}
