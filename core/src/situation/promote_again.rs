//! The old primary that comes back before another instance has taken its place.
//!
//! An instance under `consul-redis exec` always starts detached ([`is_detached_address`]), so that an instance that has
//! lost its data cannot empty those that follow it. When it was the primary, and its Sentinels still announce it, they
//! wait 20 s and more before they take "I am a replica" for an outage (`docs/facts/sentinel.md` 4.1), and where there
//! is no other instance they wait for ever. It is made the primary again at once when that cannot lose anything: a
//! majority names it, no other instance is being put in its place, and it holds everything that the others hold.

use crate::identity::address::Address;
use crate::known::memory::Condition;
use crate::known::observed::{InstanceAnswer, Role};
use crate::known::view::View;
use crate::policy::REINSTATED_AFTER_MS;
use crate::published::projection::is_detached_address;
use crate::published::replicas::InstanceRows;
pub use crate::shown::reasons::NotPromotedAgain;
use crate::situation::bootstrap::{Promote, includes};
use crate::situation::superseded::is_superseded;

/// The old primary that is to be one again.
///
/// # Errors
/// [`NotPromotedAgain`]: why there is none.
pub fn promote_again(view: &View<'_>) -> Result<Promote, NotPromotedAgain> {
    let (old, answer) = returned(view).ok_or(NotPromotedAgain::NoCase)?;
    if !view.policy.bootstrap {
        return Err(NotPromotedAgain::SwitchedOff);
    }
    let tally = &view.tally;
    let replaced = tally.being_replaced(old) || is_superseded(view, old);
    if !tally.failovers.is_empty() || tally.any_objective(old) || replaced {
        return Err(NotPromotedAgain::BeingReplaced);
    }
    if !answer.shows_its_data() {
        return Err(NotPromotedAgain::NotReady(old.clone()));
    }
    let wrote = wrote_last(view, answer);
    let instance_rows = InstanceRows::new(view);
    let (others, mut missing) = (instance_rows.followed(), None);
    for other in others.iter().filter(|a| *a != old && view.alias_of(a).is_none()) {
        match view.instance(other) {
            Some(rival) if rival.is_primary() => {
                return Err(NotPromotedAgain::Rival(other.clone()));
            }
            // Without data there is nothing that the old primary could lack.
            Some(other) if other.keys == 0 => {}
            Some(than) if wrote && holds_no_more(view, other, than) => {}
            Some(than) if answer.keys == 0 || !includes(answer, than) => {
                return Err(NotPromotedAgain::Behind { old: old.clone(), than: other.clone() });
            }
            Some(_) => {}
            // Where it wrote the last history itself, there can be no more of that at another address.
            None if instance_rows.down(other) && wrote => {}
            None if instance_rows.down(other) => missing = Some(other),
            None => return Err(NotPromotedAgain::Unheard(other.clone())),
        }
    }
    let waited =
        view.memory.lasted(&Condition::Returned(old.clone()), REINSTATED_AFTER_MS, view.now);
    if let Some(missing) = missing.filter(|_| !waited) {
        return Err(NotPromotedAgain::Unheard(missing.clone()));
    }
    Ok(Promote { instance: old.clone(), run_id: answer.run_id.clone() })
}

/// Its data is what the last writer wrote, for it wrote that itself: its note says so (`exec`), where the append-only
/// file that it was started with does not.
fn wrote_last(view: &View<'_>, answer: &InstanceAnswer) -> bool {
    let last = view.record.and_then(|record| record.last_writer.as_ref());
    let own = view.continued(answer).filter(|own| own.led && answer.keys > 0);
    own.is_some_and(|own| last.is_some_and(|last| last.replid == own.of))
}

/// It was started with an append-only file, too, and has nothing of its own: what it holds it had from that writer, or
/// from one before.
fn holds_no_more(view: &View<'_>, address: &Address, answer: &InstanceAnswer) -> bool {
    let placed = view.record.is_some_and(|record| record.role_of(address).is_some());
    let explained = view.continued(answer).is_some_and(|of| !of.led);
    let unknown = view.age(answer).is_none() && answer.append_only && placed;
    explained || unknown || view.age(answer).is_some_and(|age| age > 0)
}

/// The condition of this module, for [`crate::known::memory::Memory::keep`].
pub fn condition(view: &View<'_>) -> Option<Condition> {
    returned(view).map(|(old, _)| Condition::Returned(old.clone()))
}

/// The last writer, which a majority names, and which says that it is detached.
fn returned<'a>(view: &View<'a>) -> Option<(&'a Address, &'a InstanceAnswer)> {
    let old = &view.record?.last_writer.as_ref()?.address;
    view.tally.elected.as_ref().filter(|elected| &elected.address == old)?;
    // Asked since what is published now was: it may have got another command in the meantime.
    let answer = view.observed.instances.get(old)?.since(view.since)?;
    let Role::Replica { of, link_up: false } = &answer.role else { return None };
    is_detached_address(of).then_some((old, answer))
}
