import ArgumentParser
import Glibc

@main
enum Entrance {
    /// The CNI mode comes first: a runtime waits for it, and it needs neither argument parsing nor logging nor event
    /// loops.
    static func main() async {
        if getenv("CNI_COMMAND") != nil { exit(CNIMode.run()) }
        await KnetdCommand.main()
    }
}
