//! Connections of the host's own beside those of its pods.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use common::isolated;
use common::pods::{BLUE, server, uplink};
use netns::check::Family;
use socket2::{Domain, Protocol, Socket, Type};

/// How long a connection may take that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// A port outside the range of SNAT, of the parity pods keep.
const PORT: u16 = 45_679;
/// The server's.
const SERVICE: u16 = 7;

/// A connection from an address and port, which is reset when it goes.
fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A byte there and back.
fn echoes(mut socket: &Socket) -> bool {
    let mut byte = [0];
    socket.write_all(b"x").is_ok() && socket.read_exact(&mut byte).is_ok() && byte == *b"x"
}

/// A pod has had a port towards a server; when that is over, the host connects from the same port to the same server.
#[test]
fn the_host_may_use_the_port_of_a_pods_connection_that_has_ended() {
    isolated(|here| {
        here.pods();
        for family in Family::ALL {
            let service = SocketAddr::new(server().ip(family), SERVICE);
            let listener = here.inside("lan", || TcpListener::bind(service).expect("listen"));
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        let mut byte = [0];
                        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                    });
                }
            });
            let pods = here.inside(BLUE.name, || connect(SocketAddr::new(BLUE.ip(family), PORT), service));
            let pods = pods.expect("the pod's");
            assert!(echoes(&pods));
            // The pod's has the port it asked for, also on the LAN.
            let table = common::observer::flows();
            assert!(table.iter().any(|r| r.original && r.dst == service.ip() && r.to_sport == PORT), "{table:?}");
            drop(pods);
            let hosts = connect(SocketAddr::new(uplink().ip(family), PORT), service).expect("the host's");
            assert!(echoes(&hosts));
            assert!(
                !common::observer::flows().iter().any(|r| r.dst == service.ip() && r.to_sport == PORT),
                "the pod's flow is gone"
            );
            // While the host has it, a pod's gets another port.
            let pods = here.inside(BLUE.name, || connect(SocketAddr::new(BLUE.ip(family), PORT), service));
            let pods = pods.expect("the pod's");
            assert!(echoes(&pods) && echoes(&hosts));
        }
    });
}
