//! Blocking queries on one group's keys (`docs/facts/consul.md` 4).

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::client::{Consul, WATCH_WAIT};
use super::store::ReadMode;
use crate::clock::Clock;
use crate::core::group::Input;
use crate::core::projection::Layout;
use crate::retry::Retry;

/// Hands every change of the group's keys to `inputs`, until nobody takes them any more.
///
/// Consul away changes nothing: the last answer stays what is known, and this says so once.
pub async fn watch_group(
    consul: Consul,
    layout: Layout,
    clock: Clock,
    inputs: mpsc::Sender<Input>,
) {
    let mut retry = Retry::consul();
    let mut index = 0;
    let mut away = false;
    while !inputs.is_closed() {
        match consul.group(&layout, ReadMode::Watch { index, wait: WATCH_WAIT }, &clock).await {
            Ok(answer) => {
                retry.reset();
                if away {
                    info!("{}: Consul at {} answers again", layout.group, consul.address());
                    away = false;
                }
                // An index that went back (a restored or wiped Consul) starts again, and 0 would
                // not block at all.
                index = if answer.index < index { 0 } else { answer.index.max(1) };
                if inputs.send(Input::Watched(answer.value)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !away {
                    warn!(
                        "{}: {error}; trying again, and what is published stays as it is",
                        layout.group
                    );
                    away = true;
                }
                if inputs.send(Input::ConsulSilent).await.is_err() {
                    return;
                }
                index = 0;
                tokio::time::sleep(retry.next_delay()).await;
            }
        }
    }
}
