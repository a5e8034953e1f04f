//! Everything that must last before it counts, as it is now. What each has lasted for is remembered
//! ([`crate::known::memory::Memory::keep`]).

use std::collections::BTreeSet;

use crate::duty::fence::stray_primaries;
use crate::duty::hold::is_isolated;
use crate::known::memory::Condition;
use crate::known::view::View;
use crate::published::replicas::InstanceRows;
use crate::shown::unreachable::refuses_writes;
use crate::situation::bootstrap::is_blank;
use crate::{
    duty::sentinels, duty::stale_peers, published::publication, shown::unreachable,
    situation::data_loss, situation::forgotten, situation::promote_again, situation::relocated,
};

/// The conditions that hold in this view, for [`crate::known::memory::Memory::keep`].
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
