import Glibc
import KnetCore
import KnetLinux

/// `/metrics` in Prometheus' text format
/// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format).
enum MetricsPage {
    static func text(
        _ report: StatusReport, generation: Generation, cni: [CNIRequest.Command: CNIMetrics.Figures]
    ) -> String {
        var page = MetricsText()
        page.family("knetd_build_info", "gauge", "Version of the running daemon.")
        page.sample("knetd_build_info", ["version": report.version], 1)
        page.family("knetd_ready", "gauge", "Whether pods can be attached.")
        page.sample("knetd_ready", [:], report.ready ? 1 : 0)
        page.family("knetd_peers", "gauge", "Other nodes of the cluster.")
        page.sample("knetd_peers", [:], Double(report.peers.count))
        page.family("knetd_peers_unreachable", "gauge", "Other nodes to which no way could be made.")
        page.sample("knetd_peers_unreachable", [:], Double(report.peers.count { $0.fault != nil }))
        source(report.source, &page)
        page.family("knetd_allocations", "gauge", "Interfaces of pods on this node.")
        page.sample("knetd_allocations", [:], Double(report.allocations.count))
        page.family("knetd_range_addresses", "gauge", "Addresses that pods of this node can have.")
        for range in report.ranges {
            page.sample("knetd_range_addresses", ["cidr": range.cidr.description], Double(range.size))
        }
        page.family("knetd_range_addresses_used", "gauge", "Addresses that pods of this node have.")
        for range in report.ranges {
            page.sample("knetd_range_addresses_used", ["cidr": range.cidr.description], Double(range.used))
        }
        let state = generation.state.current
        for (_, service) in generation.services.sorted(by: { $0.key < $1.key }) { service.measure(&page, in: state) }
        reconcilers(generation.reconcilers.map { ($0.name, $0.report) }, &page)
        page.family(
            "knetd_notifications_lost_total", "counter",
            "Times that the kernel dropped notifications; each was followed by a full comparison.")
        page.sample("knetd_notifications_lost_total", [:], Double(NetlinkMonitor.losses))
        page.family(
            "knetd_kernel_writes_total", "counter",
            "Netlink requests, nftables transactions and sysctls that change the kernel.")
        page.sample("knetd_kernel_writes_total", [:], Double(KernelWrites.total))
        page.family("knetd_cni_requests_total", "counter", "CNI requests by command and outcome.")
        for (command, figures) in cni.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            page.sample(
                "knetd_cni_requests_total", ["command": command.rawValue, "outcome": "success"],
                Double(figures.succeeded))
            page.sample(
                "knetd_cni_requests_total", ["command": command.rawValue, "outcome": "error"], Double(figures.failed))
        }
        page.family("knetd_cni_request_seconds", "summary", "Time that CNI requests took in the daemon.")
        for (command, figures) in cni.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            page.sample("knetd_cni_request_seconds_sum", ["command": command.rawValue], figures.seconds)
            page.sample(
                "knetd_cni_request_seconds_count", ["command": command.rawValue],
                Double(figures.succeeded + figures.failed))
        }
        return page.text
    }

    private static func source(_ source: SourceReport, _ page: inout MetricsText) {
        page.family("knetd_source_live", "gauge", "Whether the state is as the source has it now.")
        page.sample("knetd_source_live", [:], source.isLive ? 1 : 0)
        page.family("knetd_source_snapshot", "gauge", "Whether some of the state is from a snapshot.")
        page.sample("knetd_source_snapshot", [:], source.isFromSnapshot ? 1 : 0)
        page.family("knetd_source_stale_seconds", "gauge", "Seconds since the source was last heard, while it is away.")
        page.sample("knetd_source_stale_seconds", [:], Double(source.staleSeconds))
        page.family("knetd_source_faults", "gauge", "Documents and objects that are skipped.")
        page.sample("knetd_source_faults", [:], Double(source.faults.count))
        func each(_ name: String, _ type: String, _ help: String, _ value: (SourceReport.Kind) -> Int) {
            page.family(name, type, help)
            for kind in source.kinds { page.sample(name, ["kind": kind.kind], Double(value(kind))) }
        }
        each("knetd_source_objects", "gauge", "Objects that are known.") { $0.objects }
        each("knetd_source_followed", "gauge", "Whether changes are followed now.") { $0.isLive ? 1 : 0 }
        each("knetd_api_lists_total", "counter", "Lists that were read.") { $0.lists }
        each("knetd_api_watches_total", "counter", "Watches that were begun.") { $0.watches }
        each("knetd_api_events_total", "counter", "Events of watches.") { $0.events }
        page.family("knetd_api_requests_total", "counter", "Requests to the API server by status code.")
        for (code, count) in source.requests.sorted(by: { $0.key < $1.key }) {
            page.sample("knetd_api_requests_total", ["code": code], Double(count))
        }
    }

    private static func reconcilers(_ reports: [(String, ReconcilerReport)], _ page: inout MetricsText) {
        func each(_ name: String, _ type: String, _ help: String, _ value: (ReconcilerReport) -> Double) {
            page.family(name, type, help)
            for (plugin, report) in reports { page.sample(name, ["plugin": plugin], value(report)) }
        }
        each("knetd_entries", "gauge", "Entries that a plugin wants in the kernel.") { Double($0.entries) }
        each("knetd_entries_added_total", "counter", "Entries added or replaced.") { Double($0.entriesAdded) }
        each("knetd_entries_removed_total", "counter", "Entries removed.") { Double($0.entriesRemoved) }
        each("knetd_apply_failures_total", "counter", "Entries that the kernel refused.") { Double($0.failures) }
        each("knetd_passes_total", "counter", "Turns of the reconciler.") { Double($0.passes) }
        each("knetd_resyncs_total", "counter", "Full comparisons with the kernel.") { Double($0.resyncs) }
        each("knetd_faulty_objects", "gauge", "Objects that cannot be brought into force.") { Double($0.faults.count) }
        each("knetd_last_pass_seconds", "gauge", "Time that the last turn took.") { $0.lastPassSeconds }
    }
}
