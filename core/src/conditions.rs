//! Everything that must last before it counts, as it is now. What each has lasted for is remembered
//! ([`super::memory::Memory::keep`]).

use std::collections::BTreeSet;

use super::bootstrap::is_blank;
use super::fence::strays;
use super::hold::is_cut_off;
use super::memory::Condition;
use super::replicas::Roster;
use super::view::View;
use super::{emptied, ghosts, moved, publication, reinstate, sentinels};

/// The conditions that hold now.
pub fn conditions(view: &View<'_>) -> BTreeSet<Condition> {
    let mut holding = publication::conditions(view);
    holding.extend(Roster::new(view).conditions());
    holding.extend(strays(view).map(|(address, _)| Condition::Stray(address.clone())));
    holding.extend(sentinels::conditions(view));
    holding.extend(ghosts::conditions(view));
    holding.extend(is_blank(view).then_some(Condition::NoPrimaryAnywhere));
    holding.extend(moved::condition(view));
    holding.extend(reinstate::condition(view));
    holding.extend(emptied::condition(view));
    holding.extend(is_cut_off(view).then_some(Condition::CutOff));
    holding
}
