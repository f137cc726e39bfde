/// The device that holds the addresses at which this node answers DNS queries.
public enum DomainServiceLink {
    public static let name = "kdns"
    /// knetd's mark.
    public static let alias = "knetd dns"
}
