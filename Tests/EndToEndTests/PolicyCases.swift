extension PolicyCase {
    /// NetworkPolicies as somebody means them.
    static let networkPolicies: [PolicyCase] = [
        .init("without policies everything passes", "{}", allowed: 648),

        // Both sides, and what is left out.
        .init("ingress is denied to a namespace", "x/p: {podSelector: {}, policyTypes: [Ingress]}", allowed: 456),
        .init("egress is denied to a namespace", "x/p: {podSelector: {}, policyTypes: [Egress]}", allowed: 456),
        .init("both are denied to a namespace", "x/p: {podSelector: {}, policyTypes: [Ingress, Egress]}", allowed: 312),
        .init(
            "ingress is denied to one pod", "x/p: {podSelector: $a, policyTypes: [Ingress]}",
            allowed: 584),
        .init("everything is denied everywhere", denied(["x", "y", "z"], "Ingress, Egress"), allowed: 72),
        .init("a policy without a word more is one for ingress", "x/p: {podSelector: {}}", allowed: 456),
        .init("an empty list of rules admits nothing", "x/p: {podSelector: {}, ingress: []}", allowed: 456),
        .init("an empty rule admits everything", "x/p: {podSelector: {}, ingress: [{}]}", allowed: 648),
        .init("an empty list of peers means all", "x/p: {podSelector: {}, ingress: [{from: [], ports: [{port: 80}]}]}"),
        .init(
            "an empty list of ports means all",
            "x/p: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: []}]}"),
        .init(
            "rules of a side that is not named do not count",
            "x/p: {podSelector: {}, policyTypes: [Egress], ingress: [{}]}"),
        .init(
            "egress rules do not count where only ingress is named",
            "x/p: {podSelector: {}, policyTypes: [Ingress], egress: [{to: [{podSelector: {}}]}]}", allowed: 456),
        .init(
            "egress rules make a policy one for both sides",
            "x/p: {podSelector: {}, egress: [{to: [{namespaceSelector: $y}]}]}"),
        .init("an empty list of egress rules does not", "x/p: {podSelector: {}, egress: []}", allowed: 456),
        .init("a namespace that no pod is in", "w/p: {podSelector: {}, policyTypes: [Ingress, Egress]}", allowed: 648),

        // Peers by labels.
        .init(
            "a namespace keeps to itself", "x/p: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}",
            allowed: 504),
        .init(
            "a pod of the same namespace by its label",
            "x/p: {podSelector: $a, ingress: [{from: [{podSelector: $b}]}]}",
            allowed: 592),
        .init(
            "all pods of all namespaces", "x/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}",
            allowed: 648),
        .init(
            "all pods of a namespace by its label",
            "x/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: $y}]}]}"),
        .init(
            "both in one peer must hold",
            """
            x/p: {podSelector: {}, ingress: [{from: [
              {namespaceSelector: $y, podSelector: $b}]}]}
            """, allowed: 480),
        .init(
            "of two peers one is enough",
            """
            x/p: {podSelector: {}, ingress: [{from: [
              {namespaceSelector: $y}, {podSelector: $b}]}]}
            """, allowed: 544),
        .init(
            "all of several labels must be there",
            "x/p: {podSelector: {matchLabels: {pod: a, role: client}}, policyTypes: [Ingress]}", allowed: 648),
        .init(
            "a value among several",
            ingress("{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [x, z]}]}}")),
        .init(
            "a value not among several",
            ingress("{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x, z]}]}}")),
        .init(
            "a label that is there",
            ingress("{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}}"),
            namespaces: ["y": ["team": ""]]),
        .init(
            "a label that is not there",
            ingress("{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}"),
            namespaces: ["y": ["team": "red", "ns": "y"]]),
        .init(
            "without the label no value is among those excluded",
            ingress("{podSelector: {matchExpressions: [{key: role, operator: NotIn, values: [web]}]}}"),
            pods: ["x/b": ["pod": "b"], "x/c": [:]]),
        .init(
            "all of several expressions must hold",
            """
            x/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {role: client},
              matchExpressions: [{key: pod, operator: In, values: [a, b]}, {key: pod, operator: NotIn, values: [a]}]}}]}]}
            """),
        .init(
            "subjects by an expression",
            "x/p: {podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, policyTypes: [Ingress]}",
            allowed: 520),
        .init("a pod without labels is among all", denied(["x"], "Ingress"), allowed: 456, pods: ["x/b": [:]]),
        .init(
            "a pod without labels is not meant by any",
            "x/p: {podSelector: {matchExpressions: [{key: pod, operator: Exists}]}, policyTypes: [Ingress]}",
            allowed: 520, pods: ["x/b": [:]]),
        .init(
            "a namespace without labels is among all and meant by none",
            """
            x/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: Exists}]}}]}]}
            y/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}
            """, allowed: 576, namespaces: ["z": [:]]),
        .init(
            "two namespaces of one label", ingress("{namespaceSelector: $y}"),
            namespaces: ["y": ["ns": "y"], "z": ["ns": "y"]]),

        // Blocks of addresses.
        .init("one IPv4 address", ingress("{ipBlock: {cidr: '@y/b4/32'}}"), allowed: 468),
        .init("one IPv6 address", ingress("{ipBlock: {cidr: '@z/a6/128'}}"), allowed: 468),
        .init("the range of a node", ingress("{ipBlock: {cidr: 10.42.1.0/24}}, {ipBlock: {cidr: 'fd42:0:0:1::/64'}}")),
        .init("a range without one address", ingress("{ipBlock: {cidr: 10.42.1.0/24, except: ['@y/b4/32']}}")),
        .init("all of IPv4 without a node's range", ingress("{ipBlock: {cidr: 0.0.0.0/0, except: [10.42.2.0/24]}}")),
        .init(
            "all of IPv6 without two addresses",
            ingress("{ipBlock: {cidr: '::/0', except: ['@x/b6/128', '@z/c6/128']}}")),
        .init(
            "what one block leaves out another admits",
            ingress("{ipBlock: {cidr: 10.42.0.0/16, except: [10.42.1.0/24]}}, {ipBlock: {cidr: '@z/c4/32'}}")),
        .init(
            "what one policy leaves out another admits",
            """
            x/p: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.42.0.0/16, except: ['@y/a4/32']}}]}]}
            x/q: {podSelector: $b, ingress: [{from: [{ipBlock: {cidr: '@y/a4/32'}}]}]}
            """),
        .init(
            "egress to addresses",
            """
            x/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [
              {ipBlock: {cidr: '@y/a4/32'}}, {ipBlock: {cidr: '@y/b6/128'}}]}]}
            """
        ),

        // Ports.
        .init("one port of TCP", ports("{protocol: TCP, port: 80}"), allowed: 504),
        .init("one port of UDP", ports("{protocol: UDP, port: 81}"), allowed: 504),
        .init("a port alone is one of TCP", ports("{port: 80}"), allowed: 504),
        .init("the same port of both", ports("{protocol: TCP, port: 80}, {protocol: UDP, port: 80}")),
        .init("all ports of UDP", ports("{protocol: UDP}"), allowed: 552),
        .init("a port that says nothing is all of TCP", ports("{}"), allowed: 552),
        .init("SCTP is neither TCP nor UDP", ports("{protocol: SCTP, port: 80}"), allowed: 456),
        .init("a port by its name", ports("{port: serve-80}, {port: serve-81-udp, protocol: UDP}")),
        .init("a name is another port in each pod", ports("{port: web}"), allowed: 488),
        .init("a name counts for its transport alone", ports("{port: web, protocol: UDP}"), allowed: 472),
        .init("a name that no pod has", ports("{port: nobody}"), allowed: 456),
        .init(
            "a name is that of the pod that is sent to",
            "x/p: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}, {port: names, protocol: UDP}]}]}"
        ),
        .init("a range of ports", ports("{port: 80, endPort: 81}"), allowed: 552),
        .init("a range that ends at one", ports("{port: 1, endPort: 80, protocol: UDP}")),
        .init("a range that begins at one", ports("{port: 81, endPort: 65535}"), allowed: 504),
        .init(
            "each rule has its own peers and ports",
            """
            x/p: {podSelector: {}, ingress: [
              {from: [{podSelector: {}}], ports: [{port: 80}]},
              {from: [{namespaceSelector: $z}], ports: [{port: 81, protocol: UDP}, {port: web}]}]}
            """),

        // Several policies, both sides.
        .init(
            "policies add up",
            """
            x/deny: {podSelector: {}, policyTypes: [Ingress]}
            x/from-y: {podSelector: $a, ingress: [{from: [{namespaceSelector: $y}]}]}
            x/from-z: {podSelector: {matchLabels: {role: web}}, ingress: [{from: [{namespaceSelector: $z}], ports: [{port: 80}]}]}
            """, allowed: 486),
        .init(
            "the same peers with other ports",
            """
            x/p: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}
            x/q: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80, protocol: UDP}]}]}
            """),
        .init(
            "a policy of one namespace is none of another",
            """
            x/p: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
            y/p: {podSelector: $c, policyTypes: [Egress]}
            """
        ),
        .init(
            "egress to a namespace",
            "x/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: $y}]}]}", allowed: 528),
        .init(
            "what one end allows the other must allow too",
            """
            x/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: $y}]}]}
            y/p: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: $b, namespaceSelector: {}}]}]}
            """),
        .init(
            "pods may only ask for names",
            "x/p: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80, protocol: UDP}]}]}",
            allowed: 504),
        .init(
            "both sides in one policy",
            """
            y/p: {podSelector: {matchLabels: {role: client}}, ingress: [{from: [{podSelector: {}}]}],
              egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {role: web}}}], ports: [{port: 80}]}]}
            """),
        .init(
            "every namespace keeps to itself and one pod answers all",
            """
            x/own: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
            y/own: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
            z/own: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
            z/door: {podSelector: $a, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: web}]}]}
            """, allowed: 228),
        .init(
            "labels that have changed hands", "x/p: {podSelector: $a, ingress: [{from: [{podSelector: $b}]}]}",
            allowed: 592, pods: ["x/a": ["pod": "c"], "x/b": ["pod": "a"], "x/c": ["pod": "b"]]),
    ]

    private static func denied(_ namespaces: [String], _ types: String) -> String {
        namespaces.map { "\($0)/p: {podSelector: {}, policyTypes: [\(types)]}" }.joined(separator: "\n")
    }

    /// To all of `x`, from these peers alone.
    static func ingress(_ peers: String) -> String { "x/p: {podSelector: {}, ingress: [{from: [\(peers)]}]}" }

    /// To all of `x`, to these ports alone.
    static func ports(_ ports: String) -> String { "x/p: {podSelector: {}, ingress: [{ports: [\(ports)]}]}" }
}
