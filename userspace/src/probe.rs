//! What the machine can do and what is taken: privileges, kernel features, ports in use.

mod ports;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported};

use netns_ebpf_common::btf::KERNEL_TYPES;

use crate::netns::NetnsError;

pub use ports::{Listener, PortProto, listeners, port_listener};

/// Why this machine, or this caller, will not do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The caller may not do what is needed.
    #[error("not enough privilege: {} missing; run as root", .missing.join(", "))]
    Privilege {
        /// The capabilities that are missing.
        missing: Vec<&'static str>,
    },
    /// The kernel lacks something.
    #[error("kernel {kernel} has no {feature}; it came with {since}")]
    Feature {
        /// The running kernel.
        kernel: String,
        /// What is missing.
        feature: &'static str,
        /// The first release that has it, or the option that enables it.
        since: &'static str,
    },
    /// A feature could not be asked for.
    #[error("cannot find out whether the kernel has {feature}: {source}")]
    Unclear {
        /// The feature.
        feature: &'static str,
        /// What came instead of an answer.
        source: Box<ProgramError>,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A file of `/proc` could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket to try a port with could not be made.
    #[error("cannot try port {port}: {source}")]
    Socket {
        /// The port.
        port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Features that are used where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The release, as `uname -r` prints it.
    pub kernel: String,
    /// `BPF_F_IPV6` of `bpf_l4_csum_replace` (6.16): `HostConfig::CSUM_IPV6`.
    pub csum_ipv6: bool,
}

/// Capability bits (`linux/capability.h`) and what they are needed for: links and tcx; namespaces, mounts and BPF.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// May write to what is another's.
const CAP_DAC_OVERRIDE: u32 = 1;

/// Checks that the calling thread may do what netns does.
pub fn privileges() -> Result<(), ProbeError> {
    let path = PathBuf::from("/proc/thread-self/status");
    let status = fs::read_to_string(&path).map_err(|source| ProbeError::Read { path, source })?;
    let effective = effective_capabilities(&status);
    let has = |bit: u32| effective >> bit & 1 == 1;
    let mut missing: Vec<_> = CAPABILITIES.iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| *name).collect();
    // The directories are root's, and need no more than its id.
    if effective_uid(&status) != Some(0) && !has(CAP_DAC_OVERRIDE) {
        missing.push("user id 0");
    }
    if missing.is_empty() { Ok(()) } else { Err(ProbeError::Privilege { missing }) }
}

fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn effective_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// Checks the features netns cannot do without, by trying them, and finds those it can. Needs [`privileges`].
pub fn features() -> Result<Features, ProbeError> {
    let kernel = release();
    let missing = |feature, since| ProbeError::Feature { kernel: kernel.clone(), feature, since };
    let helper = |feature, helper| match is_helper_supported(ProgramType::SchedClassifier, helper) {
        Ok(found) => Ok(found),
        Err(source) => Err(ProbeError::Unclear { feature, source: Box::new(source) }),
    };
    if !helper("bpf_redirect_peer", BpfHelper::BPF_FUNC_redirect_peer)? {
        return Err(missing("bpf_redirect_peer for TC programs", "5.10 and CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT"));
    }
    if !helper("bpf_redirect_neigh", BpfHelper::BPF_FUNC_redirect_neigh)? {
        return Err(missing("bpf_redirect_neigh for TC programs", "5.10"));
    }
    if !has_tcx()? {
        return Err(missing("tcx (BPF links for TC programs)", "6.6 and CONFIG_NET_XGRESS"));
    }
    if !Path::new(KERNEL_TYPES).exists() {
        return Err(missing("type information (/sys/kernel/btf/vmlinux)", "CONFIG_DEBUG_INFO_BTF"));
    }
    Ok(Features { csum_ipv6: version(&kernel) >= (6, 16), kernel })
}

/// Asks what is attached to the loopback interface, which every namespace has: a kernel without tcx does not know the
/// question.
fn has_tcx() -> Result<bool, ProbeError> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(false),
        Err(source) => Err(ProbeError::Unclear { feature: "tcx", source: Box::new(source) }),
    }
}

fn release() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor number; (0, 0) for something else.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("6.6-rc1"), (6, 6));
        assert!(version("6.9.0") < (6, 16));
        assert_eq!(version(""), (0, 0));
    }

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(effective_capabilities("CapPrm:\t00\nCapEff:\t0000000000201000\n"), 1 << 21 | 1 << 12);
        assert_eq!(effective_capabilities(""), 0);
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t65534\t0\t0\n"), Some(65534));
        assert_eq!(effective_uid(""), None);
    }
}
