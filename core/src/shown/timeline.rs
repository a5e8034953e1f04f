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
    /// What was seen on the way, in time's order.
    pub steps: Vec<SwitchStep>,
}

/// One moment of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwitchStep {
    /// Which step, in the terms of a failover.
    pub step: StepKind,
    /// When, by the clock of the agent that saw it.
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
    /// The Sentinels agreed that the old primary is down.
    DownAgreed,
    /// The name was withdrawn.
    Withdrawn,
    /// A leader had chosen a replica.
    Selected,
    /// The chosen replica said that it is the primary.
    Promoted,
    /// The new writer was sent to Consul.
    Published,
    /// Consul's DNS answered it.
    InDns,
    /// A majority of the Sentinels had followed.
    Confirmed,
}

impl StepKind {
    /// The words of `history` and of the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DownAgreed => "agreed to be down",
            Self::Withdrawn => "withdrawn",
            Self::Selected => "replica chosen",
            Self::Promoted => "promoted",
            Self::Published => "published",
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
    // In the order in which they can only happen: of two at one instant, the earlier comes first.
    let moments = [
        (StepKind::DownAgreed, timeline.down_agreed),
        (StepKind::Withdrawn, withdrawn.map(|withdrawn| withdrawn.at)),
        (StepKind::Selected, timeline.selected),
        (StepKind::Promoted, timeline.promoted),
        (ended, Some(change.at)),
        (StepKind::InDns, timeline.in_dns),
        (StepKind::Confirmed, timeline.confirmed),
    ];
    let from = withdrawn.and_then(|withdrawn| withdrawn.from.as_ref()).or(change.from.as_ref());
    Switch {
        generation: change.generation,
        at: change.at,
        from: from.cloned(),
        to: change.to.clone(),
        level: change.level,
        why: change.why.clone(),
        by: change.by.clone(),
        steps: steps(moments.into_iter().filter_map(|(step, at)| Some((step, at?))).collect()),
    }
}

fn steps(mut moments: Vec<(StepKind, Timestamp)>) -> Vec<SwitchStep> {
    // Two agents may have seen them, whose clocks differ.
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
            down_agreed: Some(at(1_000)),
            selected: Some(at(1_150)),
            promoted: Some(at(1_200)),
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
        assert_eq!(
            told(last),
            [
                (StepKind::DownAgreed, 0, 0),
                (StepKind::Withdrawn, 3, 3),
                (StepKind::Selected, 150, 147),
                (StepKind::Promoted, 200, 50),
                (StepKind::Published, 204, 4),
                (StepKind::InDns, 212, 8),
                (StepKind::Confirmed, 1_100, 888),
            ]
        );
        assert_eq!(told(first), [(StepKind::Published, 0, 0)]);
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

    #[test]
    fn clocks_that_differ_give_no_negative_times() {
        let timeline =
            Timeline { promoted: Some(at(100)), in_dns: Some(at(90)), ..Timeline::default() };
        let history = [Change { timeline, ..change(2, 105, address("10.0.0.2:6379")) }];
        assert_eq!(
            told(&switches(&history)[0]),
            [(StepKind::InDns, 0, 0), (StepKind::Promoted, 10, 10), (StepKind::Published, 15, 5)]
        );
        assert!(switches(&[]).is_empty());
    }
}
