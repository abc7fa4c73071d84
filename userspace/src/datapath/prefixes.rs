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
        [four, six]: [&'static str; 2],
        id: u32,
        prefixes: &[IpNet],
    ) -> Result<(), DatapathError> {
        let id_be = id.to_be_bytes();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            let bits = 32 + u32::from(prefix.prefix_len());
            match prefix {
                IpNet::V4(p) => v4.push((bits, PrefixKey { id_be, addr: Addr4::from(p.network()) })),
                IpNet::V6(p) => v6.push((bits, PrefixKey { id_be, addr: Addr6::from(p.network()) })),
            }
        }
        self.sync_trie(four, id_be, &v4)?;
        self.sync_trie(six, id_be, &v6)
    }

    fn sync_trie<A>(
        &self,
        name: &'static str,
        id_be: [u8; 4],
        wanted: &[(u32, PrefixKey<A>)],
    ) -> Result<(), DatapathError>
    where
        A: Copy + PartialEq,
        PrefixKey<A>: Pod,
    {
        let mut trie = self.trie::<PrefixKey<A>, u32>(name)?;
        for (bits, key) in wanted {
            trie.insert(&Key::new(*bits, *key), 1, 0).map_err(|e| map_error(name, "add a prefix", e))?;
        }
        let mut stale = Vec::new();
        for key in trie.keys() {
            let key = key.map_err(|e| map_error(name, "list prefixes", e))?;
            let (bits, data) = (key.prefix_len(), key.data());
            if data.id_be == id_be && !wanted.iter().any(|(b, d)| *b == bits && *d == data) {
                stale.push(key);
            }
        }
        for key in &stale {
            or_absent(name, "remove a prefix", trie.remove(key))?;
        }
        Ok(())
    }
}
