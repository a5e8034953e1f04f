//! How a switch went, step by step in ms: from the entries of `history`.

use jiff::Timestamp;
use serde::Serialize;

use crate::identity::address::Address;
use crate::published::record::{Change, Level};

/// One change of the writer, with the withdrawal that led to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Switch {
    /// The generation that it began.
    pub generation: u64,
    /// When that was published.
    pub at: Timestamp,
    /// The writer before, if there was one.
    pub from: Option<Address>,
    /// The writer since; `None` when the name was withdrawn, and nothing has followed.
    pub to: Option<Address>,
    /// How sure it was at first.
    pub level: Option<Level>,
    /// Why, in one sentence.
    pub why: String,
    /// The agent that published it.
    pub by: String,
    /// How long clients had no writer, in ms: from the last answer of the old one until the new one was in DNS, or was
    /// acknowledged or sent where that was not seen. `None` where the agent that published it had not heard the old
    /// one.
    pub outage_ms: Option<i64>,
    /// What was seen on the way, in time's order.
    pub steps: Vec<SwitchStep>,
}

/// One moment of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwitchStep {
    /// Which step, in the terms of a failover.
    pub step: StepKind,
    /// When, on the clock of the agent that published it.
    pub at: Timestamp,
    /// How long after the first step, in ms.
    pub ms: i64,
    /// How long after the step before, in ms.
    pub after_ms: i64,
}

/// What can happen on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// The old writer answered for the last time.
    Answered,
    /// The old primary's process ended, as its host's kernel said.
    Died,
    /// The Sentinels were to wait for the old primary for a moment only, and to vote.
    Hastened,
    /// The Sentinels agreed that the old primary is down.
    DownAgreed,
    /// The name was withdrawn.
    Withdrawn,
    /// A Sentinel was asked for a failover: that is written with the withdrawal.
    Asked,
    /// A leader had chosen a replica.
    Selected,
    /// The chosen replica said that it is the primary.
    Promoted,
    /// An agent had decided to publish it.
    Decided,
    /// The new writer was sent to Consul.
    Published,
    /// Consul had acknowledged it.
    Acknowledged,
    /// Consul's DNS answered it.
    InDns,
    /// A majority of the Sentinels had followed.
    Confirmed,
}

impl StepKind {
    /// The words of `history` and of the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "last answer of the writer",
            Self::Died => "process ended",
            Self::Hastened => "Sentinels told to vote",
            Self::DownAgreed => "agreed to be down",
            Self::Withdrawn => "withdrawn",
            Self::Asked => "Sentinel asked",
            Self::Selected => "replica chosen",
            Self::Promoted => "promoted",
            Self::Decided => "decided",
            Self::Published => "sent to Consul",
            Self::Acknowledged => "acknowledged by Consul",
            Self::InDns => "in DNS",
            Self::Confirmed => "confirmed",
        }
    }
}

/// The switches of a history (newest first), newest first. A withdrawal and the publication after it are one.
pub fn switches(history: &[Change]) -> Vec<Switch> {
    let mut switches = Vec::new();
    let mut changes = history.iter().peekable();
    while let Some(change) = changes.next() {
        let is_its = |before: &&Change| {
            change.to.is_some() && before.to.is_none() && before.generation < change.generation
        };
        let withdrawn = changes.next_if(is_its);
        switches.push(switch(change, withdrawn));
    }
    switches
}

fn switch(change: &Change, withdrawn: Option<&Change>) -> Switch {
    let timeline = &change.timeline;
    let ended = if change.to.is_some() { StepKind::Published } else { StepKind::Withdrawn };
    // An older agent did not note when it saw the name withdrawn: of another one's clock nothing is known.
    let own = withdrawn.filter(|withdrawn| withdrawn.by == change.by);
    let withdrawn_at = timeline.withdrawn.or(own.map(|withdrawn| withdrawn.at));
    // What follows the publication is never before it, whatever clock an older agent noted it by.
    let later = |at: Option<Timestamp>| at.map(|at| at.max(change.at));
    let (acknowledged, in_dns) = (later(timeline.acknowledged), later(timeline.in_dns));
    // In the order in which they can only happen: of two at one instant, the earlier comes first.
    // The agent that withdrew the name saw the end, by a clock of its own: as long before that as it was there.
    let died = timeline.died.or_else(|| {
        let withdrawn = withdrawn?;
        Some(withdrawn_at? - withdrawn.at.duration_since(withdrawn.timeline.died?))
    });
    let moments = [
        (StepKind::Answered, timeline.answered),
        (StepKind::Died, died),
        (StepKind::Hastened, timeline.hastened),
        (StepKind::DownAgreed, timeline.down_agreed),
        (StepKind::Withdrawn, withdrawn_at),
        (StepKind::Asked, died.and(withdrawn_at.or(Some(change.at)))),
        (StepKind::Selected, timeline.selected),
        (StepKind::Promoted, timeline.promoted),
        (StepKind::Decided, timeline.decided),
        (ended, Some(change.at)),
        (StepKind::Acknowledged, acknowledged),
        (StepKind::InDns, in_dns),
        (StepKind::Confirmed, later(timeline.confirmed)),
    ];
    let from = withdrawn.and_then(|withdrawn| withdrawn.from.as_ref()).or(change.from.as_ref());
    let back = in_dns.or(acknowledged).unwrap_or(change.at);
    let answered = timeline.answered.filter(|_| change.to.is_some());
    Switch {
        generation: change.generation,
        at: change.at,
        from: from.cloned(),
        to: change.to.clone(),
        level: change.level,
        why: change.why.clone(),
        by: change.by.clone(),
        outage_ms: answered.map(|at| back.as_millisecond() - at.as_millisecond()),
        steps: steps(moments.into_iter().filter_map(|(step, at)| Some((step, at?))).collect()),
    }
}

fn steps(mut moments: Vec<(StepKind, Timestamp)>) -> Vec<SwitchStep> {
    // All are on one clock.
    moments.sort_by_key(|(_, at)| *at);
    let ms = |at: &Timestamp| at.as_millisecond();
    let first = moments.first().map_or(0, |(_, at)| ms(at));
    let mut before = first;
    let step = |(step, at): (StepKind, Timestamp)| {
        let after_ms = ms(&at) - before;
        before = ms(&at);
        SwitchStep { step, at, ms: ms(&at) - first, after_ms }
    };
    moments.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::record::Timeline;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
    }

    fn address(text: &str) -> Option<Address> {
        Some(text.parse().unwrap())
    }

    fn change(generation: u64, ms: i64, to: Option<Address>) -> Change {
        Change {
            generation,
            at: at(ms),
            from: None,
            to,
            level: None,
            epoch: None,
            why: "for a reason".to_owned(),
            by: "agent".to_owned(),
            timeline: Timeline::default(),
        }
    }

    fn told(switch: &Switch) -> Vec<(StepKind, i64, i64)> {
        switch.steps.iter().map(|step| (step.step, step.ms, step.after_ms)).collect()
    }

    #[test]
    fn a_withdrawal_and_what_follows_it_are_one_switch() {
        let timeline = Timeline {
            answered: Some(at(-700)),
            died: None,
            hastened: Some(at(950)),
            down_agreed: Some(at(1_000)),
            withdrawn: Some(at(1_009)),
            selected: Some(at(1_150)),
            promoted: Some(at(1_200)),
            decided: Some(at(1_202)),
            acknowledged: Some(at(1_210)),
            in_dns: Some(at(1_212)),
            confirmed: Some(at(2_100)),
        };
        let history = [
            Change { timeline, ..change(3, 1_204, address("10.0.0.2:6379")) },
            Change { from: address("10.0.0.1:6379"), ..change(2, 1_003, None) },
            change(1, 0, address("10.0.0.1:6379")),
        ];
        let [last, first] = &switches(&history)[..] else { panic!("{:?}", switches(&history)) };
        assert_eq!((&last.from, &last.to), (&history[1].from, &history[0].to));
        assert_eq!((last.outage_ms, first.outage_ms), (Some(1_912), None));
        assert_eq!(
            told(last),
            [
                (StepKind::Answered, 0, 0),
                (StepKind::Hastened, 1_650, 1_650),
                (StepKind::DownAgreed, 1_700, 50),
                (StepKind::Withdrawn, 1_709, 9),
                (StepKind::Selected, 1_850, 141),
                (StepKind::Promoted, 1_900, 50),
                (StepKind::Decided, 1_902, 2),
                (StepKind::Published, 1_904, 2),
                (StepKind::Acknowledged, 1_910, 6),
                (StepKind::InDns, 1_912, 2),
                (StepKind::Confirmed, 2_800, 888),
            ]
        );
        assert_eq!(told(first), [(StepKind::Published, 0, 0)]);
    }

    #[test]
    fn a_death_that_was_proven_is_told_from_its_beginning() {
        let timeline = Timeline { died: Some(at(10)), ..Timeline::default() };
        let promoted = Timeline { promoted: Some(at(180)), ..Timeline::default() };
        let history = [
            Change { timeline: promoted, ..change(3, 186, address("10.0.0.2:6379")) },
            Change { timeline, ..change(2, 14, None) },
        ];
        assert_eq!(
            told(&switches(&history)[0]),
            [
                (StepKind::Died, 0, 0),
                (StepKind::Withdrawn, 4, 4),
                (StepKind::Asked, 4, 0),
                (StepKind::Promoted, 170, 166),
                (StepKind::Published, 176, 6),
            ]
        );
    }

    #[test]
    fn a_withdrawal_that_nothing_has_followed_stands_alone() {
        let timeline = Timeline { down_agreed: Some(at(50)), ..Timeline::default() };
        let first = change(1, 0, address("10.0.0.1:6379"));
        let history = [Change { timeline, ..change(2, 60, None) }, first];
        let found = switches(&history);
        assert_eq!(found.len(), 2);
        assert_eq!(told(&found[0]), [(StepKind::DownAgreed, 0, 0), (StepKind::Withdrawn, 10, 10)]);
    }

    /// Two hours between the clocks of two agents: one withdrew the name, the other published it.
    #[test]
    fn the_clocks_of_two_agents_are_never_subtracted() {
        const HOURS: i64 = 7_200_000;
        let by = |by: &str, change: Change| Change { by: by.to_owned(), ..change };
        for ahead in [HOURS, -HOURS] {
            let withdrawn = by("other", change(2, ahead, None));
            let timeline = Timeline {
                withdrawn: Some(at(12)),
                promoted: Some(at(300)),
                ..Timeline::default()
            };
            let published = Change { timeline, ..change(3, 304, address("10.0.0.2:6379")) };
            let history = [published, withdrawn.clone()];
            let wanted = [
                (StepKind::Withdrawn, 0, 0),
                (StepKind::Promoted, 288, 288),
                (StepKind::Published, 292, 4),
            ];
            assert_eq!(told(&switches(&history)[0]), wanted);
            // By an agent that did not note when it saw it withdrawn.
            let timeline = Timeline { promoted: Some(at(300)), ..Timeline::default() };
            let older = Change { timeline, ..change(3, 304, address("10.0.0.2:6379")) };
            let wanted = [(StepKind::Promoted, 0, 0), (StepKind::Published, 4, 4)];
            assert_eq!(told(&switches(&[older.clone(), withdrawn])[0]), wanted);
            // Where one agent did both, one clock counted.
            let both = switches(&[older, change(2, 10, None)]);
            assert_eq!(told(&both[0])[0], (StepKind::Withdrawn, 0, 0));
        }
    }

    #[test]
    fn what_follows_the_publication_is_not_before_it() {
        let timeline =
            Timeline { promoted: Some(at(100)), in_dns: Some(at(90)), ..Timeline::default() };
        let history = [Change { timeline, ..change(2, 105, address("10.0.0.2:6379")) }];
        assert_eq!(
            told(&switches(&history)[0]),
            [(StepKind::Promoted, 0, 0), (StepKind::Published, 5, 5), (StepKind::InDns, 5, 0)]
        );
        assert!(switches(&[]).is_empty());
    }
}
