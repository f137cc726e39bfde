extension ProtobufMessage {
    /// Field numbers of k8s.io/apimachinery and k8s.io/api 1.36 (generated.proto), and which fields are pointers (types.go).
    /// Written down from there and not shared with knetd's own messages, so that a wrong number in those is found here.
    static let ofKind = parse(
        """
        OwnerReference
          1 kind string
          3 name string
          4 uid string
          5 apiVersion string
          6 controller bool?
          7 blockOwnerDeletion bool?
        ManagedFieldsEntry
          1 manager string
          2 operation string
          3 apiVersion string
          4 time time?
          6 fieldsType string
          7 fieldsV1 json?
          8 subresource string
        ObjectMeta
          1 name string
          2 generateName string
          3 namespace string
          4 selfLink string
          5 uid string
          6 resourceVersion string
          7 generation int
          8 creationTimestamp time
          9 deletionTimestamp time?
          10 deletionGracePeriodSeconds int?
          11 labels map
          12 annotations map
          13 ownerReferences OwnerReference[]
          14 finalizers string[]
          17 managedFields ManagedFieldsEntry[]
        LabelSelectorRequirement
          1 key string
          2 operator string
          3 values string[]
        LabelSelector
          1 matchLabels map
          2 matchExpressions LabelSelectorRequirement[]
        ObjectReference
          1 kind string
          2 namespace string
          3 name string
          4 uid string
          5 apiVersion string
          6 resourceVersion string
          7 fieldPath string
        NamespaceSpec
          1 finalizers string[]
        NamespaceStatus
          1 phase string
        Namespace
          1 metadata ObjectMeta
          2 spec NamespaceSpec
          3 status NamespaceStatus
        Taint
          1 key string
          2 value string
          3 effect string
          4 timeAdded time?
        NodeSpec
          1 podCIDR string
          2 externalID string
          3 providerID string
          4 unschedulable bool
          5 taints Taint[]
          7 podCIDRs string[]
        NodeCondition
          1 type string
          2 status string
          3 lastHeartbeatTime time
          4 lastTransitionTime time
          5 reason string
          6 message string
        NodeAddress
          1 type string
          2 address string
        NodeSystemInfo
          1 machineID string
          2 systemUUID string
          3 bootID string
          4 kernelVersion string
          5 osImage string
          6 containerRuntimeVersion string
          7 kubeletVersion string
          8 kubeProxyVersion string
          9 operatingSystem string
          10 architecture string
        DaemonEndpoint
          1 Port int
        NodeDaemonEndpoints
          1 kubeletEndpoint DaemonEndpoint
        NodeStatus
          3 phase string
          4 conditions NodeCondition[]
          5 addresses NodeAddress[]
          6 daemonEndpoints NodeDaemonEndpoints
          7 nodeInfo NodeSystemInfo
        Node
          1 metadata ObjectMeta
          2 spec NodeSpec
          3 status NodeStatus
        ContainerPort
          1 name string
          2 hostPort int
          3 containerPort int
          4 protocol string
          5 hostIP string
        Container
          1 name string
          2 image string
          3 command string[]
          4 args string[]
          5 workingDir string
          6 ports ContainerPort[]
          13 terminationMessagePath string
          14 imagePullPolicy string
          16 stdin bool
          17 stdinOnce bool
          18 tty bool
          20 terminationMessagePolicy string
          24 restartPolicy string?
        Toleration
          1 key string
          2 operator string
          3 value string
          4 effect string
          5 tolerationSeconds int?
        PodDNSConfig
          1 nameservers string[]
          2 searches string[]
        PodSpec
          2 containers Container[]
          3 restartPolicy string
          4 terminationGracePeriodSeconds int?
          6 dnsPolicy string
          7 nodeSelector map
          8 serviceAccountName string
          9 serviceAccount string
          10 nodeName string
          11 hostNetwork bool
          12 hostPID bool
          13 hostIPC bool
          16 hostname string
          17 subdomain string
          19 schedulerName string
          20 initContainers Container[]
          21 automountServiceAccountToken bool?
          22 tolerations Toleration[]
          24 priorityClassName string
          25 priority int?
          26 dnsConfig PodDNSConfig
          30 enableServiceLinks bool?
          31 preemptionPolicy string?
        PodCondition
          1 type string
          2 status string
          3 lastProbeTime time
          4 lastTransitionTime time
          5 reason string
          6 message string
          7 observedGeneration int
        PodIP
          1 ip string
        PodStatus
          1 phase string
          2 conditions PodCondition[]
          3 message string
          4 reason string
          5 hostIP string
          6 podIP string
          7 startTime time?
          9 qosClass string
          11 nominatedNodeName string
          12 podIPs PodIP[]
          14 resize string
          16 hostIPs PodIP[]
          17 observedGeneration int
        Pod
          1 metadata ObjectMeta
          2 spec PodSpec
          3 status PodStatus
        ServicePort
          1 name string
          2 protocol string
          3 port int
          4 targetPort intOrString
          5 nodePort int
          6 appProtocol string?
        ClientIPConfig
          1 timeoutSeconds int?
        SessionAffinityConfig
          1 clientIP ClientIPConfig?
        ServiceSpec
          1 ports ServicePort[]
          2 selector map
          3 clusterIP string
          4 type string
          5 externalIPs string[]
          7 sessionAffinity string
          8 loadBalancerIP string
          9 loadBalancerSourceRanges string[]
          10 externalName string
          11 externalTrafficPolicy string
          12 healthCheckNodePort int
          13 publishNotReadyAddresses bool
          14 sessionAffinityConfig SessionAffinityConfig?
          17 ipFamilyPolicy string?
          18 clusterIPs string[]
          19 ipFamilies string[]
          20 allocateLoadBalancerNodePorts bool?
          21 loadBalancerClass string?
          22 internalTrafficPolicy string?
          23 trafficDistribution string?
        LoadBalancerIngress
          1 ip string
          2 hostname string
          3 ipMode string?
        LoadBalancerStatus
          1 ingress LoadBalancerIngress[]
        StatusCondition
          1 type string
          2 status string
          3 observedGeneration int
          4 lastTransitionTime time
          5 reason string
          6 message string
        ServiceStatus
          1 loadBalancer LoadBalancerStatus
          2 conditions StatusCondition[]
        Service
          1 metadata ObjectMeta
          2 spec ServiceSpec
          3 status ServiceStatus
        EndpointConditions
          1 ready bool?
          2 serving bool?
          3 terminating bool?
        NamedHint
          1 name string
        EndpointHints
          1 forZones NamedHint[]
          2 forNodes NamedHint[]
        Endpoint
          1 addresses string[]
          2 conditions EndpointConditions
          3 hostname string?
          4 targetRef ObjectReference?
          5 deprecatedTopology map
          6 nodeName string?
          7 zone string?
          8 hints EndpointHints?
        EndpointPort
          1 name string?
          2 protocol string?
          3 port int?
          4 appProtocol string?
        EndpointSlice
          1 metadata ObjectMeta
          2 endpoints Endpoint[]
          3 ports EndpointPort[]
          4 addressType string
        NetworkPolicyPort
          1 protocol string?
          2 port intOrString?
          3 endPort int?
        IPBlock
          1 cidr string
          2 except string[]
        NetworkPolicyPeer
          1 podSelector LabelSelector?
          2 namespaceSelector LabelSelector?
          3 ipBlock IPBlock?
        NetworkPolicyIngressRule
          1 ports NetworkPolicyPort[]
          2 from NetworkPolicyPeer[]
        NetworkPolicyEgressRule
          1 ports NetworkPolicyPort[]
          2 to NetworkPolicyPeer[]
        NetworkPolicySpec
          1 podSelector LabelSelector
          2 ingress NetworkPolicyIngressRule[]
          3 egress NetworkPolicyEgressRule[]
          4 policyTypes string[]
        NetworkPolicy
          1 metadata ObjectMeta
          2 spec NetworkPolicySpec
        StatusCause
          1 reason string
          2 message string
          3 field string
        StatusDetails
          1 name string
          2 group string
          3 kind string
          4 causes StatusCause[]
          5 retryAfterSeconds int
          6 uid string
        ListMeta
          1 selfLink string
          2 resourceVersion string
          3 continue string
          4 remainingItemCount int?
        Status
          1 metadata ListMeta
          2 status string
          3 message string
          4 reason string
          5 details StatusDetails?
          6 code int
        """)
}
