//! Clients on one host that write to that host's Redis.

use std::net::SocketAddr;

use crate::hosts::Host;
use crate::shared_writers::{Find, Writers};

/// Starts them in the host's network, at the host's own Redis.
pub fn start(host: &Host) -> Writers {
    let address: SocketAddr = host.redis.address.to_string().parse().expect("an address");
    Writers::start(|| {
        let network = host.namespace.handle().expect("the host's network");
        move || {
            network.enter().expect("the host's network");
            Box::new(move || Some(address)) as Find
        }
    })
}
