//! What scripts do with a group: `wait` for it, and read its `history`.

use consul_redis::lab::world::WorldSpec;

use crate::support::{agent, run, text, until_in_sync, until_writer, world};

#[tokio::test]
async fn a_script_waits_for_what_it_needs_and_reads_what_happened() {
    let mut world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    // Nobody publishes anything yet.
    let nobody = run(&world, &["wait", "redis", "--timeout", "300ms"], &[]);
    assert_eq!(nobody.status.code(), Some(2), "{}", text(&nobody));
    assert_eq!(text(&nobody), "redis: not within 300 ms: nothing was ever published\n");
    let none = run(&world, &["history", "redis"], &[]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none));

    let _agent = agent(&world, "agent", &[], &[]);
    let waiting = run(&world, &["wait", "redis"], &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    assert_eq!((waiting.status.code(), text(&waiting)), (Some(0), format!("{first}\n")));
    until_in_sync(&world, "redis", 1).await;
    let replica = run(&world, &["wait", "redis", "--replicas", "1"], &[]);
    let other = world.groups[0].redis[1].address.to_string();
    assert_eq!((replica.status.code(), text(&replica)), (Some(0), format!("{other}\n")));
    let too_many = run(&world, &["wait", "redis", "--replicas", "2", "--timeout", "300ms"], &[]);
    assert_eq!(text(&too_many), "redis: not within 300 ms: 1 of 2 replicas are in sync\n");

    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;
    let history = text(&run(&world, &["history", "redis"], &[]));
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines.len(), 4, "{history}");
    assert!(
        lines[1].starts_with('3') && lines[1].contains(&format!("none -> {other}")),
        "{history}"
    );
    assert!(lines[2].contains(&format!("{first} -> none")), "{history}");
    let json = run(&world, &["history", "redis", "--json"], &[]);
    let changes: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(changes[0]["to"], other.as_str(), "{changes}");
}
