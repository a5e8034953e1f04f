//! `consul-redis history GROUP|CLUSTER`: which instance was the writer, since when, and why; of a cluster, what has changed
//! in its names.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::clusters::cluster_meant;
use super::retire::known_groups;
use super::terminal::{self, Style};
use crate::cli::HistoryArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::consul::client::Consul;
use crate::consul::store::ReadMode;
use crate::core::cluster::history::{ClusterChange, ClusterOutage, changes_of, outages};
use crate::core::cluster::renewal::ClusterPolicy;
use crate::core::identity::address::Address;
use crate::core::published::notices::{DELIVERED, Delivery, NoticeKind, NoticeLog};
use crate::core::published::pause::PauseKey;
use crate::core::published::projection::Layout;
use crate::core::published::record::{Change, Level};
use crate::core::shown::timeline::{Switch, SwitchStep, switches};
use crate::exit::{Exit, Failure};

/// Shows the last changes of a group or a cluster, newest first.
///
/// # Errors
/// A [`Failure`] when Consul cannot be read, or holds no history of it.
pub async fn run(config: Config, args: &HistoryArgs) -> Result<(), Failure> {
    let (consul, clock) = (Consul::new(&config.consul)?, Clock::start());
    if let Some(cluster) = cluster_meant(&config, &consul, &clock, &args.shown).await? {
        return of_cluster(&cluster, &consul, &clock, args).await;
    }
    let layout = Layout::new(&config.prefix, &args.shown);
    let keys = consul.group(&layout, ReadMode::Consistent, &clock).await?.value;
    if keys.history.is_empty() {
        let message = format!("nothing was ever published for the group `{}`", args.shown);
        return Err(Failure::new(Exit::Failed, message).hint(known_groups(&config, &consul).await));
    }
    let log = keys.notices.clone().unwrap_or_default();
    if args.json {
        println!("{}", terminal::json(&with_targets(&keys.history, &log)?)?);
    } else if args.steps {
        print!("{}", step_by_step(&keys.history, Style::of_stdout()));
    } else {
        print!("{}", describe_told(&keys.history, &log, Style::of_stdout()));
        tell_pause(&keys.pause, &clock);
    }
    Ok(())
}

/// What became of telling each target of a change, by target.
fn targets_of<'a>(change: &Change, log: &'a NoticeLog) -> BTreeMap<&'a str, &'a str> {
    let of_change = |delivery: &&Delivery| {
        let writer = matches!(delivery.event, NoticeKind::Switch | NoticeKind::Withdrawal);
        writer && delivery.generation == change.generation
    };
    let targets = log.deliveries.iter().filter(of_change).flat_map(|delivery| &delivery.targets);
    targets.map(|(target, word)| (target.as_str(), word.as_str())).collect()
}

/// The history with which targets were told of each change (`notified`), where any was.
fn with_targets(history: &[Change], log: &NoticeLog) -> Result<Vec<Value>, Failure> {
    let change = |change: &Change| {
        let mut value = serde_json::to_value(change)
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        let targets = targets_of(change, log);
        if let (Value::Object(fields), false) = (&mut value, targets.is_empty()) {
            fields.insert("notified".to_owned(), serde_json::json!(targets));
        }
        Ok(value)
    };
    history.iter().map(change).collect()
}

/// The last pause, whether it is on or over.
fn tell_pause(pause: &PauseKey, clock: &Clock) {
    if let PauseKey::Known(pause) = pause {
        println!("{}", pause.in_words(clock.now().wall));
    }
}

async fn of_cluster(
    cluster: &ClusterPolicy,
    consul: &Consul,
    clock: &Clock,
    args: &HistoryArgs,
) -> Result<(), Failure> {
    let store = consul.cluster(&cluster.layout, clock).await?;
    let changes = changes_of(&store);
    if changes.is_empty() {
        let message = match store.record() {
            Some(_) => {
                format!("cluster {} has not changed since agents keep a history", cluster.name)
            }
            None => format!("nothing was ever published of the cluster {}", cluster.name),
        };
        return Err(Failure::new(Exit::Failed, message));
    }
    if args.json {
        println!("{}", terminal::json(&changes)?);
    } else if args.steps {
        print!("{}", outages_step_by_step(&changes, Style::of_stdout()));
    } else {
        print!("{}", describe_cluster(&changes, Style::of_stdout()));
        tell_pause(&store.pause(), clock);
    }
    Ok(())
}

/// A line for each node that changed, the first with the change's own.
fn describe_cluster(changes: &[ClusterChange], style: Style) -> String {
    let mut text = String::new();
    let head = ["", "began", "by", "slots", "what"].map(str::to_owned).to_vec();
    let rows = changes.iter().flat_map(|change| {
        change.what.iter().enumerate().map(|(line, what)| match line {
            0 => vec![
                change.generation.to_string(),
                format!("{:.3}", change.at),
                change.by.clone(),
                change.slots_served.to_string(),
                what.clone(),
            ],
            _ => {
                [String::new(), String::new(), String::new(), String::new(), what.clone()].to_vec()
            }
        })
    });
    terminal::columns(&mut text, "", std::iter::once(head).chain(rows).collect(), style);
    text
}

/// Each time in which slots had no primary: how long, and its steps, each with how long after the first one it was.
fn outages_step_by_step(changes: &[ClusterChange], style: Style) -> String {
    let mut text = String::new();
    for ClusterOutage { generation, at, slots, ms, steps } in outages(changes) {
        let head = style.bold(&format!("{generation}  {at:.3}"));
        text.push_str(&format!("{head}  {slots} slots without a primary\n"));
        for (ms, step) in steps {
            text.push_str(&format!("  {ms:>7} ms  {step}\n"));
        }
        text.push_str(&match ms {
            Some(ms) => format!("  {ms:>7} ms  all slots have a primary\n"),
            None => "               it lasts\n".to_owned(),
        });
    }
    match (text.is_empty(), changes.last()) {
        (true, Some(first)) => {
            format!("no slot has been without a primary since generation {}\n", first.generation)
        }
        _ => text,
    }
}

/// Each switch: how long clients had no writer, and its steps, each with how long after the first one it was.
fn step_by_step(history: &[Change], style: Style) -> String {
    let mut text = String::new();
    for switch in switches(history) {
        let Switch { generation, at, from, to, why, outage_ms, steps, .. } = switch;
        let (from, to) = (or_none(from.as_ref()), or_none(to.as_ref()));
        let head = style.bold(&format!("{generation}  {at:.3}  {from} -> {to}"));
        text.push_str(&format!("{head}  {why}\n"));
        if let Some(ms) = outage_ms {
            text.push_str(&format!("  {ms:>7} ms  without a writer, as clients had it\n"));
        }
        for SwitchStep { step, ms, .. } in steps {
            text.push_str(&format!("  {ms:>7} ms  {}\n", step.as_str()));
        }
    }
    text
}

/// One line for each change.
pub fn describe(history: &[Change], style: Style) -> String {
    describe_told(history, &NoticeLog::default(), style)
}

/// The same, with which targets were told of it, where any was.
fn describe_told(history: &[Change], log: &NoticeLog, style: Style) -> String {
    let mut text = String::new();
    let mut head = ["", "began", "writer", "level", "took", "why"].map(str::to_owned).to_vec();
    let mut rows: Vec<Vec<String>> = history.iter().map(row).collect();
    let told: Vec<String> = history.iter().map(|change| told(change, log)).collect();
    if told.iter().any(|told| !told.is_empty()) {
        head.insert(5, "told".to_owned());
        rows.iter_mut().zip(told).for_each(|(row, told)| row.insert(5, told));
    }
    terminal::columns(&mut text, "", std::iter::once(head).chain(rows).collect(), style);
    text
}

/// The targets that were told of a change, and those that were not.
fn told(change: &Change, log: &NoticeLog) -> String {
    let word = |(target, word): (&str, &str)| match word {
        DELIVERED => target.to_owned(),
        _ => format!("not {target}"),
    };
    targets_of(change, log).into_iter().map(word).collect::<Vec<_>>().join(", ")
}

fn row(change: &Change) -> Vec<String> {
    vec![
        change.generation.to_string(),
        format!("{:.3}", change.at),
        format!("{} -> {}", or_none(change.from.as_ref()), or_none(change.to.as_ref())),
        change.level.map_or("", Level::as_str).to_owned(),
        took(change),
        change.why.clone(),
    ]
}

/// An address as a table shows it; `none` where there was no writer.
pub fn or_none(address: Option<&Address>) -> String {
    address.map_or_else(|| "none".to_owned(), ToString::to_string)
}

/// From the moment that the first of its steps was seen to its publication.
fn took(change: &Change) -> String {
    let steps = &change.timeline;
    let first = [steps.died, steps.hastened, steps.down_agreed, steps.selected, steps.promoted];
    let first = first.into_iter().flatten().min();
    let ms = |since: Timestamp| change.at.duration_since(since).as_millis();
    first.map(|since| format!("{} ms", ms(since))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<Change> {
        serde_json::from_value(serde_json::json!([
            {"generation": 3, "at": "2026-11-21T00:00:01.5Z", "from": null, "to": "10.0.0.6:6379",
             "level": "promotion", "epoch": 1, "why": "promoted by Sentinel epoch 1", "by": "a",
             "timeline": {"selected": "2026-11-21T00:00:01.25Z", "promoted": "2026-11-21T00:00:01.497Z"}},
            {"generation": 2, "at": "2026-11-21T00:00:01Z", "from": "10.0.0.5:6379", "to": null,
             "level": null, "epoch": null, "why": "10.0.0.5:6379 is down", "by": "a", "timeline": {}},
        ]))
        .unwrap()
    }

    #[test]
    fn a_switch_is_shown_step_by_step() {
        assert_eq!(
            step_by_step(&changes(), Style::plain()),
            "3  2026-11-21T00:00:01.500Z  10.0.0.5:6379 -> 10.0.0.6:6379  promoted by Sentinel epoch 1\n\
             \x20       0 ms  withdrawn\n\
             \x20     250 ms  replica chosen\n\
             \x20     497 ms  promoted\n\
             \x20     500 ms  sent to Consul\n"
        );
        let mut changes = changes();
        let sent = changes[0].at;
        let ms = |ms: i64| Some(crate::core::time::after(sent, ms));
        changes[0].timeline.answered = ms(-2_100);
        changes[0].timeline.acknowledged = ms(11_000);
        assert_eq!(
            step_by_step(&changes[..1], Style::plain()),
            "3  2026-11-21T00:00:01.500Z  none -> 10.0.0.6:6379  promoted by Sentinel epoch 1\n\
             \x20   13100 ms  without a writer, as clients had it\n\
             \x20       0 ms  last answer of the writer\n\
             \x20    1850 ms  replica chosen\n\
             \x20    2097 ms  promoted\n\
             \x20    2100 ms  sent to Consul\n\
             \x20   13100 ms  acknowledged by Consul\n"
        );
    }

    #[test]
    fn an_outage_of_a_cluster_is_shown_step_by_step() {
        let change = |generation: u64, ms: &str, served: usize, what: &str| {
            serde_json::json!({
                "generation": generation, "at": format!("2026-11-21T00:00:0{ms}Z"), "by": "a",
                "slots_served": served, "what": [what],
            })
        };
        let mut changes = serde_json::json!([
            change(5, "4.1", 10_923, "10.0.0.6:6379 (77aa), primary of shard 2, leaves: refused"),
            change(4, "2.2", 16_384, "10.0.0.8:6379 (9be0) is primary of shard 1"),
            change(3, "1.5", 10_923, "10.0.0.5:6379 (3f2c), primary of shard 1, leaves: refused"),
            change(2, "1.0", 16_384, "10.0.0.8:6379 (9be0) is replica of shard 1"),
            change(1, "0.5", 5_461, "10.0.0.5:6379 (3f2c) is primary of shard 1"),
        ]);
        // By another clock, which is behind.
        changes[1]["hastened"] = serde_json::json!("2026-11-21T00:00:01.4Z");
        let mut changes: Vec<ClusterChange> = serde_json::from_value(changes).unwrap();
        assert_eq!(
            outages_step_by_step(&changes, Style::plain()),
            "5  2026-11-21T00:00:04.100Z  5461 slots without a primary\n\
             \x20       0 ms  10.0.0.6:6379 (77aa), primary of shard 2, leaves: refused\n\
             \x20              it lasts\n\
             3  2026-11-21T00:00:01.500Z  5461 slots without a primary\n\
             \x20       0 ms  10.0.0.5:6379 (3f2c), primary of shard 1, leaves: refused\n\
             \x20       0 ms  the others are told to wait for a moment only\n\
             \x20     700 ms  10.0.0.8:6379 (9be0) is primary of shard 1\n\
             \x20     700 ms  all slots have a primary\n"
        );
        changes.drain(..3);
        assert_eq!(
            outages_step_by_step(&changes, Style::plain()),
            "no slot has been without a primary since generation 1\n"
        );
    }

    #[test]
    fn a_change_of_a_cluster_has_a_line_for_each_node() {
        let changes: Vec<ClusterChange> = serde_json::from_value(serde_json::json!([
            {"generation": 12, "at": "2026-11-21T00:00:01.5Z", "by": "agent-1", "slots_served": 16384,
             "what": ["10.0.0.8:6379 (9be04d1c) is primary of shard 1", "and 1 more"]},
            {"generation": 11, "at": "2026-11-21T00:00:01Z", "by": "agent-2", "slots_served": 10923,
             "what": ["10.0.0.5:6379 (3f2c91aa), primary of shard 1, leaves: refused"]},
        ]))
        .unwrap();
        assert_eq!(
            describe_cluster(&changes, Style::plain()),
            "    began                     by       slots  what\n\
             12  2026-11-21T00:00:01.500Z  agent-1  16384  10.0.0.8:6379 (9be04d1c) is primary of shard 1\n\
             \x20                                             and 1 more\n\
             11  2026-11-21T00:00:01.000Z  agent-2  10923  10.0.0.5:6379 (3f2c91aa), primary of shard 1, leaves: refused\n"
        );
    }

    #[test]
    fn a_change_says_which_targets_were_told() {
        let mut log = NoticeLog::default();
        for (target, word) in [("chat", DELIVERED), ("pager", "failed: HTTP 500")] {
            let at = changes()[0].at;
            let (by, run, notice) = ("a".to_owned(), "1".to_owned(), None);
            let mut targets: BTreeMap<String, String> =
                log.deliveries.first().map(|d: &Delivery| d.targets.clone()).unwrap_or_default();
            targets.insert(target.to_owned(), word.to_owned());
            let (id, event, generation) = ("x/3".to_owned(), NoticeKind::Switch, 3);
            log.note(Delivery { id, event, generation, at, by, run, notice, targets });
        }
        let text = describe_told(&changes(), &log, Style::plain());
        assert!(text.contains("250 ms  chat, not pager  promoted by"), "{text}");
        let json = with_targets(&changes(), &log).unwrap();
        assert_eq!(json[0]["notified"]["pager"], "failed: HTTP 500");
        assert_eq!(json[1].get("notified"), None);
    }

    #[test]
    fn a_change_is_a_line() {
        let text = describe(&changes(), Style::plain());
        assert_eq!(
            text,
            "   began                     writer                 level      took    why\n\
             3  2026-11-21T00:00:01.500Z  none -> 10.0.0.6:6379  promotion  250 ms  promoted by Sentinel epoch 1\n\
             2  2026-11-21T00:00:01.000Z  10.0.0.5:6379 -> none                     10.0.0.5:6379 is down\n"
        );
    }
}
