//! Prefixes that belong to a network or a publish, in a trie of each family.

use aya::Pod;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netns_ebpf_common::prefix::PrefixKey;
use netns_ebpf_common::{Addr4, Addr6};

use super::{Datapath, DatapathError, map_error, or_absent};

impl Datapath {
    /// Makes the prefixes of `id` in two tries, IPv4's and IPv6's, exactly these: new ones are added before old ones go.
    pub(super) fn sync_prefixes(
        &self,
        maps: [&'static str; 2],
        id: u32,
        prefixes: &[IpNet],
    ) -> Result<(), DatapathError> {
        self.add_prefixes(maps, id, prefixes)?;
        let (v4, v6) = keys(id, prefixes);
        self.remove_others(maps[0], id, &v4)?;
        self.remove_others(maps[1], id, &v6)
    }

    /// Adds prefixes of `id` to two tries, IPv4's and IPv6's.
    pub(super) fn add_prefixes(
        &self,
        [four, six]: [&'static str; 2],
        id: u32,
        prefixes: &[IpNet],
    ) -> Result<(), DatapathError> {
        let (v4, v6) = keys(id, prefixes);
        self.add_to_trie(four, &v4)?;
        self.add_to_trie(six, &v6)
    }

    fn add_to_trie<A: Copy>(&self, name: &'static str, wanted: &[(u32, PrefixKey<A>)]) -> Result<(), DatapathError>
    where
        PrefixKey<A>: Pod,
    {
        let mut trie = self.trie::<PrefixKey<A>, u32>(name)?;
        for (bits, key) in wanted {
            trie.insert(&Key::new(*bits, *key), 1, 0).map_err(|e| map_error(name, "add a prefix", e))?;
        }
        Ok(())
    }

    /// Removes the prefixes of `id` that are not wanted, by a walk over all there are.
    fn remove_others<A>(&self, name: &'static str, id: u32, wanted: &[(u32, PrefixKey<A>)]) -> Result<(), DatapathError>
    where
        A: Copy + PartialEq,
        PrefixKey<A>: Pod,
    {
        let mut trie = self.trie::<PrefixKey<A>, u32>(name)?;
        let mut stale = Vec::new();
        for key in trie.keys() {
            let key = key.map_err(|e| map_error(name, "list prefixes", e))?;
            let (bits, data) = (key.prefix_len(), key.data());
            if data.id_be == id.to_be_bytes() && !wanted.iter().any(|(b, d)| *b == bits && *d == data) {
                stale.push(key);
            }
        }
        for key in &stale {
            or_absent(name, "remove a prefix", trie.remove(key))?;
        }
        Ok(())
    }
}

/// Keys of a trie, each with the length of its prefix in bits.
type Keys<A> = Vec<(u32, PrefixKey<A>)>;

fn keys(id: u32, prefixes: &[IpNet]) -> (Keys<Addr4>, Keys<Addr6>) {
    let id_be = id.to_be_bytes();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        let bits = 32 + u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(p) => v4.push((bits, PrefixKey { id_be, addr: Addr4::from(p.network()) })),
            IpNet::V6(p) => v6.push((bits, PrefixKey { id_be, addr: Addr6::from(p.network()) })),
        }
    }
    (v4, v6)
}
