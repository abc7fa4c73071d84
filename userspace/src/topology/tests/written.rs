//! What is written is read back, and nothing panics.

use proptest::prelude::*;

use super::*;

fn port_range() -> impl Strategy<Value = (u16, u16)> {
    (1u16..=u16::MAX, 0u16..200).prop_map(|(s, n)| (s, s.saturating_add(n)))
}

fn publish() -> impl Strategy<Value = Publish> {
    let address = prop_oneof![
        Just(None),
        any::<[u8; 4]>().prop_map(|a| Some(IpAddr::from(a))),
        any::<[u8; 16]>().prop_map(|a| Some(IpAddr::from(a))),
    ];
    let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp), Just(Proto::Sctp)];
    (address, port_range(), 1u16..=u16::MAX, proto).prop_filter_map(
        "unicast, within the ports",
        |(address, (s, e), pod, proto)| {
            let pod = if proto == Proto::Sctp { s } else { pod };
            let end = pod.checked_add(e - s)?;
            let unicast = address.is_none_or(|a: IpAddr| !a.is_multicast() && a != IpAddr::from([255; 4]));
            unicast.then(|| Publish {
                address,
                host_ports: PortRange::new(s, e).unwrap(),
                pod_ports: PortRange::new(pod, end).unwrap(),
                proto,
            })
        },
    )
}

/// Topologies that obey every rule: network i has 10.i.0.0/16, pod k of it a fixed address, published ports apart.
fn topology() -> impl Strategy<Value = Topology> {
    let pod = (any::<bool>(), any::<bool>(), proptest::collection::vec(any::<bool>(), 0..3));
    let network = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(1280u32..=65_535),
        proptest::collection::vec(pod, 0..4),
    );
    proptest::collection::vec(network, 0..5).prop_map(|networks| {
        let mut t = Topology::default();
        for (i, (v6, masquerade, exempt, mtu, pods)) in networks.into_iter().enumerate() {
            let mut subnets = vec![format!("10.{i}.0.0/16").parse().unwrap()];
            if v6 {
                subnets.push(format!("fd00:{i}::/64").parse().unwrap());
            }
            let no_masquerade = if exempt { vec!["192.168.0.0/16".parse().unwrap()] } else { vec![] };
            let mapping = if masquerade && i % 2 == 0 { Behaviour::EndpointIndependent } else { Behaviour::default() };
            let filtering = if i % 4 == 0 { mapping } else { Behaviour::default() };
            let snat_address = if masquerade { vec!["10.77.0.9".parse().unwrap()] } else { vec![] };
            t.networks.push(Network {
                name: format!("net{i}"),
                subnets,
                masquerade,
                snat_address,
                mapping,
                filtering,
                no_masquerade,
                mtu,
            });
            for (k, (fixed4, fixed6, publishes)) in pods.into_iter().enumerate() {
                let mut address = vec![];
                if fixed4 {
                    address.push(format!("10.{i}.0.{}", k + 10).parse().unwrap());
                }
                if fixed6 && v6 {
                    address.push(format!("fd00:{i}::{}", k + 10).parse().unwrap());
                }
                let base = 1000 + i * 100 + k * 10;
                let publish = publishes
                    .iter()
                    .enumerate()
                    .map(|(p, tcp)| {
                        let text = format!("{}:{}/{}", base + p, 80, if *tcp { "tcp" } else { "udp" });
                        let allow = match p {
                            0 => Allow::Anyone,
                            1 => Allow::Only(vec![]),
                            _ => Allow::Only(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]),
                        };
                        PodPublish { port: text.parse().unwrap(), allow }
                    })
                    .collect();
                if fixed4 {
                    let own = format!("pod{i}-{k}");
                    let backends = t.pods.iter().map(|p| &p.name).chain([&own]).enumerate();
                    let port = format!("{}:80", 30_000 + i * 100 + k).parse().unwrap();
                    // Of one network: the pods of another may have other families.
                    let backends = backends.filter(|(_, name)| name.starts_with(&format!("pod{i}-")));
                    let backends =
                        backends.map(|(n, name)| Backend { pod: name.clone(), weight: n as u32 + 1 }).collect();
                    let affinity = if fixed6 { Affinity::Client } else { Affinity::None };
                    let allow = if fixed6 { Allow::Anyone } else { Allow::Only(vec![]) };
                    t.publishes.push(SharedPublish { port, backends, affinity, allow });
                }
                let first = Attachment { network: format!("net{i}"), address, ..Attachment::default() };
                // A second interface, by every key there is.
                let second = Attachment {
                    network: "net0".into(),
                    interface: Some(format!("lan{k}")),
                    mac: Attachment::mac(&format!("02:00:00:00:{i:02x}:{k:02x}")).ok(),
                    ..Attachment::default()
                };
                let adopt = fixed6.then(|| Adopt::Path("/proc/1/ns/net".into()));
                let more = if fixed4 { vec![second] } else { vec![] };
                t.pods.push(Pod { name: format!("pod{i}-{k}"), adopt, first, publish, more });
            }
        }
        t
    })
}

proptest! {
    #[test]
    fn publish_strings_round_trip(p in publish()) {
        prop_assert_eq!(p.to_string().parse::<Publish>().unwrap(), p);
    }

    #[test]
    fn valid_topologies_survive_writing_and_reading(t in topology()) {
        let text = toml::to_string(&t).unwrap();
        let read = check(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(&read, &t);
        // An empty list stays empty: it never comes to mean "all".
        for (a, b) in read.pods.iter().zip(&t.pods) {
            prop_assert_eq!(a.publish.is_empty(), b.publish.is_empty());
            prop_assert!(a.publish.iter().zip(&b.publish).all(|(a, b)| a.allow == b.allow));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = check(&text);
        let _ = text.parse::<Publish>();
        let _ = text.parse::<PortRange>();
        let _ = check_name(&text);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(at in 0usize..GOOD.len(), with in "\\PC{0,4}", cut in 0usize..8) {
        let end = (at + cut).min(GOOD.len());
        let text = format!("{}{with}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(e) = check(&text) {
            prop_assert!(!e.to_string().is_empty());
        }
    }
}
