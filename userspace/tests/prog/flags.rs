//! Which of TCP's flags go together (RFC 9293).

use super::packet::flag::{ACK, FIN, RST, SYN};

/// What an end sends.
pub const VALID: [u8; 6] = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];

/// All else.
pub const NONSENSE: [u8; 10] = [
    0,
    FIN,
    SYN | FIN,
    SYN | FIN | ACK,
    SYN | RST,
    SYN | RST | ACK,
    FIN | RST,
    FIN | RST | ACK,
    SYN | FIN | RST,
    SYN | FIN | RST | ACK,
];
