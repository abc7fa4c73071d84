//! The namespaces traffic is sent between.

use std::collections::BTreeMap;

use crate::netns::{Netns, NetnsError, NetnsName};

/// Open namespaces by the names cases use for them.
#[derive(Debug, Default)]
pub struct Places {
    by_name: BTreeMap<&'static str, Netns>,
}

impl Places {
    /// Opens named namespaces: pairs of the word cases use and the name in `/run/netns`.
    pub fn open<'a>(names: impl IntoIterator<Item = (&'static str, &'a str)>) -> Result<Self, NetnsError> {
        let by_name = names
            .into_iter()
            .map(|(word, name)| Ok((word, Netns::open_named(&NetnsName::new(name)?)?)))
            .collect::<Result<_, NetnsError>>()?;
        Ok(Self { by_name })
    }

    /// Adds a namespace that is open already, such as the caller's own.
    #[must_use]
    pub fn with(mut self, word: &'static str, netns: Netns) -> Self {
        self.by_name.insert(word, netns);
        self
    }

    /// The namespace behind a case's word.
    pub fn get(&self, word: &str) -> Option<&Netns> {
        self.by_name.get(word)
    }
}
