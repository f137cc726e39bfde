import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport

/// A router of another make, in the playground's router: what a rack has at its top. It knows the nodes by BGP alone.
final class TopOfRack {
    enum Make: String, CaseIterable, Sendable {
        case frr, bird, gobgp
    }

    struct Options {
        /// The router's AS.
        var localAS = 64500
        var nodeAS = 64512
        /// Over which sessions run; each carries both families.
        var transport = IPFamily.v4
        var password: String?
        var hasTTLSecurity = false
        var hasGracefulRestart = false
        var hasBFD = false
        /// Nodes may connect from the whole network, without being named.
        var isDynamic = false
        /// What it tells, IPv4 and IPv6.
        var prefixes = ["203.0.113.0/24", "fd99::/64"]
        /// And so many addresses from 20.0.0.0 on, from FRR.
        var more = 0

        var isInternal: Bool { localAS == nodeAS }
    }

    let make: Make
    private let options: Options
    private let playground: Playground
    private let directory: String
    private let namespace: NetworkNamespace
    private var processes: [Int32] = []

    init(_ make: Make, _ options: Options, _ playground: Playground) throws {
        self.make = make
        self.options = options
        self.playground = playground
        directory = "\(playground.directory)/router"
        namespace = try playground.namespace("lan")
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        // FRR gives up root's rights.
        chmod(directory, 0o777)
        chmod(playground.directory, 0o755)
        switch make {
        case .frr: try startFRR()
        case .bird: try startBIRD()
        case .gobgp: try startGoBGP()
        }
    }

    func stop(signal: Int32 = SIGTERM) {
        for process in processes { kill(process, signal) }
        processes = []
        usleep(300_000)
    }

    var address: IPAddress? { IPAddress(options.transport == .v4 ? "192.168.77.1" : "fd77::1") }

    private var nodes: [String] {
        playground.nodeNames.compactMap { playground.address(of: $0, options.transport)?.description }
    }

    private func write(_ text: String, _ name: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: "\(directory)/\(name)"))
    }

    private func start(_ command: String) throws {
        let text = try shell(
            "cd \(directory); setsid sh -c '\(command)' >>\(directory)/log 2>&1 </dev/null & echo $!", in: namespace)
        if let process = Int32(text.split(whereSeparator: \.isWhitespace).first ?? "") { processes.append(process) }
    }

    private func wait(for file: String) throws {
        for _ in 0..<500 where !FileManager.default.fileExists(atPath: "\(directory)/\(file)") { usleep(10_000) }
        guard FileManager.default.fileExists(atPath: "\(directory)/\(file)") else {
            throw Playground.Failure("\(make.rawValue) does not start: \(log)")
        }
    }

    var log: String {
        ["log", "bgpd.log", "zebra.log"].compactMap {
            try? String(contentsOfFile: "\(directory)/\($0)", encoding: .utf8)
        }
        .map { String($0.suffix(3_000)) }.joined()
    }

    // MARK: FRR

    private func startFRR() throws {
        var lines = [
            "router bgp \(options.localAS)", " bgp router-id 192.168.77.1", " no bgp default ipv4-unicast",
            " no bgp network import-check", " bgp bestpath as-path multipath-relax",
        ]
        if !options.isInternal { lines.append(" no bgp ebgp-requires-policy") }
        if options.hasGracefulRestart {
            lines += [" bgp graceful-restart", " bgp graceful-restart stalepath-time 60"]
        }
        lines += [" neighbor nodes peer-group", " neighbor nodes remote-as \(options.nodeAS)"]
        if let password = options.password { lines.append(" neighbor nodes password \(password)") }
        if options.hasTTLSecurity { lines.append(" neighbor nodes ttl-security hops 1") }
        if options.hasBFD { lines.append(" neighbor nodes bfd profile fast") }
        lines += [
            " neighbor nodes timers 3 9", " neighbor nodes timers connect 1",
            " neighbor nodes advertisement-interval 0",
        ]
        if options.isDynamic {
            lines.append(
                " bgp listen range \(options.transport == .v4 ? "192.168.77.0/24" : "fd77::/64") peer-group nodes")
        } else {
            lines += nodes.map { " neighbor \($0) peer-group nodes" }
        }
        for (family, prefix) in zip(["ipv4", "ipv6"], options.prefixes) {
            lines += [" address-family \(family) unicast", "  maximum-paths 16", "  maximum-paths ibgp 16"]
            lines.append("  neighbor nodes activate")
            if options.isInternal {
                lines += ["  neighbor nodes route-reflector-client", "  neighbor nodes next-hop-self"]
            } else {
                lines.append("  neighbor nodes as-override")
            }
            lines.append("  network \(prefix)")
            if family == "ipv4" {
                lines += (0..<options.more).map { "  network 20.\($0 >> 16).\($0 >> 8 & 255).\($0 & 255)/32" }
            }
            lines.append(" exit-address-family")
        }
        try write("hostname rack\nlog file \(directory)/bgpd.log\n" + lines.joined(separator: "\n") + "\n", "bgpd.conf")
        try write("hostname rack\n", "zebra.conf")
        try write(
            "bfd\n profile fast\n  receive-interval 100\n  transmit-interval 100\n  detect-multiplier 3\n exit\nexit\n",
            "bfdd.conf")
        try write("", "vtysh.conf")
        _ = try shell("chown -R frr:frr \(directory)", in: namespace)
        let common = "-u frr -g frr --vty_socket \(directory) -z \(directory)/zserv.api -P 0"
        // FRR keeps a file in /var/tmp: one of its own.
        for daemon in ["zebra"] + (options.hasBFD ? ["bfdd"] : []) + ["bgpd"] {
            let extra = daemon == "bfdd" ? "--bfdctl \(directory)/bfdd.sock" : ""
            try start(
                "exec unshare --mount sh -c \"mount -t tmpfs tmpfs /var/tmp; exec /usr/lib/frr/\(daemon) \(common) -f \(directory)/\(daemon).conf -i \(directory)/\(daemon).pid \(extra)\""
            )
            try wait(for: daemon == "zebra" ? "zserv.api" : "\(daemon).vty")
        }
    }

    private func vtysh(_ command: String) throws -> String {
        try shell("vtysh --vty_socket \(directory) --config_dir \(directory) -c '\(command)'", in: namespace)
    }

    // MARK: BIRD

    private func startBIRD() throws {
        let isSix = options.transport == .v6
        var text = """
            router id 192.168.77.1;
            log stderr all;
            protocol device { scan time 1; }
            protocol kernel { ipv4 { export where source = RTS_BGP; import none; }; merge paths on limit 16; }
            protocol kernel { ipv6 { export where source = RTS_BGP; import none; }; merge paths on limit 16; }
            protocol static { ipv4; route \(options.prefixes[0]) blackhole; }
            protocol static { ipv6; route \(options.prefixes[1]) blackhole; }

            """
        if options.hasBFD { text += "protocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; }\n" }
        // Nodes are told of each other: as an internal reflector, or with the router's AS in the place of theirs.
        let channel = { (hop: String) in
            "{ import all; export filter { \(self.options.isInternal ? "accept" : "bgp_path.delete(\(self.options.nodeAS)); accept"); }; "
                + "add paths off; \(self.options.isInternal ? "gateway direct; " : "")\(hop) };"
        }
        func session(_ name: String, _ neighbour: String) -> String {
            """
            protocol bgp \(name) {
              local \(isSix ? "fd77::1" : "192.168.77.1") as \(options.localAS);
              neighbor \(neighbour)\(options.isDynamic ? (options.isInternal ? " internal" : " external") : " as \(options.nodeAS)");
              \(options.isDynamic ? "dynamic name \"node\";" : "")
              \(options.password.map { "password \"\($0)\";" } ?? "")
              \(options.hasTTLSecurity ? "ttl security on;" : "")
              \(options.hasBFD ? "bfd on;" : "")
              \(options.hasGracefulRestart ? "graceful restart on; graceful restart time 60;" : "graceful restart off;")
              \(options.isInternal ? "direct; rr client;" : "")
              hold time 9; keepalive time 3; connect delay time 1; connect retry time 1; error wait time 1, 2;
              ipv4 \(channel(isSix ? "next hop address 192.168.77.1;" : ""))
              ipv6 \(channel(isSix ? "" : "next hop address fd77::1;"))
            }

            """
        }
        if options.isDynamic {
            text += session("nodes", "range \(isSix ? "fd77::/64" : "192.168.77.0/24")")
        } else {
            for (index, node) in nodes.enumerated() { text += session("node\(index + 1)", node) }
        }
        try write(text, "bird.conf")
        try start("exec bird -f -c \(directory)/bird.conf -s \(directory)/bird.ctl -P \(directory)/bird.pid")
        try wait(for: "bird.ctl")
    }

    private func birdc(_ command: String) throws -> String {
        try shell("birdc -s \(directory)/bird.ctl '\(command)'", in: namespace)
    }

    // MARK: GoBGP

    private func startGoBGP() throws {
        let own = options.transport == .v4 ? "192.168.77.1" : "fd77::1"
        var text = """
            [global.config]
              as = \(options.localAS)
              router-id = "192.168.77.1"
              port = 179
              local-address-list = ["\(own)"]
            [global.use-multiple-paths.config]
              enabled = true

            """
        for node in nodes {
            text += """
                [[neighbors]]
                  [neighbors.config]
                    neighbor-address = "\(node)"
                    peer-as = \(options.nodeAS)
                    \(options.password.map { "auth-password = \"\($0)\"" } ?? "")
                  [neighbors.timers.config]
                    hold-time = 9
                    keepalive-interval = 3
                    connect-retry = 1
                  \(options.hasTTLSecurity ? "[neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255" : "")
                  \(options.hasGracefulRestart ? "[neighbors.graceful-restart.config]\n    enabled = true\n    helper-only = true\n    restart-time = 60" : "")
                  \(options.isInternal ? "[neighbors.route-reflector.config]\n    route-reflector-client = true\n    route-reflector-cluster-id = \"192.168.77.1\"" : "[neighbors.as-path-options.config]\n    replace-peer-as = true")

                """
            for family in ["ipv4-unicast", "ipv6-unicast"] {
                text += """
                      [[neighbors.afi-safis]]
                        [neighbors.afi-safis.config]
                          afi-safi-name = "\(family)"
                        \(options.hasGracefulRestart ? "[neighbors.afi-safis.mp-graceful-restart.config]\n          enabled = true" : "")

                    """
            }
        }
        try write(text, "gobgpd.toml")
        try start(
            "exec gobgpd -f \(directory)/gobgpd.toml -t toml --pprof-disable --api-hosts unix://\(directory)/api.sock")
        try wait(for: "api.sock")
        for _ in 0..<100 where (try? gobgp("global")) == nil { usleep(50_000) }
        for (prefix, hop) in zip(options.prefixes, ["192.168.77.1", "fd77::1"]) {
            _ = try gobgp("global rib add \(prefix) nexthop \(hop) -a \(prefix.contains(":") ? "ipv6" : "ipv4")")
        }
    }

    private func gobgp(_ command: String) throws -> String {
        try shell("gobgp --target unix://\(directory)/api.sock \(command)", in: namespace)
    }

    // MARK: What it knows

    /// The nodes' addresses through which it reaches the prefix: in the kernel, or with GoBGP, which leaves that alone, in its table.
    func gateways(_ prefix: String) throws -> Set<String> {
        let isSix = prefix.contains(":")
        if make == .gobgp {
            let text = try gobgp("global rib \(prefix) -a \(isSix ? "ipv6" : "ipv4") -j")
            guard let json = try? JSONValue(parsing: Data(text.utf8)) else { return [] }
            let paths = (json.object ?? [:]).values.flatMap { $0.array ?? [] }
            return Set(
                paths.filter { $0["stale"] != true || options.hasGracefulRestart }.flatMap { $0["attrs"]?.array ?? [] }
                    .compactMap { $0["nexthop"]?.string ?? $0["nexthops"]?.string })
        }
        let text = try shell("ip \(isSix ? "-6" : "-4") route show \(prefix)", in: namespace)
        let words = text.split(whereSeparator: \.isWhitespace).map(String.init)
        return Set(words.indices.dropLast().filter { words[$0] == "via" }.map { words[$0 + 1] })
    }

    /// Asks its peers to tell everything again; GoBGP only looks again at what it has.
    func refresh() throws {
        switch make {
        case .frr: _ = try vtysh("clear bgp * soft in")
        case .bird: for index in nodes.indices { _ = try birdc("reload in node\(index + 1)") }
        case .gobgp: _ = try gobgp("neighbor all softresetin")
        }
    }
}
