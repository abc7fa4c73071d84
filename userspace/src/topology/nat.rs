//! `[nat]`: how many flows there may be, and how long idle ones are kept.
//!
//! ```toml
//! [nat]
//! profile = "rfc"                  # or "fast"
//! flows = 131072                   # of each family
//! flows_per_pod = 10000            # without it: a fair share
//! [nat.timeouts]                   # each replaces the profile's
//! tcp_established = "2h4m"
//! tcp_transitory = "4m"
//! udp = "5m"
//! icmp = "60s"
//! ```

use std::fmt;
use std::str::FromStr;

use netns_ebpf_common::abi;
use netns_ebpf_common::state::TimeoutClass;
use serde::{Deserialize, Serialize, Serializer};

use super::Problem;

/// A time in whole seconds, written like `2h4m` or `300s`; 1 second to 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(u32);

impl Seconds {
    const MAX: u32 = 30 * 24 * 3600;

    /// This many seconds.
    ///
    /// # Errors
    ///
    /// None at all, or more than 30 days: a mistake rather than a wish.
    pub const fn new(seconds: u32) -> Result<Self, Problem> {
        if seconds == 0 || seconds > Self::MAX { Err(Problem::TimeoutRange) } else { Ok(Self(seconds)) }
    }

    /// The number of seconds.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// In nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0 as u64 * 1_000_000_000
    }
}

const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl FromStr for Seconds {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        let bad = |why: &str| Problem::Timeout(why.to_owned());
        let (mut total, mut rest, mut units) = (0_u32, s, UNITS.iter());
        if s.is_empty() {
            return Err(bad("it is empty"));
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| bad("a number has no unit"))?;
            let (number, tail) = rest.split_at(end);
            let unit = tail.chars().next().unwrap_or_default();
            if number.is_empty() {
                return Err(bad(&format!("a number is missing before {unit:?}")));
            }
            if !UNITS.iter().any(|(name, _)| *name == unit) {
                return Err(bad(&format!("{unit:?} is no unit")));
            }
            let Some((_, seconds)) = units.find(|(name, _)| *name == unit) else {
                return Err(bad("each unit is written once, the largest first"));
            };
            let part = number.parse::<u32>().ok().and_then(|n| n.checked_mul(*seconds));
            total = part.and_then(|part| total.checked_add(part)).ok_or(Problem::TimeoutRange)?;
            rest = &tail[unit.len_utf8()..];
        }
        Self::new(total)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, seconds) in UNITS {
            let n = rest / seconds;
            rest %= seconds;
            if n > 0 {
                write!(f, "{n}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A set of timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// What the RFCs ask a NAT to keep at least: RFC 5382 REQ-5, RFC 4787 REQ-5, RFC 5508 REQ-1.
    #[default]
    Rfc,
    /// For hosts with many short connections: the table holds more of them, idle ones end sooner than the RFCs allow.
    Fast,
}

impl Profile {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rfc => "rfc",
            Self::Fast => "fast",
        }
    }

    /// Its timers.
    pub fn timeouts(self) -> Timeouts {
        let of = |tcp_established, tcp_transitory, udp, icmp| Timeouts {
            tcp_established: Seconds(tcp_established),
            tcp_transitory: Seconds(tcp_transitory),
            udp: Seconds(udp),
            icmp: Seconds(icmp),
        };
        match self {
            Self::Rfc => of(7440, 240, 300, 60),
            // 20 minutes outlast the keep-alives programs and middle boxes commonly use (2 to 15 minutes); 30 seconds
            // outlast a resolver's retries and a SYN's first four transmissions (1, 3, 7 and 15 seconds).
            Self::Fast => of(1200, 30, 30, 30),
        }
    }
}

impl FromStr for Profile {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        [Self::Rfc, Self::Fast].into_iter().find(|p| p.as_str() == s).ok_or(Problem::Profile)
    }
}

/// Idle times after which a flow is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// TCP, established or half-closed.
    pub tcp_established: Seconds,
    /// TCP before the handshake is done and after the connection was closed.
    pub tcp_transitory: Seconds,
    /// UDP.
    pub udp: Seconds,
    /// ICMP queries.
    pub icmp: Seconds,
}

impl Timeouts {
    /// As the data path wants them: nanoseconds by [`TimeoutClass`].
    pub const fn by_class(self) -> [u64; 4] {
        let mut ns = [0; 4];
        ns[TimeoutClass::TcpTransitory as usize] = self.tcp_transitory.as_nanos();
        ns[TimeoutClass::TcpEstablished as usize] = self.tcp_established.as_nanos();
        ns[TimeoutClass::Udp as usize] = self.udp.as_nanos();
        ns[TimeoutClass::Icmp as usize] = self.icmp.as_nanos();
        ns
    }
}

/// A number of flows of one family, 1 to what the data path can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Flows(u32);

impl Flows {
    const DEFAULT: Self = Self(131_072);

    /// This many.
    ///
    /// # Errors
    ///
    /// None, or more than the data path can hold.
    pub const fn new(flows: u32) -> Result<Self, Problem> {
        if flows == 0 || flows > abi::MAX_FLOWS { Err(Problem::Flows) } else { Ok(Self(flows)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl From<Flows> for u32 {
    fn from(flows: Flows) -> Self {
        flows.get()
    }
}

impl TryFrom<u32> for Flows {
    type Error = Problem;

    fn try_from(flows: u32) -> Result<Self, Problem> {
        Self::new(flows)
    }
}

/// `[nat]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nat {
    /// Where timers that are not given come from.
    pub profile: Profile,
    /// The timers in use.
    pub timeouts: Timeouts,
    /// Flows of each family there may be.
    pub flows: Flows,
    /// Most flows of a family a pod may have of its own, and apart from them opened to it; absent: a fair share.
    pub flows_per_pod: Option<Flows>,
}

impl Nat {
    /// The limits in words.
    pub fn limits(&self) -> String {
        let per_pod = self.flows_per_pod.map_or_else(|| "a fair share".to_owned(), |n| format!("at most {}", n.get()));
        format!("{} of each family, {per_pod} for each pod", self.flows.get())
    }
}

impl From<Profile> for Nat {
    fn from(profile: Profile) -> Self {
        Self { profile, timeouts: profile.timeouts(), flows: Flows::DEFAULT, flows_per_pod: None }
    }
}

impl Default for Nat {
    fn default() -> Self {
        Profile::default().into()
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timeouts { tcp_established, tcp_transitory, udp, icmp } = self.timeouts;
        write!(f, "TCP {tcp_established}, opening or closed {tcp_transitory}, UDP {udp}, ICMP {icmp}")?;
        if self.timeouts == self.profile.timeouts() { write!(f, " ({})", self.profile.as_str()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, seconds) in
            [("2h4m", 7440), ("300s", 300), ("1s", 1), ("1d2h3m4s", 93_784), ("030m", 1800), ("30d", 2_592_000)]
        {
            let read: Seconds = text.parse().unwrap();
            assert_eq!(read.get(), seconds, "{text}");
            assert_eq!(read.to_string().parse(), Ok(read), "{text}");
        }
        assert_eq!(Seconds(7440).to_string(), "2h4m");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "5", "s", "5x", "4m2h", "1m1m", "-5s", "1.5h", " 5s", "5s ", "5M", "5ü"] {
            assert!(matches!(text.parse::<Seconds>(), Err(Problem::Timeout(_))), "{text:?}");
        }
        for text in ["0s", "0h0m", "31d", "5000000000s", "49711d", "4294967295h"] {
            assert_eq!(text.parse::<Seconds>(), Err(Problem::TimeoutRange), "{text:?}");
        }
    }

    /// RFC 5382 REQ-5, RFC 4787 REQ-5 and RFC 5508 REQ-1.
    #[test]
    fn the_default_timers_are_those_of_the_rfcs() {
        let s = 1_000_000_000;
        assert_eq!(Nat::default().timeouts.by_class(), [240 * s, 7440 * s, 300 * s, 60 * s]);
    }
}
