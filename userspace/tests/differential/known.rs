//! Where we differ from the kernel's NAT on purpose. All else that differs is a failure.

use super::End;
use super::canon::Canonical;

/// A difference that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// See [`TABLE`].
    NotFragmented,
    /// See [`TABLE`].
    StateNotPoliced,
    /// See [`TABLE`].
    NobodyThere,
    /// See [`TABLE`].
    ErrorSource,
    /// See [`TABLE`].
    SourceQuench,
    /// See [`TABLE`].
    Filtered,
}

/// Every one with its reason.
pub const TABLE: [(Known, &str); 6] = [
    (
        Known::NotFragmented,
        "an IPv4 packet without DF that is too large for the way out: the kernel cuts it, we answer frag-needed, as with DF \
         (README, Limits)",
    ),
    (
        Known::StateNotPoliced,
        "a TCP segment that cannot occur in the connection's state: conntrack calls it invalid, so the reference drops it or \
         gives it to its own TCP, which resets; we pass it on translated, and the end it is for judges it (RFC 5382 section \
         4.3 lets a NAT do either)",
    ),
    (
        Known::NobodyThere,
        "an address of the subnet nobody has: the reference has a route that says unreachable, we have a network whose stations \
         we know; the errors have the same form and another type or code, and the kernel limits the number of its own",
    ),
    (
        Known::ErrorSource,
        "an error about a flow that is translated at both ends (hairpin, or a published port whose client's port had to change): \
         the reference gives the error the flow's source, as if its peer had sent it; here it keeps the source it had, or comes \
         from the gateway if we make it (RFC 5508 section 4.2: who found the problem can be told)",
    ),
    (
        Known::SourceQuench,
        "source quench: the reference translates it, for us it is no error any more (RFC 6633 section 5: it is ignored wherever it \
         comes), so the LAN's is left to the host and a pod's does not leave",
    ),
    (
        Known::Filtered,
        "to the port of an endpoint-independent mapping, from somebody the pod has not sent to: we drop it, the port being the \
         pod's; the reference has no such mapping, and its host answers",
    ),
];

impl Known {
    /// Whether this explains the difference. `forwarded` is the packet as it comes out translated, and nothing else.
    pub fn explains(self, ours: &[Canonical], reference: &[Canonical], at: End, forwarded: Option<&Canonical>) -> bool {
        match self {
            Self::NotFragmented => {
                ours.len() == 1
                    && ours[0].originated
                    && ours[0].end == at
                    && reference.len() == 1
                    && reference[0].in_pieces
                    && !reference[0].originated
            }
            Self::StateNotPoliced => {
                forwarded.is_some_and(|f| ours == [f.clone()]) && reference.iter().all(|c| c.originated && c.end == at)
            }
            Self::NobodyThere => {
                let ([o], [r]) = (ours, reference) else {
                    return ours.len() == 1 && ours[0].originated && ours[0].end == at && reference.is_empty();
                };
                let at = if o.bytes[0] >> 4 == 4 { 20 } else { 40 };
                let but_for_it = |c: &Canonical| [&c.bytes[..at], &c.bytes[at + 2..]].concat();
                o.originated && (o.end, o.originated) == (r.end, r.originated) && but_for_it(o) == but_for_it(r)
            }
            Self::ErrorSource => {
                let ([o], [r]) = (ours, reference) else { return false };
                let src = if o.bytes[0] >> 4 == 4 { 12..16 } else { 8..24 };
                let but_for_it = |c: &Canonical| [&c.bytes[..src.start], &c.bytes[src.end..]].concat();
                (o.end, o.originated) == (r.end, r.originated) && but_for_it(o) == but_for_it(r)
            }
            Self::SourceQuench => ours.is_empty() && reference.len() == 1 && !reference[0].originated,
            Self::Filtered => ours.is_empty() && reference.iter().all(|c| c.originated && c.end == at),
        }
    }
}
