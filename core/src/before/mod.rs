//! What decided before, beside what decides now: both are held together until this goes.
#![allow(missing_docs, clippy::all, clippy::too_many_lines)]

pub mod action;
pub mod bootstrap;
pub mod decide;
pub mod emptied;
pub mod fence;
pub mod ghosts;
pub mod health;
pub mod hold;
pub mod moved;
pub mod publication;
pub mod reinstate;
pub mod safety;
pub mod sentinels;
pub mod status;

use std::collections::{BTreeMap, BTreeSet};

use crate::decide::Decision;
use crate::projection::Layout;
use crate::view::View;

/// Where the two decisions differ: the kind of difference, and what it is.
pub fn differences(view: &View<'_>, layout: &Layout, now: &Decision) -> Vec<(String, String)> {
    let fresh;
    // Nothing of what the new one has found is handed to the old one.
    let view = {
        fresh = View::with(
            view.policy,
            view.memory,
            view.observed,
            view.now,
            (view.tally.clone(), Default::default()),
        );
        let mut fresh = fresh;
        fresh.since = view.since;
        fresh.recent = view.recent;
        fresh
    };
    let view = &view;
    let before = decide::decide(view, layout);
    let mut found = Vec::new();
    let mut differ = |kind: &str, old: String, new: String| {
        if old != new {
            found.push((kind.to_owned(), format!("before {old}\n  now {new}")));
        }
    };
    let name = now.situation.name();
    differ(
        &format!("verdict in {name}"),
        format!("{:?}", before.verdict),
        format!("{:?}", now.verdict),
    );
    differ(&format!("summary in {name}"), before.summary.clone(), now.summary.clone());
    differ(&format!("sound in {name}"), format!("{}", before.sound), format!("{}", now.sound));
    let gone: Vec<&String> = before.reasons.iter().filter(|r| !now.said().contains(r)).collect();
    let come: Vec<String> =
        now.said().into_iter().filter(|r| !before.reasons.contains(r)).collect();
    if before.reasons != now.said() {
        let first = gone.first().map_or("none", |r| r.as_str());
        let words: String = first.chars().filter(|c| !c.is_ascii_digit()).collect();
        differ(
            &format!("reasons in {name}: -{} +{} {words}", gone.len(), come.len()),
            format!("{:?}", before.reasons),
            format!("{:?}", now.said()),
        );
    }
    let old: Vec<String> = before.actions.iter().map(|a| format!("{a:?}")).collect();
    let new: Vec<String> = now.actions().iter().map(|a| format!("{a:?}")).collect();
    if old != new {
        let kind =
            |text: &String| text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
        let (old_set, new_set): (BTreeSet<&String>, BTreeSet<&String>) =
            (old.iter().collect(), new.iter().collect());
        let missing: Vec<String> = old_set.difference(&new_set).map(|t| kind(t)).collect();
        let added: Vec<String> = new_set.difference(&old_set).map(|t| kind(t)).collect();
        let mut of: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for action in &before.actions {
            let (target, what) = match action {
                action::Action::Hold(x) => (x.instance.to_string(), "Hold"),
                action::Action::Fence(x) => (x.instance.to_string(), "Fence"),
                action::Action::Shelter(x) => (x.instance.to_string(), "Shelter"),
                action::Action::Promote(x) => (x.instance.to_string(), "Promote"),
                action::Action::Tell(x) => (x.sentinel.to_string(), "Tell"),
                action::Action::Write(w) => match (&w.forget, &w.replace) {
                    (Some(f), _) => (f.sentinel.to_string(), "Forget"),
                    (_, Some(r)) => (r.sentinel.to_string(), "Replace"),
                    _ => continue,
                },
            };
            of.entry(target).or_default().push(what.to_owned());
        }
        let twice: Vec<&Vec<String>> = of.values().filter(|all| all.len() > 1).collect();
        differ(
            &format!("actions in {name}: -{missing:?} +{added:?} twice {twice:?}"),
            old.join("\n    "),
            new.join("\n    "),
        );
    }
    let old = format!("{:?}", status::assess(view, layout));
    let new = format!("{:?}", crate::status::assess(view, layout, now));
    differ(&format!("status in {name}"), old, new);
    found
}
