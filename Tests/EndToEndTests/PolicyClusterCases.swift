extension PolicyCase {
    /// Policies with parts that Kubernetes would refuse: these parts admit nothing, the others count.
    static let faultyPolicies: [PolicyCase] = [
        .init("a block that is none", ingress("{ipBlock: {cidr: 10.42.0.0/33}}"), allowed: 456),
        .init(
            "a block that is none beside a good peer", ingress("{ipBlock: {cidr: everywhere}}, {podSelector: {}}"),
            allowed: 504),
        .init(
            "an exception outside of its block", ingress("{ipBlock: {cidr: 10.42.0.0/16, except: [10.43.0.0/24]}}"),
            allowed: 456),
        .init(
            "an exception of the other family", ingress("{ipBlock: {cidr: 10.42.0.0/16, except: ['fd42::/64']}}"),
            allowed: 456),
        .init("a range that ends before it begins", ports("{port: 81, endPort: 80}"), allowed: 456),
        .init(
            "a range that ends before it begins beside a good port", ports("{port: 81, endPort: 80}, {port: 80}"),
            allowed: 504),
        .init("a range that begins with a name", ports("{port: serve-80, endPort: 81}"), allowed: 456),
        .init("a range without a beginning", ports("{endPort: 81}"), allowed: 456),
        .init(
            "an operator that no peer can be found with",
            ingress("{podSelector: {matchExpressions: [{key: pod, operator: Near, values: [a]}]}}"), allowed: 456),
        .init(
            "an operator that no namespace can be found with",
            ingress("{namespaceSelector: {matchExpressions: [{key: ns, operator: in, values: [y]}]}, podSelector: {}}"),
            allowed: 456),
        .init(
            "an operator that subjects cannot be found with keeps none out",
            """
            x/p: {policyTypes: [Ingress], podSelector: {matchLabels: {role: client},
              matchExpressions: [{key: pod, operator: Near, values: [b]}]}}
            """,
            allowed: 520),
        .init("a peer that says nothing is nobody", ingress("{}"), allowed: 456),
        .init(
            "a block with labels is nobody", ingress("{ipBlock: {cidr: 10.42.0.0/16}, podSelector: {}}"), allowed: 456),
    ]

    /// ClusterNetworkPolicies, alone and above and below NetworkPolicies.
    static let clusterPolicies: [PolicyCase] = [
        .init(
            "an administrator denies", admin("x", "ingress: [{action: Deny, from: [{namespaces: {}}]}]"), allowed: 456),
        .init(
            "an administrator denies what is sent", admin("x", "egress: [{action: Deny, to: [{namespaces: $y}]}]"),
            allowed: 576),
        .init("without rules for a side nothing is said of it", admin("x", "ingress: []"), allowed: 648),
        .init(
            "an administrator denies what a policy allows",
            """
            \(admin("x", "ingress: [{action: Deny, from: [{namespaces: $y}]}]"))
            x/p: {podSelector: {}, ingress: [{}]}
            """, allowed: 576),
        .init(
            "an administrator accepts what a policy denies",
            """
            \(admin("x", "ingress: [{action: Accept, from: [{namespaces: $y}]}]"))
            x/p: {podSelector: {}, policyTypes: [Ingress]}
            """, allowed: 528),
        .init(
            "what an administrator passes on a policy decides",
            """
            \(admin("x", "ingress: [{action: Pass, from: [{namespaces: $y}]}, {action: Deny, from: [{namespaces: {}}]}]"))
            x/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: $b}]}]}
            """, allowed: 480),
        .init(
            "passing skips what comes later in the tier",
            """
            first: {tier: Admin, priority: 1, subject: {namespaces: $x},
              ingress: [{action: Pass, from: [{namespaces: $y}]}]}
            later: {tier: Admin, priority: 2, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: $y}]}]}
            """),
        .init(
            "what is passed on without policies the baseline decides",
            """
            a: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}
            b: {tier: Baseline, priority: 1, subject: {namespaces: $x},
              ingress: [{action: Deny, from: [{namespaces: {}}]}]}
            """, allowed: 456),
        .init(
            "the lower priority counts first, whatever the names",
            """
            z-first: {tier: Admin, priority: 0, subject: {namespaces: $x},
              ingress: [{action: Accept, from: [{namespaces: $y}]}]}
            a-second: {tier: Admin, priority: 1000, subject: {namespaces: $x},
              ingress: [{action: Deny, from: [{namespaces: {}}]}]}
            """, allowed: 528),
        .init(
            "of the same priority the lesser name counts first",
            """
            a: {tier: Admin, priority: 7, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: $z}]}]}
            b: {tier: Admin, priority: 7, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}
            x/p: {podSelector: {}, policyTypes: [Ingress]}
            """),
        .init(
            "of one policy's rules the first counts",
            admin(
                "x",
                """
                ingress: [{action: Accept, from: [{pods: {namespaceSelector: $y, podSelector: $b}}]},
                  {action: Deny, from: [{namespaces: $y}]}]
                """
            )),
        .init("the baseline denies", baseline("ingress: [{action: Deny, from: [{namespaces: {}}]}]"), allowed: 456),
        .init(
            "a policy is heard before the baseline",
            """
            \(baseline("ingress: [{action: Deny, from: [{namespaces: {}}]}]"))
            x/p: {podSelector: $a, ingress: [{from: [{podSelector: {}}]}]}
            """, allowed: 472),
        .init(
            "a policy of one side leaves the other to the baseline",
            """
            \(baseline("ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{namespaces: {}}]}]"))
            x/p: {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}
            """, allowed: 456),
        .init(
            "the baseline accepts before it denies",
            baseline("ingress: [{action: Accept, from: [{namespaces: $z}]}, {action: Deny, from: [{namespaces: {}}]}]"),
            allowed: 528),
        .init(
            "what the baseline passes on is allowed",
            baseline("ingress: [{action: Pass, from: [{namespaces: $z}]}, {action: Deny, from: [{namespaces: {}}]}]"),
            allowed: 528),
        .init(
            "the administrator is heard before the baseline",
            """
            \(admin("x", "ingress: [{action: Accept, from: [{namespaces: $z}]}]"))
            \(baseline("ingress: [{action: Deny, from: [{namespaces: {}}]}]"))
            """,
            allowed: 528),
        .init(
            "one port is denied",
            deniedPorts("{tcp: {destinationPort: {number: 80}}}"), allowed: 600),
        .init(
            "a range of ports is denied",
            deniedPorts("{udp: {destinationPort: {range: {start: 79, end: 80}}}}"), allowed: 600),
        .init(
            "several protocols are denied",
            deniedPorts(
                "{tcp: {destinationPort: {range: {start: 80, end: 81}}}}, {udp: {destinationPort: {number: 81}}}")),
        .init(
            "SCTP is denied and nothing else",
            deniedPorts("{sctp: {destinationPort: {number: 80}}}"), allowed: 648),
        .init(
            "a port by its name, of whatever protocol it is",
            deniedPorts("{destinationNamedPort: web}"),
            allowed: 600),
        .init(
            "a port by its name where it is sent to",
            admin("x", "egress: [{action: Deny, to: [{namespaces: $y}], protocols: [{destinationNamedPort: web}]}]")),
        .init("networks", admin("x", "egress: [{action: Deny, to: [{networks: [10.42.1.0/24, 'fd42:0:0:2::/64']}]}]")),
        .init(
            "a network is accepted before all are denied",
            admin(
                "x",
                """
                egress: [{action: Accept, to: [{networks: ['@y/a4/32', '@y/b6/128']}]},
                  {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]
                """
            ), allowed: 480),
        .init(
            "subjects by the labels of pods and namespaces",
            """
            a: {tier: Admin, priority: 1, ingress: [{action: Deny, from: [{namespaces: {}}]}], subject: {pods: {
              namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [z]}]},
              podSelector: {matchLabels: {role: web}}}}}
            """,
            allowed: 520),
        .init(
            "peers by the labels of pods, of any namespace",
            admin("x", "ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: $c}}]}]"),
            allowed: 584),
        .init(
            "all namespaces as subject",
            "a: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
            allowed: 72),
        .init(
            "what one end accepts the other must allow too",
            """
            \(admin("x", "egress: [{action: Accept, to: [{namespaces: {}}]}]"))
            y/p: {podSelector: {}, policyTypes: [Ingress]}
            """, allowed: 456),
        .init(
            "subjects without labels",
            """
            a: {tier: Baseline, priority: 1,
              subject: {pods: {namespaceSelector: {}, podSelector: {matchExpressions: [{key: pod, operator: DoesNotExist}]}}},
              egress: [{action: Deny, to: [{namespaces: {matchExpressions: [{key: ns, operator: Exists}]}}]}]}
            """,
            pods: ["x/b": [:], "y/c": ["role": "web"]], namespaces: ["z": [:]]),
        .init(
            "all tiers and both sides",
            """
            \(admin("x", "ingress: [{action: Pass, from: [{namespaces: $x}]}, {action: Deny, from: [{namespaces: $z}]}]"))
            b: {tier: Baseline, priority: 5, subject: {namespaces: $x}, ingress: [{action: Deny, from: [{namespaces: {}}]}],
              egress: [{action: Deny, to: [{networks: [10.42.0.0/16]}]}]}
            x/p: {podSelector: $a, ingress: [{from: [{podSelector: {}}], ports: [{port: web}]}]}
            x/q: {podSelector: $b, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{protocol: UDP}]}]}
            """),
    ]

    /// Of the pods of one namespace.
    private static func admin(_ namespace: String, _ rules: String) -> String {
        "admin: {tier: Admin, priority: 5, subject: {namespaces: $\(namespace)}, \(rules)}"
    }

    /// To all pods of `x`.
    private static func deniedPorts(_ protocols: String) -> String {
        admin("x", "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [\(protocols)]}]")
    }

    private static func baseline(_ rules: String) -> String {
        "baseline: {tier: Baseline, priority: 5, subject: {namespaces: $x}, \(rules)}"
    }
}
