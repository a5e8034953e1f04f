//! What a person can get wrong that takes servers to find out: the code, what is said, and what to do about it. What
//! takes none is in tests/cli/errors.rs.

use std::net::TcpListener;

use consul_redis::core::published::projection::Op;
use consul_redis::lab::world::{World, WorldSpec};

use crate::support::{agents, run, text, until_in_sync, until_writer, world};

/// Arguments, variables, exit code, what is said, and the hint.
type Mistake<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str, &'a str);

fn answered(world: &World, mistakes: &[Mistake<'_>]) {
    for (args, env, code, said, hint) in mistakes {
        let output = run(world, args, env);
        let all = text(&output);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {all}");
        assert!(all.contains(said), "{args:?}: {all}");
        assert!(all.contains(hint), "{args:?}: {all}");
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_reported_with_what_can() {
    let world = world(WorldSpec::default()).await;
    let _agents = agents(&world, 1, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let known = "hint: the groups there are: redis\n";
    let mistakes: &[Mistake<'_>] = &[
        (&["switchover", "nope"], &[], 1, "Consul knows no group `nope`", known),
        (&["retire", "nope"], &[], 1, "Consul knows no group and no cluster `nope`", known),
        (&["history", "nope"], &[], 1, "nothing was ever published for the group `nope`", known),
        (
            &["retire", "redis"],
            &[],
            1,
            "1 agent(s) still watch `redis` and would publish it again: agent-0",
            "hint: take it out of their config first, or use --force\n",
        ),
        (
            &["maintenance", "on", &writer],
            &[],
            1,
            "is the writer",
            "hint: consul-redis switchover redis moves it away\n",
        ),
        (
            &["maintenance", "on", "127.0.0.1:1"],
            &[],
            1,
            "127.0.0.1:1 is no instance of redis",
            "hint: known are: ",
        ),
        (
            &["maintenance", "on"],
            &[],
            64,
            "which instance? name it as HOST:PORT",
            "hint: consul-redis status lists them\n",
        ),
        (
            &["maintenance", "list", "--group", "a,b"],
            &[],
            64,
            "which group? several are configured",
            "hint: name one: --group NAME\n",
        ),
        (
            &["switchover", "redis", "--yes", "--to", "127.0.0.1:1"],
            &[],
            1,
            "not moved: 1 of 6 checks failed",
            "hint: the lines with NO say why; consul-redis doctor redis has what mends it\n",
        ),
        (
            &["switchover", "redis"],
            &[],
            1,
            "not moved: not confirmed",
            "hint: answer yes, or give --yes\n",
        ),
        (
            &["wait", "redis", "--replicas", "9", "--timeout", "300ms"],
            &[],
            2,
            "redis: not within 300 ms: 2 of 9 replicas are in sync",
            "hint: consul-redis status --group redis says what is wrong\n",
        ),
    ];
    answered(&world, mistakes);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_reported_with_what_to_look_at() {
    let world = world(WorldSpec::default()).await;
    let _agents = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let tls = format!("https://{}", world.consul.http);
    let mistakes: &[Mistake<'_>] = &[
        (
            &["agent", "--listen", &listen],
            &[],
            1,
            "Address already in use",
            "hint: choose another --listen, or end what has it\n",
        ),
        (
            &["status"],
            &[("CONSUL_HTTP_ADDR", &tls)],
            69,
            "does not answer: ",
            "hint: that port speaks no TLS: write http://",
        ),
        // Asked for at once, and not after the agent has started.
        (
            &["agent"],
            &[("CONSUL_NAMESPACE", "team")],
            64,
            "Namespaces are a Consul Enterprise feature",
            "hint: only Consul Enterprise has namespaces and partitions: unset CONSUL_NAMESPACE",
        ),
        // What one look finds is no error of the command, but a problem of the group.
        (
            &["status", "--redis-password-file", "/no/such/password"],
            &[],
            2,
            "does not answer from here: cannot read the secret in /no/such/password",
            "",
        ),
        (
            &["status", "--redis-tls"],
            &[],
            2,
            "TLS: no answer to the handshake: is TLS spoken there?",
            "",
        ),
        (&["status", "--dns", "127.0.0.1:1"], &[], 2, "127.0.0.1:1 does not answer", ""),
    ];
    answered(&world, mistakes);
    let redis = world.groups[0].redis[1].address.to_string();
    let status = text(&run(&world, &["status", "--sentinels", &redis], &[]));
    let said = format!(
        "{redis}  unexpected answer: a Redis, and no Sentinel, listens there (ERR unknown command"
    );
    assert!(status.contains(&said), "{status}");
}

/// A Redis that has too many clients says so before it is asked, as one in protected mode does.
#[tokio::test]
async fn a_redis_that_turns_us_away_is_heard() {
    let world = world(WorldSpec::default()).await;
    let _agents = agents(&world, 1, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let replica = world.groups[0].redis.iter().find(|server| server.address.to_string() != writer);
    let mut link = replica.unwrap().link().await.unwrap();
    link.call(&["CONFIG", "SET", "maxclients", "1"]).await.unwrap();
    let status = text(&run(&world, &["status"], &[]));
    link.call(&["CONFIG", "SET", "maxclients", "1000"]).await.unwrap();
    assert!(status.contains("ERR max number of clients reached"), "{status}");
}

/// Who may write keys, or answers at an address, must not have a terminal obey.
#[tokio::test]
async fn what_a_terminal_would_obey_is_shown_written_out() {
    let world = world(WorldSpec { redis: 2, ..WorldSpec::default() }).await;
    let _agents = agents(&world, 1, &[]);
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    let key = "redis-ha/redis/history".to_owned();
    let history = world.consul.key(&key).await.unwrap().unwrap();
    let value = history.replacen("\"why\":\"", "\"why\":\"\\u001b[2Jnothing ", 1);
    assert_ne!(value, history);
    world.consul.client().unwrap().txn(&[Op::KeySet { key, value }], "").await;
    let shown = text(&run(&world, &["history", "redis"], &[]));
    assert!(shown.contains("\\u001b[2Jnothing ") && !shown.contains('\u{1b}'), "{shown:?}");
    let shown = text(&run(&world, &["history", "redis", "--json"], &[]));
    assert!(shown.contains("\\\\u001b[2Jnothing "), "{shown:?}");
}
