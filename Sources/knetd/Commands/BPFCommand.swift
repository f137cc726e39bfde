import ArgumentParser
import KnetCore

struct BPFCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bpf",
        abstract: "Show the BPF programs and maps of the plugin ebpf, and which packets went past the host's stack.")

    @OptionGroup var config: ConfigOption
    @Flag(help: "Print JSON.") var json = false

    func run() throws {
        let answer = try config.describe(plugin: "ebpfPath", [])
        print(json ? answer.text(pretty: true) : Self.lines(answer).joined(separator: "\n"))
    }

    private static func lines(_ answer: JSONValue) -> [String] {
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
        return ["packets between pods: \(answer["mode"]?.string ?? "")"] + programs + maps + packets
            + (answer["faults"]?.array ?? []).compactMap(\.string).map { "! \($0)" }
    }
}
