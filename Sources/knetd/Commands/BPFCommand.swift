import ArgumentParser
import KnetCore

struct BPFCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bpf",
        abstract:
            "Show the BPF programs and maps of the plugin ebpf, which packets went past the host's stack, and which sockets got to Services.",
        subcommands: [Status.self], defaultSubcommand: Status.self)

    struct Status: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show programs, maps, packets and sockets; what is meant without a subcommand.")

        @OptionGroup var config: ConfigOption
        @Flag(help: "Print JSON.") var json = false

        func run() throws {
            let answer = try config.describe(plugin: "ebpfPath", [])
            let lines =
                BPFCommand.lines("packets between pods", answer)
                + BPFCommand.lines("Services", answer["services"] ?? .null)
            print(json ? answer.text(pretty: true) : lines.joined(separator: "\n"))
        }
    }

    fileprivate static func lines(_ title: String, _ answer: JSONValue) -> [String] {
        func number(_ value: JSONValue?) -> Int { value?.integer ?? 0 }
        let programs = (answer["programs"]?.array ?? []).map { program in
            let links = (program["links"]?.array ?? []).compactMap(\.string).joined(separator: " ")
            let time = program["nanosecondsEach"]?.integer.map { "  \($0) ns a packet" } ?? ""
            return "program \(program["name"]?.string ?? "") (id \(number(program["id"])))\(time)  on \(links)"
        }
        let maps = (answer["maps"]?.array ?? []).map { map in
            "map \(map["name"]?.string ?? "")  \(number(map["entries"])) of \(number(map["capacity"]))"
        }
        let packets = (answer["packets"]?.array ?? []).map { row in
            "\(number(row["packets"])) packets, \(number(row["bytes"])) bytes  \(row["explanation"]?.string ?? "")"
        }
        let sockets = (answer["sockets"]?.array ?? []).map { row in
            "\(number(row["count"])) \(row["explanation"]?.string ?? "")"
        }
        return ["\(title): \(answer["mode"]?.string ?? "not by ebpf")"] + programs + maps + packets + sockets
            + (answer["faults"]?.array ?? []).compactMap(\.string).map { "! \($0)" }
    }
}
