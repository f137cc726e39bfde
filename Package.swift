// swift-tools-version: 6.2
import PackageDescription

/// The table of plugins. One row drives the plugin's target, its tests and its trait.
/// `Sources/knetd/Plugins.swift` holds the matching line; `PluginTableTests` compares the two with the folders.
let plugins: [(trait: String, folder: String, summary: String)] = [
    ("Overlay", "overlay", "VXLAN between nodes, in Flannel's dialect"),
    ("Routed", "routed", "direct routes to nodes on the same subnet"),
    ("EBPF", "ebpf", "pod traffic past the host's stack"),
    ("ServiceProxy", "service-proxy", "Kubernetes Services by nftables"),
    ("DNS", "dns", "the cluster's names, and a cache for all others"),
    ("NetworkPolicy", "network-policy", "who may talk to whom"),
    ("Flows", "flows", "who talks to whom, and why not"),
    ("BGP", "bgp", "routes to and from the real network"),
    ("LoadBalancer", "load-balancer", "addresses for Services of type LoadBalancer"),
]

/// What plugins use beside the common libraries.
let libraries: [String: [Target.Dependency]] = [
    "DNS": [
        .product(name: "Logging", package: "swift-log"), .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"), .product(name: "NIOSSL", package: "swift-nio-ssl"),
    ],
    "BGP": [
        "CMnl", "KnetBFD", .product(name: "Logging", package: "swift-log"),
        .product(name: "NIOCore", package: "swift-nio"), .product(name: "NIOPosix", package: "swift-nio"),
    ],
    "LoadBalancer": ["CMnl", "KnetBFD", .product(name: "Logging", package: "swift-log")],
    // Its transports are theirs, and what Services are.
    "EBPF": [
        "CBPF", "CKnetBPF", "OverlayPlugin", "RoutedPlugin", "ServiceProxyPlugin",
        .product(name: "Logging", package: "swift-log"),
    ],
]

let strict: [SwiftSetting] =
    [
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
    ] + (Context.environment["KNETD_WARNINGS_ARE_ERRORS"] == nil ? [] : [.treatAllWarnings(as: .error)])

/// Tests/fuzz.sh: the DNS module with libFuzzer's eyes.
let fuzzing: [SwiftSetting] =
    Context.environment["KNETD_FUZZ"] == nil ? [] : [.unsafeFlags(["-sanitize=fuzzer", "-parse-as-library"])]
let fuzzers: [Target] =
    fuzzing.isEmpty
    ? []
    : [
        .executableTarget(
            name: "dns-fuzz",
            dependencies: [
                "DNSPlugin", "KnetCore", .product(name: "HashTreeCollections", package: "swift-collections"),
            ],
            path: "Tests/Fuzz", exclude: ["Corpus"], swiftSettings: fuzzing,
            linkerSettings: [.unsafeFlags(["-sanitize=fuzzer"])])
    ]

let pluginTargets: [Target] = plugins.flatMap { plugin -> [Target] in
    [
        .target(
            name: "\(plugin.trait)Plugin",
            dependencies: [
                "KnetCore", "KnetLinux", "KnetDataplane",
                .product(name: "HashTreeCollections", package: "swift-collections"),
            ] + libraries[plugin.trait, default: []],
            path: "plugins/\(plugin.folder)/Sources",
            swiftSettings: strict + (plugin.trait == "DNS" ? fuzzing : []),
            plugins: plugin.trait == "EBPF" ? ["EmbedPrograms"] : []
        ),
        .testTarget(
            name: "\(plugin.trait)PluginTests",
            dependencies: [
                "KnetCore", "KnetLinux", "KnetDataplane", "TestSupport", .byName(name: "\(plugin.trait)Plugin"),
            ] + libraries[plugin.trait, default: []],
            path: "plugins/\(plugin.folder)/Tests",
            swiftSettings: strict
        ),
    ]
}

let package = Package(
    name: "knetd",
    products: [
        .executable(name: "knetd", targets: ["knetd"]), .executable(name: "knetd-bench", targets: ["knetd-bench"]),
    ],
    traits: Set(plugins.map { .trait(name: $0.trait, description: $0.summary) })
        .union([.default(enabledTraits: Set(plugins.map(\.trait)))]),
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        // Its traits read streams of full Foundation.
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0", traits: []),
    ],
    targets: [
        // Without pkgConfig: that would have the linker look among the system's libraries before the Makefile's archives.
        .systemLibrary(name: "CBPF"),
        .systemLibrary(name: "CMnl"),
        .systemLibrary(name: "CNftables"),
        .systemLibrary(name: "CSQLite"),
        .systemLibrary(name: "CYaml"),
        .systemLibrary(name: "CKnetBPF", path: "plugins/ebpf/bpf/include"),
        .plugin(name: "EmbedPrograms", capability: .buildTool(), path: "plugins/ebpf/build"),
        .target(
            name: "KnetCore",
            dependencies: [
                "CSQLite",
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        .target(
            name: "KnetLinux",
            dependencies: ["KnetCore", "CMnl", "CNftables"],
            swiftSettings: strict
        ),
        .target(
            name: "KnetDataplane",
            dependencies: [
                "KnetCore", "KnetLinux", .product(name: "HashTreeCollections", package: "swift-collections"),
            ],
            swiftSettings: strict
        ),
        .target(name: "KnetBFD", dependencies: ["KnetCore", "KnetLinux"], swiftSettings: strict),
        .target(name: "KnetYAML", dependencies: ["CYaml", "KnetCore"], swiftSettings: strict),
        .target(
            name: "KnetManifests",
            dependencies: [
                "KnetCore", "KnetLinux", "KnetYAML",
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        .target(
            name: "KnetKubernetes",
            dependencies: [
                "KnetCore", "KnetLinux", "KnetYAML",
                .product(name: "AsyncHTTPClient", package: "async-http-client"),
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ],
            exclude: ["Wire/kubernetes.proto"],
            swiftSettings: strict
        ),
        .target(
            name: "KnetPlayground",
            dependencies: ["CMnl", "KnetCore", "KnetLinux"],
            swiftSettings: strict
        ),
        .executableTarget(
            name: "knetd-bench",
            dependencies: [
                "APIDouble", "CMnl", "KnetCore", "KnetKubernetes", "KnetLinux", "KnetPlayground", "ServiceProxyPlugin",
                "DNSPlugin", "EBPFPlugin", "NetworkPolicyPlugin",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict
        ),
        .executableTarget(
            name: "knetd",
            dependencies: [
                "CMnl", "CNftables", "KnetBFD", "KnetCore", "KnetLinux", "KnetDataplane", "KnetKubernetes",
                "KnetManifests",
                "KnetPlayground",
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ]
                + plugins.map {
                    .byName(name: "\($0.trait)Plugin", condition: .when(traits: [$0.trait]))
                },
            swiftSettings: strict
        ),
        .testTarget(
            name: "KnetCoreTests",
            dependencies: [
                "CSQLite", "KnetCore", "TestSupport",
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "KnetManifestsTests", dependencies: ["KnetCore", "KnetManifests"], swiftSettings: strict),
        .testTarget(
            name: "KnetBFDTests", dependencies: ["KnetBFD", "KnetCore", "KnetLinux", "TestSupport"],
            swiftSettings: strict),
        .testTarget(name: "KnetYAMLTests", dependencies: ["KnetCore", "KnetYAML"], swiftSettings: strict),
        .target(name: "TestSupport", path: "Tests/Support", swiftSettings: strict),
        .target(
            name: "APIDouble",
            dependencies: [
                "KnetCore", "KnetLinux", "KnetPlayground", "TestSupport",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "APIDoubleTests",
            dependencies: [
                "APIDouble", "KnetCore", "KnetKubernetes", "TestSupport",
                .product(name: "AsyncHTTPClient", package: "async-http-client"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "KnetKubernetesTests",
            dependencies: [
                "APIDouble", "KnetCore", "KnetKubernetes", "TestSupport",
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "IntegrationTests",
            dependencies: ["KnetCore", "KnetLinux", "KnetDataplane", "TestSupport"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "EndToEndTests",
            dependencies: [
                "APIDouble", "CMnl", "knetd", "knetd-bench", "KnetCore", "KnetLinux", "KnetDataplane",
                "KnetKubernetes", "KnetPlayground", "KnetYAML", "TestSupport", "EBPFPlugin",
            ],
            swiftSettings: strict
        ),
    ] + pluginTargets + fuzzers,
    swiftLanguageModes: [.v6]
)
