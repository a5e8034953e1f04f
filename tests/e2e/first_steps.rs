//! From nothing to a published group by the files that `init` writes, and what a bug report of that holds.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;

use consul_redis::lab::world::WorldSpec;

use crate::support::{agent, run, text, until_in_sync, until_writer, world};

const MASTER: &str = "11111111-2222-3333-4444-555555555555";

#[tokio::test]
async fn what_init_writes_is_all_that_an_agent_needs_where_consul_denies_by_default() {
    let spec = WorldSpec {
        master_token: Some(MASTER.to_owned()),
        redis_password: Some("redis-secret".to_owned()),
        sentinel_password: Some("sentinel-secret".to_owned()),
        redis: 2,
        ..WorldSpec::default()
    };
    let world = world(spec).await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let secret = |name: &str, text: &str| {
        std::fs::write(at(name), text).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        at(name)
    };
    let redis = secret("redis-password", "redis-secret");
    let sentinel = secret("sentinel-password", "sentinel-secret");
    let (token_file, to) = (secret("token", "unused"), at("made"));
    let none = [
        ("CONSUL_HTTP_TOKEN", ""),
        ("CONSUL_REDIS_PASSWORD", ""),
        ("CONSUL_REDIS_SENTINEL_PASSWORD", ""),
    ];
    let logins = [
        ("CONSUL_REDIS_PASSWORD_FILE", redis.as_str()),
        ("CONSUL_REDIS_SENTINEL_PASSWORD_FILE", &sentinel),
        ("CONSUL_HTTP_TOKEN_FILE", &token_file),
    ];
    // The Sentinels say which group there is.
    let made = run(&world, &["init", "--dir", &to], &[&none[..], &logins].concat());
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    let primary = &world.groups[0].redis[0].address;
    assert!(text(&made).contains(&format!("redis: {primary} leads")), "{}", text(&made));
    let config = format!("{to}/consul-redis.toml");
    let written = std::fs::read_to_string(&config).unwrap();
    assert!(written.contains("\nmanage = false\n") && !written.contains("secret"), "{written}");

    // The policies that it wrote, and nothing but the files: no flag, no variable.
    let rules = std::fs::read_to_string(format!("{to}/agent-policy.hcl")).unwrap();
    std::fs::write(&token_file, world.consul.token("agent", &rules).await.unwrap()).unwrap();
    let rules = std::fs::read_to_string(format!("{to}/reader-policy.hcl")).unwrap();
    let reader = world.consul.token("reader", &rules).await.unwrap();
    let bare = [&none[..], &[("CONSUL_HTTP_ADDR", ""), ("CONSUL_REDIS_SENTINELS", "")]].concat();
    let own = ["--config", config.as_str()];
    let checked = run(&world, &[&["check-config"][..], &own].concat(), &bare);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
    assert!(text(&checked).contains("manage = false"), "{}", text(&checked));
    let env = [&none[..], &[("CONSUL_REDIS_SENTINELS", "")]].concat();
    let agent = agent(&world, "agent", &own, &env);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 1).await;
    assert_eq!(writer, primary.to_string());
    assert!(agent.log().contains("manage = false: no instance"), "{}", agent.log());
    let status = run(&world, &[&["status"][..], &own].concat(), &bare);
    assert!(text(&status).contains("by this config: manage = false"), "{}", text(&status));
    let reads = [&bare[..], &[("CONSUL_HTTP_TOKEN", reader.as_str())]].concat();
    let waited = run(&world, &[&["wait", "redis"][..], &own].concat(), &reads);
    assert_eq!(waited.status.code(), Some(0), "{}", text(&waited));

    // The whole of it for a bug report, and no secret.
    let bundle = at("bundle.tar.gz");
    let log = world.dir().join("agent.log").display().to_string();
    let args = ["support-bundle", &bundle, "--log-file", &log];
    let written = run(&world, &[&args[..], &own].concat(), &bare);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written));
    let mut all = String::new();
    let file = std::fs::File::open(&bundle).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut all).unwrap();
    let token = std::fs::read_to_string(&token_file).unwrap();
    for wanted in [r#""writer": "#, &writer, "watching, publishing", r#""findings": "#] {
        assert!(all.contains(wanted), "{wanted}: {all}");
    }
    for secret in ["redis-secret", "sentinel-secret", &token, MASTER] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
}
