//! The sandbox: a pod host to play with, in namespaces of its own.

pub mod layout;
