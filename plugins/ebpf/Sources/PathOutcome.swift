import CKnetBPF

/// What became of a packet: `enum knet_outcome`.
enum PathOutcome: UInt32, CaseIterable, Sendable {
    case toPod = 1
    case toNode
    case other
    case header
    case source
    case error
    case tracked
    case route
    case policy
    case toEndpoint
    case toClient
    case dropped

    /// As metrics have it.
    var name: String {
        switch self {
        case .toPod: "to_pod"
        case .toNode: "to_node"
        case .other: "stack_other"
        case .header: "stack_header"
        case .source: "stack_source"
        case .error: "stack_error"
        case .tracked: "stack_tracked"
        case .route: "stack_route"
        case .policy: "stack_policy"
        case .toEndpoint: "to_endpoint"
        case .toClient: "to_client"
        case .dropped: "dropped"
        }
    }

    /// For people.
    var explanation: String {
        switch self {
        case .toPod: "to a pod of this node, past the host's stack"
        case .toNode: "to a pod of another node, past the host's stack"
        case .other: "host's stack: not of two pods"
        case .header: "host's stack: fragment, options, or another transport"
        case .source: "host's stack: the source is elsewhere"
        case .error: "host's stack: at the end of its life, or too large"
        case .tracked: "host's stack: of a connection that it tracks"
        case .route: "host's stack: no route or neighbour"
        case .policy: "host's stack: policies deny it, or were asked just now"
        case .toEndpoint: "of a client outside, to an endpoint of a Service, past the host's stack"
        case .toClient: "the answer to one, past the host's stack"
        case .dropped: "dropped while older programs were replaced, to be sent again"
        }
    }
}
