import KnetCore

/// Measurements under CoreDNS's names, so that its dashboards fit (https://coredns.io/plugins/metrics/,
/// https://coredns.io/plugins/cache/).
enum DNSMetrics {
    static func measure(_ page: inout MetricsText, _ counts: QueryCounters, cache: (success: Int, denial: Int)) {
        let server = ["server": "dns://:53"]
        page.family("coredns_dns_requests_total", "counter", "Queries.")
        for family in IPFamily.allCases {
            for isDatagram in [true, false] {
                for (type, count) in zip(QueryCounters.types, counts.requests(family, isDatagram: isDatagram))
                where count > 0 {
                    page.sample(
                        "coredns_dns_requests_total",
                        server.merging([
                            "family": family == .v4 ? "1" : "2", "proto": isDatagram ? "udp" : "tcp",
                            "type": type == 0 ? "other" : RecordType.name(type), "zone": ".",
                        ]) { $1 }, Double(count))
                }
            }
        }
        page.family("coredns_dns_responses_total", "counter", "Answers.")
        for (code, count) in counts.responses.enumerated() where count > 0 {
            let name = ResponseCode(rawValue: UInt8(code))?.name ?? "\(code)"
            page.sample(
                "coredns_dns_responses_total", server.merging(["rcode": name, "zone": "."]) { $1 }, Double(count))
        }
        page.histogram("coredns_dns_request_duration_seconds", "Time from query to answer.", counts.durations)
        page.family("coredns_cache_entries", "gauge", "Answers that are held.")
        page.sample("coredns_cache_entries", server.merging(["type": "success"]) { $1 }, Double(cache.success))
        page.sample("coredns_cache_entries", server.merging(["type": "denial"]) { $1 }, Double(cache.denial))
        page.family("coredns_cache_hits_total", "counter", "Queries that were answered from what was held.")
        page.sample("coredns_cache_hits_total", server.merging(["type": "success"]) { $1 }, Double(counts.hits.success))
        page.sample("coredns_cache_hits_total", server.merging(["type": "denial"]) { $1 }, Double(counts.hits.denial))
        page.family("coredns_cache_misses_total", "counter", "Queries for which a server was asked.")
        page.sample("coredns_cache_misses_total", server, Double(counts.misses))
        page.family("coredns_cache_prefetch_total", "counter", "Answers that were fetched again ahead of time.")
        page.sample("coredns_cache_prefetch_total", server, Double(counts.prefetches))
    }

    /// - Parameter refusals: queries for which nobody was asked, since too many waited already.
    static func measure(
        _ page: inout MetricsText, _ upstreams: [(upstream: UpstreamAddress, health: UpstreamHealth)], refusals: Int
    ) {
        page.family(
            "coredns_forward_max_concurrent_rejects_total", "counter", "Queries that failed because too many waited.")
        page.sample("coredns_forward_max_concurrent_rejects_total", [:], Double(refusals))
        page.family("coredns_proxy_request_duration_seconds", "summary", "Time to an upstream's answer.")
        for (upstream, health) in upstreams where !health.answers.isEmpty {
            let labels = ["proxy_name": "forward", "to": "\(upstream)"]
            page.sample("coredns_proxy_request_duration_seconds_sum", labels, health.total / .seconds(1))
            page.sample(
                "coredns_proxy_request_duration_seconds_count", labels, Double(health.answers.values.reduce(0, +)))
        }
        page.family("knetd_dns_upstream_responses_total", "counter", "Answers of upstreams.")
        for (upstream, health) in upstreams {
            for (code, count) in health.answers.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
                page.sample(
                    "knetd_dns_upstream_responses_total", ["to": "\(upstream)", "rcode": code.name], Double(count))
            }
        }
        page.family(
            "coredns_forward_healthcheck_broken_total", "counter", "How often an upstream was found not to answer.")
        for (upstream, health) in upstreams {
            page.sample("coredns_forward_healthcheck_broken_total", ["to": "\(upstream)"], Double(health.broken))
        }
    }
}

extension ResponseCode {
    /// As dig prints it.
    var name: String {
        switch self {
        case .noError: "NOERROR"
        case .formatError: "FORMERR"
        case .serverFailure: "SERVFAIL"
        case .nameError: "NXDOMAIN"
        case .notImplemented: "NOTIMP"
        case .refused: "REFUSED"
        case .badVersion: "BADVERS"
        }
    }
}
