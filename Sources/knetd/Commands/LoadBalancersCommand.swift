import ArgumentParser
import KnetCore

struct LoadBalancersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "loadbalancers",
        abstract: "Show the addresses of Services of type LoadBalancer, why one has none, and how full the pools are.")

    @OptionGroup var config: ConfigOption
    @Flag(help: "Print JSON.") var json = false

    func run() throws {
        let told = try config.describe(plugin: "loadBalancer", [])
        print(json ? told.text(pretty: true) : Self.text(told))
    }

    private static func text(_ told: JSONValue) -> String {
        func text(_ value: JSONValue?) -> String { value?.string ?? "" }
        var lines = ["addresses are given by \(told["writer"]?.string ?? "nobody")"]
        for pool in told["pools"]?.array ?? [] {
            lines.append(
                "pool \(text(pool["name"])) \(text(pool["family"])): \(pool["used"]?.integer ?? 0) of \(pool["of"]?.integer ?? 0) in use"
            )
        }
        for node in told["nodes"]?.array ?? [] {
            lines.append("node \(text(node["node"])) is \(text(node["liveness"]))")
        }
        for service in told["services"]?.array ?? [] {
            let addresses = (service["addresses"]?.array ?? []).compactMap(\.string)
            lines.append(
                "\(text(service["namespace"]))/\(text(service["name"]))  \(addresses.isEmpty ? "none" : addresses.joined(separator: " "))  \(text(service["reason"]))"
            )
            for answer in service["announced"]?.array ?? [] {
                lines.append(
                    "    \(text(answer["address"])) is answered for by \(answer["by"]?.string ?? "nobody: \(text(answer["reason"]))")"
                )
            }
        }
        return lines.joined(separator: "\n")
    }
}
