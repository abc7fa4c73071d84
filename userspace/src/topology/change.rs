//! What another value of a key does to an instance that is up: the one place that says it.
//!
//! Nothing takes a new namespace: pods, and the processes in them, stay whatever changes but their names.

/// What becomes of an object whose key has another value in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is another object: the one of the former name goes, unless the file still has it, and one of this name is made.
    Another,
    /// It cannot be another while the object is there.
    Refused,
    /// It changes where it is, and so does what the data path does from then on.
    Live {
        /// What ends by it; empty: nothing does.
        ends: &'static str,
    },
}

const NOTHING: Effect = Effect::Live { ends: "" };

/// Every key of the file with what its change does, in the order of the file.
pub const KEYS: [(&str, Effect); 39] = [
    ("host.uplink", Effect::Live { ends: "flows by an uplink that is none any more" }),
    ("host.snat_ports", NOTHING),
    ("host.mtu", NOTHING),
    ("nat.profile", NOTHING),
    ("nat.timeouts", NOTHING),
    ("nat.timeouts.tcp_established", NOTHING),
    ("nat.timeouts.tcp_transitory", NOTHING),
    ("nat.timeouts.udp", NOTHING),
    ("nat.timeouts.icmp", NOTHING),
    ("nat.flows", NOTHING),
    ("nat.flows_per_pod", NOTHING),
    ("network.name", Effect::Another),
    ("network.subnets", NOTHING),
    ("network.masquerade", Effect::Live { ends: "flows other than connections whose source would be another now" }),
    (
        "network.snat_address",
        Effect::Live { ends: "flows with an address that is not listed any more, and as for `masquerade`" },
    ),
    ("network.mapping", Effect::Live { ends: "mappings that are none any more, and as for `masquerade`" }),
    ("network.filtering", NOTHING),
    ("network.no_masquerade", Effect::Live { ends: "as for `masquerade`" }),
    ("network.mtu", NOTHING),
    ("pod.name", Effect::Another),
    ("pod.network", Effect::Live { ends: "the pod's flows" }),
    ("pod.address", Effect::Live { ends: "flows with the former address" }),
    ("pod.interface", Effect::Another),
    ("pod.mac", NOTHING),
    ("pod.adopt", Effect::Refused),
    ("pod.publish", Effect::Live { ends: "all but connections by a port that is published no longer" }),
    ("pod.publish.port", Effect::Another),
    ("pod.publish.allow", Effect::Live { ends: "flows of clients that may not come in any more" }),
    ("pod.attachment", Effect::Live { ends: "flows of interfaces that go" }),
    ("pod.attachment.network", Effect::Live { ends: "the interface's flows" }),
    ("pod.attachment.address", Effect::Live { ends: "flows with the former address" }),
    ("pod.attachment.interface", Effect::Another),
    ("pod.attachment.mac", NOTHING),
    ("publish.port", Effect::Another),
    ("publish.backends", Effect::Live { ends: "all but connections with a pod that is not among them any more" }),
    ("publish.backends.pod", Effect::Another),
    ("publish.backends.weight", NOTHING),
    ("publish.affinity", NOTHING),
    ("publish.allow", Effect::Live { ends: "flows of clients that may not come in any more" }),
];
