import Synchronization

/// Writes to the cluster on behalf of plugins. Sources offer it: the API server's by its requests, the manifests' by a file beside them.
public protocol ClusterWriter: Sendable {
    /// Whether this process is the one of all that writes, for as long as a request may take.
    var isElected: Bool { get }

    /// Who writes, as far as it is known; `nil`: nobody.
    var elected: String? { get }

    /// All Services as the source has them now, not as they were last told.
    func services() async throws -> [Service]

    /// Puts one Service's addresses, and what came of them, into its status.
    func write(_ status: ServiceAddresses, of service: ObjectKey) async throws

    /// Tells people of something about an object.
    func tell(_ notice: ClusterNotice) async throws
}

/// The part of a Service's status that knetd writes.
public struct ServiceAddresses: Hashable, Sendable {
    /// `status.loadBalancer.ingress`; `nil` leaves it as it is.
    public let addresses: [IPAddress]?
    /// Why these; `nil` takes the condition of this type away.
    public let condition: Service.Status.Condition?

    /// The type of knetd's condition.
    public static let conditionType = "knetd.io/LoadBalancerAddress"

    public init(addresses: [IPAddress]?, condition: Service.Status.Condition?) {
        self.addresses = addresses
        self.condition = condition
    }
}

/// What `kubectl describe` shows below an object.
public struct ClusterNotice: Hashable, Sendable {
    public let object: ObjectKey
    /// In CamelCase, for machines.
    public let reason: String
    public let message: String
    public let isWarning: Bool

    public init(object: ObjectKey, reason: String, message: String, isWarning: Bool) {
        self.object = object
        self.reason = reason
        self.message = message
        self.isWarning = isWarning
    }
}

/// Between a source that writes and the plugins that have something to write.
public final class WriterExchange: Sendable {
    private let shared = Mutex<(any ClusterWriter)?>(nil)

    public init() {}

    public var writer: (any ClusterWriter)? { shared.withLock { $0 } }

    public func offer(_ writer: any ClusterWriter) { shared.withLock { $0 = writer } }
}

extension Service {
    /// Addresses in `status.loadBalancer.ingress`.
    public var balancedAddresses: [IPAddress] {
        (status?.loadBalancer?.ingress ?? []).compactMap { $0.ip.flatMap { IPAddress($0) } }
    }

    /// What knetd wrote of its addresses.
    public var addressCondition: Status.Condition? {
        status?.conditions?.first { $0.type == ServiceAddresses.conditionType }
    }

    /// The same with what a writer put into its status.
    public func with(_ addresses: ServiceAddresses) -> Service {
        var service = self
        var status = service.status ?? Status(loadBalancer: nil)
        if let written = addresses.addresses {
            status.loadBalancer =
                written.isEmpty
                ? nil : .init(ingress: written.map { .init(ip: $0.description, ipMode: nil) })
        }
        var conditions = (status.conditions ?? []).filter { $0.type != ServiceAddresses.conditionType }
        if let condition = addresses.condition { conditions.append(condition) }
        status.conditions = conditions.isEmpty ? nil : conditions
        service.status = status
        return service
    }
}
