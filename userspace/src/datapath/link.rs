//! What the programs take from the running kernel's type information, put into the object before it is loaded.

use std::fs;
use std::path::Path;

use netns_ebpf_common::btf::{Btf, KERNEL_TYPES};
use netns_ebpf_common::kfunc::{CAST_TO_KERN_CTX, CT_RELEASE, SKB_CT_LOOKUP};
use netns_ebpf_common::skb::SkbFields;

use super::DatapathError;

/// An object for this kernel.
pub(super) struct Linked {
    /// Its bytes.
    pub object: Vec<u8>,
    /// Where fields of the kernel's packet structure lie.
    pub skb_fields: SkbFields,
    /// 1 if the programs may ask the host's connection tracking.
    pub host_conntrack: u8,
}

/// Links an object to the running kernel.
pub(super) fn link(object: &[u8]) -> Result<Linked, DatapathError> {
    let path = Path::new(KERNEL_TYPES);
    let bytes = fs::read(path).map_err(|source| DatapathError::Io { what: "read", path: path.to_owned(), source })?;
    let lacks = |what| DatapathError::KernelTypes { what };
    let btf = Btf::parse(&bytes).ok_or_else(|| lacks("types this netns can read"))?;
    let cast = btf.function(CAST_TO_KERN_CTX.name).ok_or_else(|| lacks(CAST_TO_KERN_CTX.name))?;
    let skb_fields = SkbFields::find(&btf).ok_or_else(|| lacks("the fields of sk_buff"))?;
    let mut object = object.to_vec();
    CAST_TO_KERN_CTX.link(&mut object, cast);
    let host_conntrack = conntrack(&mut object, &btf).is_some().into();
    Ok(Linked { object, skb_fields, host_conntrack })
}

/// Links the look-up in connection tracking, where that is built into the kernel: functions of a module have numbers of their own,
/// and aya has no way to tell the kernel which module is meant.
fn conntrack(object: &mut [u8], btf: &Btf<'_>) -> Option<()> {
    let (lookup, release) = (btf.function(SKB_CT_LOOKUP.name)?, btf.function(CT_RELEASE.name)?);
    SKB_CT_LOOKUP.link(object, lookup);
    CT_RELEASE.link(object, release);
    Some(())
}
