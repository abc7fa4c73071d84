//! What is asked of the kernel by netlink, and what it says.

mod common;

use common::isolated;
use ipnet::IpNet;
use netns::netlink::{AddressOptions, Family, Netlink, NetlinkError, Request, RouteKind, RouteSpec, default_routes};

#[test]
fn routes_are_read_with_their_kind() {
    isolated(|here| {
        here.ip("link add a0 type veth peer name b0");
        here.ip("addr add 192.0.2.1/24 dev a0");
        here.ip("link set a0 up");
        here.ip("link set b0 up");
        here.ip("route add default via 192.0.2.254 metric 20");
        here.ip("route add default via 192.0.2.253 metric 10");
        here.ip("route add blackhole 198.51.100.0/24");
        here.ip("-6 route add unreachable default metric 5");
        let netlink = Netlink::in_current().expect("netlink");
        let routes = netlink.routes().expect("routes");
        let blackhole = routes.iter().find(|r| r.destination.to_string() == "198.51.100.0/24").expect("there");
        assert_eq!(blackhole.kind, RouteKind::Refusing);
        assert!(routes.iter().any(|r| r.destination.to_string() == "192.0.2.0/24" && r.gateway.is_none()));
        let defaults = |family| {
            let routes = netlink.routes().expect("read");
            default_routes(&routes, family).into_iter().cloned().collect::<Vec<_>>()
        };
        let gateways: Vec<_> = defaults(Family::V4).iter().map(|r| r.gateway).collect();
        assert_eq!(gateways, [253, 254].map(|last| Some([192, 0, 2, last].into())), "the best first");
        assert_eq!(defaults(Family::V6), []);
        here.ip("link add a1 type veth peer name b1");
        here.ip("addr add 198.51.100.1/24 dev a1");
        here.ip("link set a1 up");
        here.ip("route add default metric 1 nexthop via 192.0.2.254 nexthop via 198.51.100.254");
        let both = defaults(Family::V4).remove(0);
        let index = |name: &str| {
            let line = here.ip(&format!("-o link show {name}"));
            line.split(':').next().and_then(|n| n.trim().parse::<u32>().ok()).expect("an index")
        };
        assert_eq!((both.oif, both.more_oifs), (Some(index("a0")), vec![index("a1")]));
        let to = |ip: &str| netlink.route_to(ip.parse().expect("an address")).expect("ask");
        let way = to("203.0.113.9").expect("a route");
        assert_eq!((way.oif, way.more_oifs), (Some(index("a0")), vec![index("a1")]), "all next hops");
        assert_eq!(to("192.0.2.77").expect("a route").destination.to_string(), "192.0.2.0/24");
        for refused in ["2001:db8::1", "203.0.114.1"] {
            here.ip("route replace unreachable 203.0.114.0/24");
            assert_eq!(to(refused).filter(|r| r.kind == RouteKind::Unicast), None, "{refused}");
        }
    });
}

/// The default route of one interface is found without a look at all routes, and also where that is misleading.
#[test]
fn an_interfaces_default_route_is_found() {
    isolated(|here| {
        for (name, net) in [("a0", 1), ("c0", 2)] {
            here.ip(&format!("link add {name} index 7{net} type veth peer name {name}p"));
            here.ip(&format!("addr add 192.0.2.{net}/24 dev {name}"));
            here.ip(&format!("addr add 2001:db8:{net}::1/64 dev {name} nodad"));
            here.ip(&format!("link set {name} up"));
            here.ip(&format!("link set {name}p up"));
        }
        here.ip("addr add 192.0.2.9/24 dev a0");
        let netlink = Netlink::in_current().expect("netlink");
        let by = |family, oif| netlink.default_route_by(family, oif).expect("ask");
        let gateway = |family, oif| by(family, oif).and_then(|r| r.gateway).map(|a| a.to_string());
        for family in Family::ALL {
            assert_eq!(by(family, 71), None);
            assert_eq!(by(family, 4711), None, "nor has an interface that is not there");
        }
        for (own, net) in [("192.0.2.1", "192.0.2.1/32"), ("2001:db8:1::1", "2001:db8:1::1/128")] {
            let route = netlink.route_to(own.parse().expect("an address")).expect("ask").expect("a route");
            assert_eq!((route.kind, route.destination.to_string().as_str()), (RouteKind::Local, net));
        }
        here.ip("route add default via 192.0.2.254 dev a0 metric 20");
        here.ip("route add default via 192.0.2.253 dev a0 metric 10 src 192.0.2.9");
        here.ip("route add default via 192.0.2.252 dev c0 metric 5");
        here.ip("-6 route add default via 2001:db8:1::fe dev a0 metric 20");
        here.ip("-6 route add default via 2001:db8:1::fd dev a0 metric 10");
        let check = |why: &str| {
            assert_eq!(gateway(Family::V4, 71).as_deref(), Some("192.0.2.253"), "{why}");
            assert_eq!(by(Family::V4, 71).and_then(|r| r.preferred_source), Some([192, 0, 2, 9].into()), "{why}");
            assert_eq!(gateway(Family::V4, 72).as_deref(), Some("192.0.2.252"), "{why}");
            assert_eq!(gateway(Family::V6, 71).as_deref(), Some("2001:db8:1::fd"), "{why}");
            assert_eq!(gateway(Family::V6, 72), None, "{why}");
        };
        check("alone");
        // Tunnels that cover the default route, filters of bogons, and a table of another rule.
        here.ip("route add 0.0.0.0/1 via 192.0.2.250 dev c0");
        here.ip("route add 128.0.0.0/1 via 192.0.2.250 dev a0");
        here.ip("-6 route add 2000::/3 via 2001:db8:1::f0 dev a0");
        check("with halves of everything");
        here.ip("route add blackhole 192.0.0.0/24");
        here.ip("-6 route add unreachable 3fff::/20");
        check("with bogons");
        here.ip("route add default via 192.0.2.249 dev a0 table 77");
        here.ip("-6 route add default via 2001:db8:1::f9 dev a0 table 77");
        here.ip("rule add from all lookup 77 pref 10");
        here.ip("-6 rule add from all lookup 77 pref 10");
        check("with another table before");
    });
}

#[test]
fn several_changes_at_once_are_made_in_order_and_the_first_error_told() {
    isolated(|here| {
        here.ip("link add a0 index 77 type veth peer name b0");
        let netlink = Netlink::in_current().expect("netlink");
        let net = |s: &str| s.parse::<IpNet>().expect("a net");
        let options = AddressOptions::default();
        let route = |via: &str| RouteSpec::default_via(via.parse().expect("an address"), 77);
        let error = netlink
            .request_all(vec![
                Request::set_up(77, true),
                Request::add_address(77, net("192.0.2.1/24"), options),
                Request::add_address(77, net("192.0.2.1/24"), options).or_exists(),
                Request::add_route(&route("198.51.100.1")),
                Request::delete_address(77, net("192.0.2.7/24")).or_absent(),
                Request::set_up(4711, true),
                Request::add_route(&route("192.0.2.254")),
            ])
            .expect_err("no way to that gateway");
        let text = error.to_string();
        assert!(
            matches!(&error, NetlinkError::Refused { source, .. } if source.errno == nix::errno::Errno::ENETUNREACH)
        );
        assert!(text.contains("add route to 0.0.0.0/0 by interface 77: Nexthop has invalid gateway: "), "{text}");
        assert!(here.ip("route show default").contains("via 192.0.2.254"), "the others were made");
    });
}
