//! What an instance can be sent now: for load balancers, which ask about one instance and one role.

use crate::decide::Decision;
use crate::identity::address::Address;
use crate::known::observed::{InstanceAnswer, Role};
use crate::known::view::View;
use crate::published::record::PublishedRole;

/// It has answered recently, and is ready for commands.
pub fn is_ready(view: &View<'_>, address: &Address) -> bool {
    ready(view, address).is_some()
}

/// The role it can be used in: the one it is published as and says that it has. `None`: it cannot be used, or we
/// cannot know, since we see neither Consul nor a majority of the Sentinels.
pub fn serves(view: &View<'_>, decision: &Decision, address: &Address) -> Option<PublishedRole> {
    if decision.is_isolated {
        return None;
    }
    let answer = view.instance(address).filter(|answer| answer.serves_reads())?;
    match (view.record?.role_of(address)?, &answer.role) {
        (PublishedRole::Primary, Role::Primary { .. }) => {
            let writes = view.writer() == Some(address) && answer.not_ready.is_none();
            writes.then_some(PublishedRole::Primary)
        }
        (PublishedRole::Replica, Role::Replica { .. }) => Some(PublishedRole::Replica),
        _ => None,
    }
}

fn ready<'a>(view: &View<'a>, address: &Address) -> Option<&'a InstanceAnswer> {
    view.instance(address).filter(|answer| answer.not_ready.is_none())
}
