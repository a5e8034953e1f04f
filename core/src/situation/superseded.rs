//! A writer whose process has ended and for which a failover was asked for a moment ago ([`crate::situation::proof`]):
//! what is at its address by now is not the writer again.

use crate::identity::address::Address;
use crate::known::view::View;
use crate::policy::{SUPERSEDED_FOR_MS, SUPERSEDED_HELD_MS};

/// A failover that replaces it was asked for a moment ago, and may be under way where no Sentinel shows it yet:
/// whatever answers at its address meanwhile is not the writer again.
pub fn is_superseded(view: &View<'_>, address: &Address) -> bool {
    superseded_for(view, address).is_some_and(|ms| ms < SUPERSEDED_FOR_MS)
}

/// How long ago a failover that replaces it was asked for, in ms, unless the Sentinel that this agent asked begins
/// none.
fn superseded_for(view: &View<'_>, address: &Address) -> Option<u64> {
    let death = view.record?.death.as_ref().filter(|death| &death.instance == address)?;
    let refused = view.memory.not_superseded.as_ref() == Some(&death.run_id);
    let elected = view.tally.elected.as_ref().filter(|elected| &elected.address == address);
    // At a later epoch it leads because the Sentinels have chosen it since.
    let later = elected.is_some_and(|elected| elected.epoch > death.epoch);
    let asked = view.memory.superseding.at().filter(|_| !refused && !later)?;
    Some(view.now.mono - asked)
}

/// The instance that is back as a primary while its failover is under way, whose writes would be lost.
pub fn back_too_soon<'a>(view: &View<'a>) -> Option<&'a Address> {
    let record = view.record.filter(|record| record.writer.is_none())?;
    let death = record.death.as_ref()?;
    let held = superseded_for(view, &death.instance).is_some_and(|ms| ms < SUPERSEDED_HELD_MS);
    let answer = view.instance(&death.instance).filter(|_| held)?;
    let back = answer.is_primary() && answer.run_id != death.run_id;
    back.then_some(&death.instance)
}
