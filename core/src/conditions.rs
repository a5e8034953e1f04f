//! Everything that must last before it counts, as it is now. What each has lasted for is remembered
//! ([`super::memory::Memory::keep`]).

use std::collections::BTreeSet;

use super::bootstrap::is_blank;
use super::fence::stray_primaries;
use super::hold::is_isolated;
use super::memory::Condition;
use super::replicas::InstanceRows;
use super::unreachable::refuses_writes;
use super::view::View;
use super::{
    data_loss, forgotten, promote_again, publication, relocated, sentinels, stale_peers,
    unreachable,
};

/// The conditions that hold in this view, for [`super::memory::Memory::keep`].
pub fn conditions(view: &View<'_>) -> BTreeSet<Condition> {
    let mut holding = publication::conditions(view);
    holding.extend(InstanceRows::new(view).conditions());
    holding.extend(stray_primaries(view).map(|(address, _)| Condition::Stray(address.clone())));
    holding.extend(sentinels::conditions(view));
    holding.extend(stale_peers::conditions(view));
    holding.extend(is_blank(view).then_some(Condition::NoPrimaryAnywhere));
    holding.extend(relocated::condition(view));
    holding.extend(forgotten::condition(view));
    holding.extend(promote_again::condition(view));
    holding.extend(data_loss::condition(view));
    holding.extend(unreachable::conditions(view));
    holding.extend(refuses_writes(view).into_iter().map(|at| Condition::RefusesWrites(at.clone())));
    holding.extend(is_isolated(view).then_some(Condition::Isolated));
    holding
}
