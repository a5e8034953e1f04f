//! Chaos: faults that are drawn from a seed, on real servers, and a checker that knows what is promised
//! (docs/chaos.md). `make chaos` runs as many as it is told; `make test` proves that it can fail.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod act;
mod checker;
mod clients;
mod dns;
mod fault;
mod history;
mod http;
#[expect(dead_code, reason = "tests/netns uses all of it")]
#[path = "../netns/namespace.rs"]
mod namespace;
mod resp;
mod rng;
mod run;
mod server;
mod settle;
mod world;

use std::fmt::Write as _;

use fault::{Drawn, Fault, Round, Who, draw};
use run::{Result_, run};
use world::{Mode, Spec};

/// Faults, unless FAULTS says otherwise.
const FAULTS: usize = 200;
/// The seed, unless SEED says otherwise.
const SEED: u64 = 1;

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("CHAOS_{name}")).ok().filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    setting(name).map_or(default, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number"))
    })
}

fn spec(seed: u64) -> Spec {
    let mode = match setting("MODE").as_deref() {
        None | Some("node") => Mode::Node,
        Some("observer") => Mode::Observer,
        Some("exec") => Mode::Exec,
        Some("cluster") => panic!("MODE=cluster: not here yet, see docs/chaos.md"),
        Some(other) => panic!("MODE={other}: observer, node or exec"),
    };
    let level = match setting("LEVEL").as_deref() {
        None | Some("promotion") => "promotion",
        Some("quorum") => "quorum",
        Some(other) => panic!("LEVEL={other}: promotion or quorum"),
    };
    Spec { mode, level, parity: usize::try_from(seed % 2).unwrap_or(0), hold: true }
}

/// Not one of `make test`: what happens between the faults is for the machine to say.
#[test]
fn what_is_promised_is_kept_whatever_faults_are_drawn() {
    let (seed, faults) = (number("SEED", SEED), number("FAULTS", FAULTS));
    let mut rounds = draw(seed, faults);
    if let Some(only) = setting("ROUND") {
        rounds.retain(|round| only.split(',').any(|one| one == round.number.to_string()));
    }
    let spec = spec(seed);
    println!("seed {seed}, {faults} faults, {spec:?}");
    let result = run(spec, &rounds, setting("GO_ON").is_some());
    println!("{}", summary(&result));
    if result.violations.is_empty() {
        assert!(result.tally.acked > 0, "nothing was written");
        return;
    }
    let mut text = format!("seed {seed}, {spec:?}\n");
    result.stories.iter().for_each(|story| text.push_str(story));
    if setting("SHRINK").is_some() {
        let (number, violation) = &result.violations[0];
        if let Some(round) = rounds.iter().find(|round| round.number == *number) {
            let least = shrink(spec, round, violation.rule);
            let _ = writeln!(text, "the faults that matter:\n{least}");
        }
    }
    let (number, violation) = &result.violations[0];
    panic!(
        "{text}\n{}: {}\nlogs: {:?}\nhint: make chaos SEED={seed} FAULTS={faults} ROUND={number} repeats this round",
        violation.rule, violation.what, result.kept
    );
}

/// Proof that a run can fail: a primary that is cut off from the other hosts, and not from its clients, goes on taking
/// writes where the agent beside it is not to hold them. With one more fault, which does not matter and is found not to.
#[test]
fn what_a_product_with_a_fault_does_is_found_and_shrunk() {
    let (mode, level) = (Mode::Node, "promotion");
    let spec = Spec { mode, level, parity: 0, hold: false };
    let cut = Drawn { at_ms: 500, lasts_ms: 13_000, fault: Fault::CutPeers(Who::Writer) };
    let beside = Drawn { at_ms: 1_000, lasts_ms: 500, fault: Fault::SentinelReset(0) };
    let round = Round { number: 1, faults: vec![cut, beside] };
    let result = run(spec, std::slice::from_ref(&round), false);
    let rule = "a cut-off primary writes";
    let found = result.violations.iter().any(|(_, violation)| violation.rule == rule);
    assert!(found, "{:?}\n{}", result.violations, result.stories.concat());
    assert_eq!(shrink(spec, &round, rule).faults, [cut]);
    let result = run(Spec { hold: true, ..spec }, &[Round { number: 1, faults: vec![cut] }], false);
    let found = result.violations.iter().any(|(_, violation)| violation.rule == rule);
    assert!(!found, "{:?}\n{}", result.violations, result.stories.concat());
}

/// Leaves out each fault of a round without which the same rule is violated.
fn shrink(spec: Spec, round: &Round, rule: &str) -> Round {
    let mut least = round.clone();
    let fails = |round: &Round| {
        let result = run(spec, std::slice::from_ref(round), false);
        result.violations.iter().any(|(_, violation)| violation.rule == rule)
    };
    let mut at = 0;
    while least.faults.len() > 1 && at < least.faults.len() {
        let mut fewer = least.clone();
        let left_out = fewer.faults.remove(at);
        println!("without {left_out}");
        if fails(&fewer) { least = fewer } else { at += 1 }
    }
    least
}

fn summary(result: &Result_) -> String {
    let mut text = format!(
        "{} faults in {} rounds, {} changes of what is published, {} writes acknowledged, {} lost, {} violations; \
         the slowest round settled after {} ms",
        result.faults,
        result.rounds,
        result.generations,
        result.tally.acked,
        result.tally.lost.values().sum::<usize>(),
        result.violations.len(),
        result.slowest_ms
    );
    for (cause, count) in &result.tally.lost {
        let _ = write!(text, "\n  {count}: {cause}");
    }
    text
}
