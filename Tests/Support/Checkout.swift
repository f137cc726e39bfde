import Glibc

/// Where the sources and what was built of them lie.
public enum Checkout {
    /// The folder of Package.swift.
    public static let path = #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" }

    /// The executable under test, built with the tests.
    public static var executable: String {
        getenv("KNETD_EXECUTABLE").map { String(cString: $0) } ?? "\(path)/.build/debug/knetd"
    }

    /// The benchmark program, built with the tests.
    public static let benchmark = "\(path)/.build/debug/knetd-bench"
}
