import ArgumentParser
import KnetCore

struct ServicesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "services",
        abstract: "Show Services with their endpoints as the kernel holds them, and why an endpoint is not used.")

    @OptionGroup var config: ConfigOption
    @Argument(help: "NAME or NAMESPACE/NAME; all of them without one.") var name: String?
    @Flag(help: "Print JSON.") var json = false

    func run() throws {
        let services = try config.describe(plugin: "serviceProxy", name.map { [$0] } ?? [])
        print(json ? services.text(pretty: true) : Self.text(services))
    }

    private static func text(_ services: JSONValue) -> String {
        (services.array ?? []).flatMap(lines).joined(separator: "\n")
    }

    private static func lines(_ service: JSONValue) -> [String] {
        func text(_ value: JSONValue?) -> String { value?.string ?? "" }
        func list(_ value: JSONValue?) -> String {
            let texts = (value?.array ?? []).compactMap(\.string)
            return texts.isEmpty ? "nobody" : texts.joined(separator: " ")
        }
        var lines = ["\(text(service["namespace"]))/\(text(service["name"]))  \(text(service["type"]))"]
        lines += (service["problems"]?.array ?? []).compactMap(\.string).map { "  ! \($0)" }
        for port in service["ports"]?.array ?? [] {
            for frontend in port["frontends"]?.array ?? [] {
                let start = "  \(text(port["transport"])) \(text(frontend["address"]))"
                guard frontend["isInKernel"] == true else {
                    lines.append("\(start)  is not in the kernel")
                    continue
                }
                lines.append("\(start)  → \(list(frontend["endpoints"]))")
                if frontend["forClientsOutside"]?.array != nil {
                    lines.append("\(start)  → \(list(frontend["forClientsOutside"]))  for clients outside")
                }
            }
            lines += (port["unused"]?.array ?? []).map {
                "    \(text($0["endpoint"]))  is not used: \(text($0["reason"]))"
            }
        }
        return lines
    }
}
