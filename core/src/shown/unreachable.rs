//! Instances that the Sentinels reach and this agent does not: a login that is refused there, a way that is closed. The
//! agent could not follow the promotion of such a one.

use std::fmt;

use crate::identity::address::Address;
use crate::known::memory::Condition;
use crate::known::observed::DownOpinion;
use crate::known::view::View;

/// What the error of a login that a server refuses begins with.
pub const LOGIN_REFUSED: &str = "login refused";
/// How long it must last before it is said, in ms.
pub const UNREACHABLE_AFTER_MS: u64 = 5_000;
/// Sentinels call a dead one up for `down-after-milliseconds`, and this much longer, in ms.
const SLOWER_MS: u64 = 1_000;

/// The published writer, while it says of itself that it refuses writes.
pub fn refuses_writes<'a>(view: &View<'a>) -> Option<&'a Address> {
    let writer = view.writer()?;
    let answer = view.instance(writer)?;
    answer.refuses_writes.is_some().then_some(writer)
}

/// One of them, and why it does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable<'a> {
    /// The one that this agent cannot ask.
    pub instance: &'a Address,
    /// Why it does not answer.
    pub error: &'a str,
}

impl Unreachable<'_> {
    /// It answers, and does not let us in.
    pub fn refuses(&self) -> bool {
        self.error.starts_with(LOGIN_REFUSED)
    }
}

impl fmt::Display for Unreachable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, error } = self;
        match self.refuses() {
            true => write!(f, "{instance} does not let this agent in: {error}"),
            false => write!(
                f,
                "{instance} does not answer from here, and the Sentinels call it up: {error}"
            ),
        }
    }
}

/// Those of now, for [`crate::known::memory::Memory::keep`].
pub fn conditions<'v>(view: &'v View<'_>) -> impl Iterator<Item = Condition> + use<'v> {
    silent(view).map(|(instance, _)| Condition::Unreachable(instance.clone()))
}

/// Those that have been so for long enough. One look has no past.
pub fn unreachable<'a>(view: &View<'a>) -> Vec<Unreachable<'a>> {
    let one_look = view.memory.generation.is_none();
    let slowest = view.groups().map(|group| group.settings.down_after_ms).max().unwrap_or(0);
    let found = silent(view).map(|(instance, error)| Unreachable { instance, error });
    let lasted = |found: &Unreachable<'_>| {
        let wait = match found.refuses() {
            true => UNREACHABLE_AFTER_MS,
            false => UNREACHABLE_AFTER_MS.max(slowest.saturating_add(SLOWER_MS)),
        };
        one_look || view.lasted(&Condition::Unreachable(found.instance.clone()), wait)
    };
    found.filter(lasted).collect()
}

/// Whatever does not answer us and is called up by more Sentinels than call it down.
fn silent<'v, 'a>(
    view: &'v View<'a>,
) -> impl Iterator<Item = (&'a Address, &'a str)> + use<'v, 'a> {
    view.observed.instances.iter().filter_map(move |(instance, reading)| {
        let error = reading.result.as_ref().err()?;
        called_up(view, instance).then_some((instance, error.as_str()))
    })
}

fn called_up(view: &View<'_>, instance: &Address) -> bool {
    let (mut up, mut down) = (0_usize, 0_usize);
    for (_, answer) in view.sentinels().filter(|(_, answer)| !answer.tilt) {
        let Some(group) = &answer.group else { continue };
        let is_down = match group.replicas.iter().find(|replica| &replica.address == instance) {
            Some(replica) => replica.s_down,
            None if &group.monitored == instance => group.down > DownOpinion::Up,
            None => continue,
        };
        up += usize::from(!is_down);
        down += usize::from(is_down);
    }
    up > down
}
