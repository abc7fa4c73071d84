//! `netns connect` and `netns disconnect`.

use clap::Args;

use super::add::addresses;
use super::open::open;
use super::{CliError, Global, up};
use crate::instance::{Applied, ConnectRequest};
use crate::topology::{Attachment, InputError};

/// Arguments of `connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Name of the pod
    pub pod: String,
    /// The network
    pub network: String,
    /// Name of the interface in the pod [default: eth and the first number that is free]
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// An address; may be given once per family, and is allocated otherwise
    #[arg(short, long = "address", value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Its link-layer address
    #[arg(short, long, value_name = "MAC")]
    pub mac: Option<String>,
}

/// Arguments of `disconnect`.
#[derive(Debug, Args)]
pub struct DisconnectArgs {
    /// Name of the pod
    pub pod: String,
    /// The interface, or a network in which the pod has one
    pub interface: String,
    /// That it is not there is all right
    #[arg(long)]
    pub if_exists: bool,
}

pub(super) fn connect(global: &Global, args: &ConnectArgs) -> Result<u8, CliError> {
    let mac = |text: &String| Attachment::mac(text).map_err(|problem| InputError::new("--mac", text, problem));
    let request = ConnectRequest {
        pod: args.pod.clone(),
        network: args.network.clone(),
        interface: args.interface.clone(),
        addresses: addresses(&args.addresses)?,
        mac: args.mac.as_ref().map(mac).transpose()?,
    };
    let applied: Applied = open(global.dirs("connect")?)?.connect(&request)?;
    global.print(&applied, up::text)?;
    Ok(0)
}

pub(super) fn disconnect(global: &Global, args: &DisconnectArgs) -> Result<u8, CliError> {
    let mut instance = open(global.dirs("disconnect")?)?;
    let applied = instance.disconnect(&args.pod, &args.interface, args.if_exists)?;
    global.print(&applied, up::text)?;
    Ok(0)
}
