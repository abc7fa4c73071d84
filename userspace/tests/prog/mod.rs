//! The programs themselves, one packet at a time: run by BPF_PROG_TEST_RUN over the object the binary embeds, on real
//! devices in a namespace of their own, each verdict, byte, counter and flow entry compared with what it must be.
//!
//! A test body gets a [`Bench`] in the state [`world`] describes:
//!
//! ```ignore
//! both!(fn a_pod_reaches_another(b, v) {
//!     let sent = udp(v, RED, BLUE);
//!     b.pod_sends(RED, &sent, Want::peer(BLUE, sent.forwarded(BLUE)));
//! });
//! ```
#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses its own part of these tools")]

pub mod bench;
pub mod clients;
pub mod complete;
pub mod dissect;
pub mod errors;
pub mod flags;
pub mod flows;
pub mod mapping;
pub mod packet;
pub mod random;
pub mod state;
pub mod want;
pub mod words;
pub mod world;

pub use bench::{Bench, bench};
pub use bench::{Meta, host_config};
pub use errors::{Problem, originated};
pub use flows::{Pair, Target};
pub use packet::{L4, Packet, V4, V6, Version, echo, flag, from_host, from_lan, from_pod, sctp, tcp, udp, zeros};
pub use want::Want;
pub use world::*;

/// Makes two tests of a body: one for each family.
macro_rules! both {
    ($(#[$meta:meta])* fn $name:ident($b:ident, $v:ident) $body:block) => {
        $(#[$meta])*
        mod $name {
            use super::*;

            fn body($b: &$crate::prog::Bench, $v: $crate::prog::Version) $body

            #[test]
            fn v4() {
                $crate::prog::bench(|b| body(b, $crate::prog::V4));
            }

            #[test]
            fn v6() {
                $crate::prog::bench(|b| body(b, $crate::prog::V6));
            }
        }
    };
}
