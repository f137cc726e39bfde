import ArgumentParser
import FoundationEssentials
import KnetCore
import KnetLinux

extension ConfigOption {
    /// What a plugin of the running daemon has to tell.
    /// - Throws: `ExitCode` after the reason was printed.
    func describe(plugin: String, _ words: [String]) throws -> JSONValue {
        let data: Data
        do {
            data = try AgentSocket.ask(
                load().agent.socketPath, JSONEncoder().encode(AgentRequest.describe(plugin: plugin, words: words)),
                descriptor: nil, seconds: 30)
        } catch let fault as AgentSocket.Fault {
            complain("\(fault)\nstart the daemon with `systemctl start knetd` or `knetd run`")
            throw ExitCode(1)
        }
        let reply = try JSONDecoder().decode(AgentReply.self, from: data)
        guard reply.succeeded, let body = reply.body else {
            complain(reply.body?["msg"]?.string ?? "the daemon gave no answer")
            throw ExitCode(1)
        }
        return body
    }
}
