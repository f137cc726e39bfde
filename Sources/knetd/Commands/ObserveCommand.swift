import ArgumentParser
import Glibc
import KnetCore

struct ObserveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "observe",
        abstract:
            "Show connections of this node's pods as they begin, end, are denied or refused; needs the plugin flows.")

    @OptionGroup var config: ConfigOption
    @Option(help: "Of this pod alone: NAME or NAMESPACE/NAME.") var pod: String?
    @Flag(help: "Denied and refused ones alone.") var drop = false
    @Flag(help: "Go on until interrupted, or until the daemon ends.") var follow = false
    @Flag(help: "Print a JSON object for each.") var json = false

    func run() throws {
        let name = pod.map { $0.contains("/") ? $0 : "default/\($0)" }
        let filters = (drop ? ["drop"] : []) + (name.map { ["pod", $0] } ?? [])
        var last = 0
        repeat {
            let answer = try config.describe(plugin: "flows", ["\(last)"] + filters)
            for flow in answer["flows"]?.array ?? [] { print(json ? flow.text() : Self.text(flow)) }
            fflush(nil)
            last = answer["last"]?.integer ?? last
            if follow { usleep(250_000) }
        } while follow
    }

    private static func text(_ flow: JSONValue) -> String {
        func end(_ side: String, _ port: String) -> String {
            let port = flow[port]?.integer.map { ":\($0)" } ?? ""
            let address = flow[side]?.string ?? ""
            let place = (address.contains(":") && !port.isEmpty ? "[\(address)]" : address) + port
            return flow["\(side)Pod"]?.string.map { "\($0) (\(place))" } ?? place
        }
        let service = flow["service"]?.string.map { "  for \($0)" } ?? ""
        let reason = flow["reason"]?.string.map { ": \($0)" } ?? ""
        let counts = ["sent", "answered"].compactMap { side in
            flow[side]?["bytes"]?.integer.map { "\($0) bytes \(side)" }
        }
        return
            "\(flow["time"]?.string ?? "") \(flow["protocol"]?.string ?? "") \(end("source", "sourcePort")) → "
            + "\(end("destination", "port"))\(service)  \(flow["event"]?.string ?? "")\(reason)"
            + (counts.isEmpty ? "" : "  \(counts.joined(separator: ", "))")
    }
}
