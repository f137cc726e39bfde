import ArgumentParser
import KnetCore

struct DNSCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dns", abstract: "Look into this node's DNS server.", subcommands: [Query.self])

    struct Query: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Ask the running daemon for a name, and show where the answer comes from.")

        @OptionGroup var config: ConfigOption
        @Argument(help: "The name.") var name: String
        @Argument(help: "The type of the records.") var type = "A"
        @Option(help: "Answer as to this pod of the node: NAME or NAMESPACE/NAME.") var from: String?
        @Flag(help: "Print JSON.") var json = false

        func run() throws {
            let answer = try config.describe(plugin: "dns", [name, type] + (from.map { [$0] } ?? []))
            print(json ? answer.text(pretty: true) : Self.text(answer))
        }

        private static func text(_ answer: JSONValue) -> String {
            func texts(_ key: String) -> [String] { (answer[key]?.array ?? []).compactMap(\.string) }
            let asked = "\(answer["name"]?.string ?? "") \(answer["type"]?.string ?? "")"
            return
                (["\(asked)  \(answer["code"]?.string ?? "")"] + texts("records").map { "  \($0)" }
                + texts("steps").map { "  - \($0)" })
                .joined(separator: "\n")
        }
    }
}
