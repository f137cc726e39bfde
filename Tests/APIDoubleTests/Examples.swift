import KnetCore

/// Objects to put into the server.
enum Example {
    static func pod(_ name: String, node: String = "", labels: [String: String] = [:]) throws -> JSONValue {
        let labelText = labels.map { "\"\($0.key)\":\"\($0.value)\"" }.joined(separator: ",")
        return try JSONValue(
            text: """
                {"apiVersion":"v1","kind":"Pod","metadata":{"name":"\(name)","namespace":"default","labels":{\(labelText)}},
                 "spec":{"nodeName":"\(node)","containers":[{"name":"c","image":"i",
                   "ports":[{"name":"web","containerPort":80,"protocol":"TCP"}]}]},
                 "status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],
                   "conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-02T03:04:05Z"}]}}
                """)
    }

    static func node(_ name: String) throws -> JSONValue {
        try JSONValue(
            text: """
                {"apiVersion":"v1","kind":"Node","metadata":{"name":"\(name)"},
                 "spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24","fd01::/64"]},
                 "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"},{"type":"Hostname","address":"\(name)"}],
                   "conditions":[{"type":"Ready","status":"True"},{"type":"NetworkUnavailable","status":"True"}]}}
                """)
    }

    static func service(_ name: String) throws -> JSONValue {
        try JSONValue(
            text: """
                {"apiVersion":"v1","kind":"Service","metadata":{"name":"\(name)","namespace":"default"},
                 "spec":{"clusterIP":"10.96.0.10","clusterIPs":["10.96.0.10"],"type":"ClusterIP","selector":{"app":"a"},
                   "ports":[{"name":"web","protocol":"TCP","port":80,"targetPort":"http"},
                            {"name":"dns","protocol":"UDP","port":53,"targetPort":5353}]}}
                """)
    }

    static func endpointSlice(_ name: String) throws -> JSONValue {
        try JSONValue(
            text: """
                {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice",
                 "metadata":{"name":"\(name)","namespace":"default","labels":{"kubernetes.io/service-name":"web"}},
                 "addressType":"IPv4","ports":[{"name":"web","protocol":"TCP","port":8080}],
                 "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},
                   "nodeName":"a","zone":"z"}]}
                """)
    }

    static func networkPolicy(_ name: String) throws -> JSONValue {
        try JSONValue(
            text: """
                {"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy",
                 "metadata":{"name":"\(name)","namespace":"default"},
                 "spec":{"podSelector":{"matchLabels":{"app":"a"}},"policyTypes":["Ingress","Egress"],
                   "ingress":[{"ports":[{"protocol":"TCP","port":"web"},{"protocol":"TCP","port":80,"endPort":90}],
                     "from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}},
                       {"namespaceSelector":{"matchExpressions":[{"key":"team","operator":"In","values":["x","y"]}]}}]}],
                   "egress":[{"to":[{"podSelector":{}}]}]}}
                """)
    }

    static func clusterNetworkPolicy(_ name: String) throws -> JSONValue {
        try JSONValue(
            text: """
                {"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicy",
                 "metadata":{"name":"\(name)"},"spec":{"tier":"Admin","priority":10}}
                """)
    }
}
