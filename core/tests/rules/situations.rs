//! One situation at a time, and the table of them that ARCHITECTURE.md shows.

use std::collections::BTreeSet;
use std::path::Path;

use consul_redis_core::duty::action::Action;
use consul_redis_core::duty::hold::HoldReason;
use consul_redis_core::known::observed::{DownOpinion, FailoverPhase, StoredState};
use consul_redis_core::published::publication::{KeepReason, Verdict};
use consul_redis_core::situation::TABLE;

use crate::data_loss::reborn;
use crate::first_primary::{blank, unknown};
use crate::promote_again::returned;
use crate::relocated::all_relocated;
use crate::scene::{A, B, C, Scene, primary, promoted_b};

fn unread() -> Scene {
    let mut scene = Scene::healthy(3);
    scene.observed.store = None;
    scene
}

fn foreign() -> Scene {
    let mut scene = Scene::healthy(3);
    if let Some(store) = &mut scene.observed.store {
        store.state = StoredState::Unreadable("written by a newer one".to_owned());
    }
    scene
}

fn promoting() -> Scene {
    Scene::healthy(3)
        .down(&[0, 1, 2], DownOpinion::Objective)
        .leading(0, B, FailoverPhase::WaitPromotion)
        .dead(A)
        .instance(B, promoted_b())
}

#[test]
fn each_situation_is_recognised() {
    let named = Scene::unpublished(3);
    let gone = Scene::healthy(3).down(&[0, 1, 2], DownOpinion::Objective).dead(A);
    let held = Scene::healthy(3).silent(0).silent(1).silent(2);
    let scenes = [
        ("Unread", unread()),
        ("Foreign", foreign()),
        ("NotOurs", crate::electorate::others()),
        ("Blank", unknown(&[(A, blank(1)), (B, blank(2))])),
        ("Named", named),
        ("Promoting", promoting()),
        ("DataLost", reborn()),
        ("Returned", returned()),
        ("Gone", gone),
        ("Named", Scene::healthy(3)),
        ("Promoting", Scene::healthy(3).promoted(B, 1_000).instance(B, promoted_b())),
        ("Forgotten", crate::forgotten::forgotten()),
        ("Relocated", all_relocated()),
        ("Held", held),
    ];
    let found: Vec<&str> =
        scenes.iter().map(|(_, scene)| scene.decision().situation.name()).collect();
    let wanted: Vec<&str> = scenes.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, wanted);
    // One scene a row, in the order of the table.
    let rows: Vec<&str> = TABLE.iter().map(|row| row.situation).collect();
    assert_eq!(rows, wanted);
}

#[test]
fn an_agent_that_has_not_read_consul_writes_nothing() {
    let decision = unread().decision();
    assert_eq!(decision.verdict, Verdict::Keep(KeepReason::ConsulUnread));
    assert_eq!(decision.actions(), []);
}

/// A stray primary that a leader has superseded, on a host that was isolated: two rules want its writes held.
#[test]
fn one_instance_gets_one_command() {
    let scene = promoting().instance(A, primary(1, None, &[C]));
    let actions = scene.decision().actions();
    let held = actions.iter().filter_map(|action| match action {
        Action::Hold(hold) => Some(&hold.why),
        _ => None,
    });
    let held: Vec<&HoldReason> = held.collect();
    assert!(matches!(held[..], [HoldReason::SupersededBy(_)]), "{actions:?}");
}

/// As Markdown.
fn table() -> String {
    let mut text =
        "| situation | recognised, when none above is | published | done | test |\n".to_owned();
    text.push_str("|---|---|---|---|---|\n");
    for row in &TABLE {
        let cells = [row.situation, row.recognised, row.published, row.done];
        text.push_str(&format!("| {} | `{}` |\n", cells.join(" | "), row.test));
    }
    text
}

#[test]
fn architecture_shows_the_table_of_situations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(text.contains(&table()), "ARCHITECTURE.md should have:\n{}", table());
}

#[test]
fn every_situation_names_a_test() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let files =
        std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("a file").path());
    let text: String =
        files.filter_map(|path| std::fs::read_to_string(path).ok()).collect::<Vec<_>>().join("\n");
    let tests: BTreeSet<&str> = TABLE.iter().map(|row| row.test).collect();
    let missing: Vec<&&str> =
        tests.iter().filter(|name| !text.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
