//! `doctor` on real servers: none of its findings where all is well, and each fault as an operator makes it.

use std::time::Duration;

use consul_redis::core::known::observed::Role;
use consul_redis::lab::LabError;
use consul_redis::lab::consul::ConsulServer;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::WorldSpec;
use serde_json::{Value, json};

use crate::cures::{codes, cure, cure_of, doctor, set, until_found, until_found_among, well};
use crate::support::{agent, agents, run, text, until_in_sync, until_writer, world};

const MASTER: &str = "11111111-2222-3333-4444-555555555555";

async fn tell(sentinels: &[LabServer], option: &str, value: &str) {
    for sentinel in sentinels {
        sentinel.ask(&["SENTINEL", "SET", "redis", option, value]).await.unwrap();
    }
}

async fn register(consul: &ConsulServer, body: &Value) {
    let client = consul.client().unwrap();
    client.put("/v1/agent/service/register", &[], Some(body)).await.unwrap();
}

#[tokio::test]
async fn where_all_is_well_it_finds_nothing() {
    let (mut world, _agents, _) = well(WorldSpec::default()).await;
    until_found(&world, &[], &[]).await;
    let dns = world.consul.dns.to_string();
    let output = run(&world, &["doctor", "--dns", &dns], &[]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "redis: no findings\n"));
    let unknown = run(&world, &["doctor", "cache"], &[]);
    assert_eq!(unknown.status.code(), Some(64), "{}", text(&unknown));
    // Consul without what consul/consul-agent.hcl says.
    std::fs::write(world.dir().join("consul/consul-agent.hcl"), "").unwrap();
    world.consul.restart().await.unwrap();
    let findings = until_found(&world, &[], &["max-stale"]).await;
    assert_eq!(findings[0]["evidence"][0]["read"], "dns_config: allow_stale, max_stale 87600 h");
    let dns = world.consul.dns.to_string();
    let output = run(&world, &["doctor", "--dns", &dns], &[]);
    let said = text(&output);
    assert!(said.starts_with("redis: 1 warning\n  warning max-stale: "), "{said}");
    assert!(said.contains("\n    do: set dns_config"), "{said}");
    assert_eq!(output.status.code(), Some(0), "a warning is no failure");
}

#[tokio::test]
async fn what_is_wrong_with_redis_is_found() {
    let (world, _agents, writer) = well(WorldSpec::default()).await;
    let redis = &world.groups[0].redis;
    let replicas: Vec<&LabServer> =
        redis.iter().filter(|server| server.address.to_string() != writer).collect();
    replicas[0].ask(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    until_found(&world, &[], &["priority-zero"]).await;
    replicas[1].ask(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    let findings = until_found(&world, &[], &["nobody-eligible"]).await;
    let mend = findings[0]["mend"].as_str().unwrap();
    assert!(mend.contains("CONFIG SET replica-priority 100; redis-cli"), "{mend}");
    set(redis, "replica-priority", "100").await;
    replicas[0].ask(&["CONFIG", "SET", "save", ""]).await.unwrap();
    replicas[1].ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.unwrap();
    set(redis, "min-replicas-to-write", "5").await;
    let wanted = ["persistence-off", "maxmemory-policy-differs", "min-replicas-unmet"];
    let findings = until_found(&world, &[], &wanted).await;
    assert_eq!(findings[0]["code"], "min-replicas-unmet", "the worst comes first");
    assert_eq!(findings[0]["evidence"][0]["from"], *writer);
}

/// Each cure that is a command is carried out, word for word, and the finding is gone, with no other in its place.
#[tokio::test]
async fn what_doctor_says_cures_what_it_found() {
    let (world, _agents, writer) = well(WorldSpec::default()).await;
    let redis = &world.groups[0].redis;
    let replicas: Vec<&LabServer> =
        redis.iter().filter(|server| server.address.to_string() != writer).collect();
    let one = |code: &'static str| [code];
    // Of one instance, and of all of them: one finding with a cure for each.
    for (code, setting, value, everywhere) in [
        ("priority-zero", "replica-priority", "0", false),
        ("nobody-eligible", "replica-priority", "0", true),
        ("persistence-off", "save", "", true),
        ("replica-writable", "replica-read-only", "no", true),
        ("diskless-delay", "repl-diskless-sync-delay", "60", true),
        ("min-replicas-off", "min-replicas-to-write", "0", true),
        ("min-replicas-no-spare", "min-replicas-to-write", "2", true),
        ("min-replicas-unmet", "min-replicas-to-write", "3", true),
        ("min-replicas-differ", "min-replicas-to-write", "0", false),
        ("maxmemory-differs", "maxmemory", "100000000", false),
        ("maxmemory-policy-differs", "maxmemory-policy", "allkeys-lru", false),
        ("replica-buffer-small", "client-output-buffer-limit", "replica 65536 65536 60", true),
        ("replica-unannounced", "replica-announced", "no", false),
    ] {
        match everywhere {
            true => set(redis, setting, value).await,
            false => drop(replicas[0].ask(&["CONFIG", "SET", setting, value]).await.unwrap()),
        }
        if setting == "repl-diskless-sync-delay" {
            set(redis, "repl-diskless-sync", "yes").await;
        }
        let findings = until_found(&world, &[], &one(code)).await;
        assert_eq!(findings.len(), 1, "{findings:#?}");
        cure(&world, &findings).await;
        until_found(&world, &[], &[]).await;
    }
    for (setting, value) in [("replica-announced", "yes"), ("replica-priority", "100")] {
        replicas[0].ask(&["CONFIG", "SET", setting, value]).await.unwrap();
    }
    until_found(&world, &[], &[]).await;
    let kept = run(&world, &["maintenance", "on", &replicas[0].address.to_string()], &[]);
    assert_eq!(kept.status.code(), Some(0), "{}", text(&kept));
    let findings = until_found(&world, &[], &["in-maintenance"]).await;
    cure(&world, &findings).await;
    until_found(&world, &[], &[]).await;
    for (code, option, value, everywhere) in [
        ("quorum-too-high", "quorum", "4", true),
        ("quorum-no-spare", "quorum", "3", true),
        ("quorum-one", "quorum", "1", true),
        ("quorum-differs", "quorum", "3", false),
        ("down-after-short", "down-after-milliseconds", "1400", true),
        ("down-after-long", "down-after-milliseconds", "20000", true),
        ("down-after-differs", "down-after-milliseconds", "3000", false),
        ("failover-timeout-differs", "failover-timeout", "30000", false),
        ("failover-timeout-short", "failover-timeout", "3000", true),
        ("failover-timeout-long", "failover-timeout", "90000", true),
        ("parallel-syncs-differs", "parallel-syncs", "2", false),
    ] {
        // What an earlier cure has written down would be kept.
        let kept = json!({"reboot_down_after_ms": 3_000});
        world.consul.client().unwrap().put(CONFIG_KEY, &[], Some(&kept)).await.unwrap();
        let some = if everywhere { &world.sentinels[..] } else { &world.sentinels[..1] };
        tell(some, option, value).await;
        let findings = until_found_among(&world, code).await;
        cure(&world, &findings).await;
        until_found(&world, &[], &[]).await;
    }
}

/// As a container has it that got another address: its primary knows it by the wrong one as soon as it connects anew.
#[tokio::test]
async fn a_replica_that_announces_another_address_is_known_by_its_own_after_the_cure() {
    let (mut world, _agents, writer) = well(WorldSpec::default()).await;
    let elsewhere = world.address().to_string();
    let redis = &world.groups[0].redis;
    let replica = redis.iter().find(|server| server.address.to_string() != writer).unwrap();
    replica.ask(&["CONFIG", "SET", "replica-announce-ip", &elsewhere]).await.unwrap();
    replica.ask(&["CLIENT", "KILL", "TYPE", "master"]).await.unwrap();
    let listed = |at: String| {
        let writer = world.server(&writer).unwrap();
        async move {
            until(&format!("the writer lists {at}"), Duration::from_secs(20), || async {
                match writer.probe().await?.role {
                    Role::Primary { replicas }
                        if replicas.iter().any(|r| r.address.host() == at) =>
                    {
                        Ok(())
                    }
                    role => Err(LabError(format!("{role:?}"))),
                }
            })
            .await
            .unwrap();
        }
    };
    listed(elsewhere).await;
    cure_of(&world, "announce-differs").await;
    listed(replica.address.host().to_owned()).await;
    let found = doctor(&world, &[]).1;
    assert!(!codes(&found).contains("announce-differs"), "{found:#?}");
}

/// Agents that observe leave to the operator what agents that manage do.
#[tokio::test]
async fn what_doctor_says_cures_what_agents_leave_alone() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    set(&world.groups[0].redis, "save", "3600 1").await;
    set(&world.groups[0].redis, "min-replicas-to-write", "1").await;
    let config = world.dir().join("observe.toml");
    std::fs::write(&config, "[[group]]\nname = \"redis\"\nmanage = false\n").unwrap();
    let _agents = agents(&world, 2, &["--config", config.to_str().unwrap()]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let kept = run(&world, &["config", "redis", "reboot_down_after=3s"], &[]);
    assert_eq!(kept.status.code(), Some(0), "{}", text(&kept));
    until_found(&world, &[], &[]).await;
    let redis = &world.groups[0].redis;
    let replicas: Vec<&LabServer> =
        redis.iter().filter(|server| server.address.to_string() != writer).collect();
    let sentinel = &world.sentinels[2];
    // One that has lost its config file.
    sentinel.ask(&["SENTINEL", "REMOVE", "redis"]).await.unwrap();
    cure_of(&world, "sentinel-lacks-group").await;
    world.settle().await.unwrap();
    until_found(&world, &[], &[]).await;
    // One that was told another primary.
    sentinel.ask(&["SENTINEL", "REMOVE", "redis"]).await.unwrap();
    let (host, port) = (replicas[0].address.host(), replicas[0].address.port().to_string());
    sentinel.ask(&["SENTINEL", "MONITOR", "redis", host, &port, "2"]).await.unwrap();
    cure_of(&world, "sentinels-disagree").await;
    world.settle().await.unwrap();
    until_found(&world, &[], &[]).await;
    // Sentinels put it back themselves, after failover-timeout.
    replicas[1].ask(&["REPLICAOF", host, &port]).await.unwrap();
    cure_of(&world, "follows-another").await;
    until_found(&world, &[], &[]).await;
}

/// Keys of the operator's, and rows of other programs.
#[tokio::test]
async fn what_doctor_says_of_consul_cures_it() {
    let (mut world, mut agents, _) = well(WorldSpec::default()).await;
    let theirs =
        json!({"Name": "redis-primary", "ID": "theirs", "Address": "10.9.9.9", "Port": 6379});
    register(&world.consul, &theirs).await;
    cure_of(&world, "foreign-row").await;
    until_found(&world, &[], &[]).await;
    for key in [CONFIG_KEY, "/v1/kv/redis-ha/redis/maintenance"] {
        world.consul.client().unwrap().put(key, &[], Some(&json!("damaged"))).await.unwrap();
        cure_of(&world, "key-unreadable").await;
    }
    cure_of(&world, "reboot-unbounded").await;
    until_found(&world, &[], &[]).await;
    // What consul/consul-agent.hcl says otherwise.
    let file = world.dir().join("consul/consul-agent.hcl");
    let wrong = "dns_config { use_cache = true\n service_ttl { \"redis-primary\" = \"30s\" } }\n";
    std::fs::write(&file, wrong).unwrap();
    world.consul.restart().await.unwrap();
    let found = until_found(&world, &[], &["max-stale", "dns-cache", "service-ttl"]).await;
    let said = found.iter().map(|finding| {
        let mend = finding["mend"].as_str().unwrap();
        let block = mend.strip_prefix("set dns_config {").expect("a block of dns_config");
        block.rsplit_once('}').unwrap().0
    });
    let right = format!("dns_config {{\n{}\n}}\n", said.collect::<Vec<_>>().join("\n"));
    std::fs::write(&file, right).unwrap();
    world.consul.restart().await.unwrap();
    until_found(&world, &[], &[]).await;
    // The last agent is gone, and the next ones are started.
    agents.clear();
    let found = until_found(&world, &[], &["no-agents"]).await;
    let mend = found[0]["mend"].as_str().unwrap();
    let args = mend.strip_prefix("consul-redis agent ").unwrap();
    let args: Vec<&str> = args.split(' ').collect();
    agents.push(agent(&world, "agent-8", &args, &[]));
    until_found(&world, &[], &["one-agent"]).await;
    agents.push(agent(&world, "agent-9", &args, &[]));
    until_found(&world, &[], &[]).await;
}

/// What comes before the first agent is a hint, and `doctor` ends well; the agents that it says begin.
#[tokio::test]
async fn before_the_first_agent_doctor_says_that_it_is_not_started() {
    let world = world(WorldSpec { since: Some("7.0"), ..WorldSpec::default() }).await;
    set(&world.groups[0].redis, "save", "3600 1").await;
    set(&world.groups[0].redis, "min-replicas-to-write", "1").await;
    let kept = run(&world, &["config", "redis", "reboot_down_after=3s"], &[]);
    assert_eq!(kept.status.code(), Some(0), "{}", text(&kept));
    let found = until_found(&world, &[], &["not-started"]).await;
    assert_eq!(found[0]["severity"], "hint", "and no failure: {found:#?}");
    let args = found[0]["mend"].as_str().unwrap().strip_prefix("consul-redis agent ").unwrap();
    let args: Vec<&str> = args.split(' ').collect();
    let _agents = [agent(&world, "agent-0", &args, &[]), agent(&world, "agent-1", &args, &[])];
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_found(&world, &[], &[]).await;
}

/// The key with the group's Sentinel settings.
const CONFIG_KEY: &str = "/v1/kv/redis-ha/redis/config";

#[tokio::test]
async fn what_is_wrong_with_sentinels_is_found() {
    let (mut world, _agents, _) = well(WorldSpec::default()).await;
    tell(&world.sentinels[..1], "down-after-milliseconds", "3000").await;
    until_found(&world, &[], &["down-after-differs"]).await;
    tell(&world.sentinels, "down-after-milliseconds", "1500").await;
    tell(&world.sentinels, "quorum", "4").await;
    until_found(&world, &[], &["quorum-too-high"]).await;
    tell(&world.sentinels, "quorum", "2").await;
    let fourth = world.start_sentinel("sentinel-3", true).await.unwrap();
    world.sentinels.push(fourth);
    world.settle().await.unwrap();
    until_found(&world, &[], &["sentinels-even"]).await;
    // After down-after, no Sentinel hears one that is gone; a replica too.
    world.sentinels[3].kill();
    until_found(&world, &[], &["sentinels-even", "sentinel-down"]).await;
    world.groups[0].redis[2].kill();
    let wanted = ["sentinels-even", "sentinel-down", "ghost-replica", "min-replicas-no-spare"];
    set(&world.groups[0].redis[..2], "min-replicas-to-write", "0").await;
    let wanted = [&wanted[..3], &["min-replicas-off"]].concat();
    until_found(&world, &[], &wanted).await;
    // What they say: each is started again, and one more.
    set(&world.groups[0].redis[..2], "min-replicas-to-write", "1").await;
    world.groups[0].redis[2].restart().await.unwrap();
    set(&world.groups[0].redis[2..], "save", "3600 1").await;
    set(&world.groups[0].redis[2..], "min-replicas-to-write", "1").await;
    world.sentinels[3].restart().await.unwrap();
    until_found(&world, &[], &["sentinels-even"]).await;
    let fifth = world.start_sentinel("sentinel-4", true).await.unwrap();
    world.sentinels.push(fifth);
    world.settle().await.unwrap();
    until_found(&world, &[], &[]).await;
}

#[tokio::test]
async fn another_program_under_the_same_name_is_found() {
    let (world, _agents, writer) = well(WorldSpec::default()).await;
    let theirs =
        json!({"Name": "redis-primary", "ID": "theirs", "Address": "10.9.9.9", "Port": 6379});
    register(&world.consul, &theirs).await;
    let findings = until_found(&world, &[], &["foreign-row", "dns-wrong"]).await;
    assert_eq!(findings[0]["mend"], "consul services deregister -id=theirs, on that node");
    let published = &findings[1]["evidence"][1];
    assert_eq!(
        (&published["from"], &published["read"]),
        (&json!("key redis-ha/redis/state"), &json!(writer))
    );
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let spec = WorldSpec { master_token: Some(MASTER.to_owned()), ..WorldSpec::default() };
    let (world, _agents, _) = well(spec).await;
    // DNS asks without a token, and this Consul is of 2020.
    let always = ["consul-txn-acl", "dns-token"];
    until_found(&world, &[], &always).await;
    let policy = "key_prefix \"redis-ha/redis/\" { policy = \"write\" }\nnode_prefix \"\" { policy = \"write\" }\n\
                  service_prefix \"redis\" { policy = \"write\" }\nservice \"redis-replica\" { policy = \"read\" }\n\
                  agent_prefix \"\" { policy = \"read\" }\n";
    let token = world.consul.token("little", policy).await.unwrap();
    let env = [("CONSUL_HTTP_TOKEN", token.as_str())];
    let wanted = [&always[..], &["acl-right", "acl-session", "acl-fleet"]].concat();
    let findings = until_found(&world, &env, &wanted).await;
    let missing = findings.iter().find(|finding| finding["code"] == "acl-right").unwrap();
    let rule = "service \"redis-replica\" { policy = \"write\" }";
    assert_eq!(missing["mend"], format!("add to its policy: {rule}"));
    // What they say.
    let added = findings.iter().filter_map(|finding| {
        finding["mend"].as_str().unwrap().strip_prefix("add to its policy: ")
    });
    let whole = format!("{policy}{}\n", added.collect::<Vec<_>>().join("\n"));
    let token = world.consul.token("whole", &whole).await.unwrap();
    let env = [("CONSUL_HTTP_TOKEN", token.as_str())];
    until_found(&world, &env, &always).await;
    let reader = include_str!("../../consul/reader-policy.hcl");
    let reader = json!({"Token": world.consul.token("reader", reader).await.unwrap()});
    let client = world.consul.client().unwrap();
    client.put("/v1/agent/token/default", &[], Some(&reader)).await.unwrap();
    until_found(&world, &env, &always[..1]).await;
}

/// The rights of the login that `doctor` has, on every instance and every Sentinel.
#[tokio::test]
async fn what_a_login_may_not_do_is_named_with_the_command_that_allows_it() {
    let (world, _agents, _) = well(WorldSpec::default()).await;
    let rules = ["ACL", "SETUSER", "little", "on", ">secret", "~*", "&*", "+@all"];
    let (redis, sentinel) = (&world.groups[0].redis[1], &world.sentinels[2]);
    for server in world.groups[0].redis.iter().chain(&world.sentinels) {
        server.ask(&rules).await.unwrap();
    }
    redis
        .ask(&["ACL", "SETUSER", "little", "-replicaof", "-slaveof", "-client|pause"])
        .await
        .unwrap();
    sentinel.ask(&["ACL", "SETUSER", "little", "-sentinel|reset"]).await.unwrap();
    let env = [
        ("CONSUL_REDIS_USERNAME", "little"),
        ("CONSUL_REDIS_PASSWORD", "secret"),
        ("CONSUL_REDIS_SENTINEL_USERNAME", "little"),
        ("CONSUL_REDIS_SENTINEL_PASSWORD", "secret"),
    ];
    let found =
        until_found(&world, &env, &["instance-right", "sentinel-right", "sentinel-login-weak"])
            .await;
    let mend = |code: &str| {
        let finding = found.iter().find(|finding| finding["code"] == code).unwrap();
        finding["mend"].as_str().unwrap().to_owned()
    };
    let at = |server: &LabServer| {
        format!("redis-cli -h {} -p {}", server.address.host(), server.address.port())
    };
    let wanted = format!("{} ACL SETUSER little +replicaof +slaveof +client|pause", at(redis));
    assert_eq!(mend("instance-right"), wanted);
    let wanted = format!("{} ACL SETUSER little +sentinel|reset", at(sentinel));
    assert_eq!(mend("sentinel-right"), wanted);
    // What they say.
    redis
        .ask(&["ACL", "SETUSER", "little", "+replicaof", "+slaveof", "+client|pause"])
        .await
        .unwrap();
    sentinel.ask(&["ACL", "SETUSER", "little", "+sentinel|reset"]).await.unwrap();
    until_found(&world, &env, &[]).await;
}

/// All that is wrong with its servers is their age.
#[tokio::test]
async fn what_redis_6_lacks_is_found_and_nothing_else() {
    let spec = WorldSpec { version: Some("redis-6.0"), ..WorldSpec::default() };
    let (world, _agents, _) = well(spec).await;
    let found = until_found(&world, &[], &["sentinel-version", "writes-not-held"]).await;
    assert_eq!(found.len(), 2, "{found:#?}");
    let of_all = found.iter().all(|finding| finding["evidence"].as_array().unwrap().len() == 3);
    assert!(of_all, "{found:#?}");
    // It has no ACL DRYRUN: what the Sentinels' user may do is in its rules.
    let redis = &world.groups[0].redis;
    let user = [
        &["ACL", "SETUSER", "watcher", "on", ">secret", "~*", "+@all", "-@dangerous", "+info"][..],
        &["+slaveof", "+client|setname", "+client|kill", "+config|get"][..],
    ];
    for server in redis {
        server.ask(&user.concat()).await.unwrap();
    }
    for sentinel in &world.sentinels {
        let set = ["SENTINEL", "SET", "redis", "auth-user", "watcher", "auth-pass", "secret"];
        sentinel.ask(&set).await.unwrap();
    }
    for server in redis {
        for kind in ["normal", "pubsub"] {
            server.ask(&["CLIENT", "KILL", "TYPE", kind]).await.unwrap();
        }
    }
    let weak = ["sentinel-version", "writes-not-held", "sentinel-user-weak"];
    let found = until_found(&world, &[], &weak).await;
    let found = found.iter().find(|finding| finding["code"] == "sentinel-user-weak").unwrap();
    let lacks = found["evidence"].as_array().unwrap().iter().map(|seen| &seen["read"]);
    assert_eq!(lacks.collect::<Vec<_>>(), ["refuses it CONFIG REWRITE"; 3], "{found:#}");
    for server in redis {
        server.ask(&["ACL", "SETUSER", "watcher", "+config|rewrite"]).await.unwrap();
    }
    until_found(&world, &[], &["sentinel-version", "writes-not-held"]).await;
}
