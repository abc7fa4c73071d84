//! Settings of an interface, as the kernel tells them with the interface: no file of `/proc/sys/net` has to be read for each.

use std::collections::BTreeMap;

use netlink_packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec};

/// Those somebody here asks for. The key is the one below `/proc/sys/net`, without `conf/INTERFACE`.
pub(super) fn read(families: &[AfSpecUnspec]) -> BTreeMap<&'static str, i32> {
    let mut found = BTreeMap::new();
    for family in families {
        match family {
            AfSpecUnspec::Inet(inet) => inet.iter().for_each(|part| read4(part, &mut found)),
            AfSpecUnspec::Inet6(inet6) => inet6.iter().for_each(|part| read6(part, &mut found)),
            _ => {}
        }
    }
    found
}

fn read4(part: &AfSpecInet, found: &mut BTreeMap<&'static str, i32>) {
    if let AfSpecInet::DevConf(conf) = part {
        found.extend([
            ("ipv4/forwarding", conf.forwarding),
            ("ipv4/rp_filter", conf.rp_filter),
            ("ipv4/accept_redirects", conf.accept_redirects),
            ("ipv4/send_redirects", conf.send_redirects),
        ]);
    }
}

fn read6(part: &AfSpecInet6, found: &mut BTreeMap<&'static str, i32>) {
    if let AfSpecInet6::DevConf(conf) = part {
        found.extend([
            ("ipv6/forwarding", conf.forwarding),
            ("ipv6/disable_ipv6", conf.disable_ipv6),
            ("ipv6/accept_ra", conf.accept_ra),
            ("ipv6/accept_redirects", conf.accept_redirects),
        ]);
    }
}
