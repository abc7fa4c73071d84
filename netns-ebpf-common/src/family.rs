//! IPv4 and IPv6 as one generic path.
