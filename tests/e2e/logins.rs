//! Passwords, users and TLS, towards everything.

use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{TlsFiles, WorldSpec};
use consul_redis::redis_link::{Link, LinkSettings};

use crate::certificates::Authority;
use crate::support::{
    agent, agents, logs, run, text, until_all_have, until_in_sync, until_writer, world,
};

#[tokio::test]
async fn redis_and_sentinel_with_passwords_of_their_own() {
    let spec = WorldSpec {
        redis_password: Some("redis-secret".to_owned()),
        sentinel_password: Some("sentinel-secret".to_owned()),
        ..WorldSpec::default()
    };
    let mut world = world(spec).await;
    let running = agents(&world, 2, &[]);
    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.server_mut(&first).unwrap().kill();
    until_writer(&world, "redis", 20, Some(&first)).await;
    // A Sentinel that is reconfigured gets the instances' password too, or it would call everything down.
    let blank = world.start_sentinel("sentinel-blank", false).await.unwrap();
    let list = format!("{},{}", world.sentinels[0].address, blank.address);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "redis-secret\n").unwrap();
    let third = agent(
        &world,
        "agent-2",
        &["--sentinels", &list, "--redis-password-file", file.to_str().unwrap()],
        &[("CONSUL_REDIS_PASSWORD", "")],
    );
    until("it sees the primary", Duration::from_secs(30), || async {
        let answer = blank.ask(&["SENTINEL", "MASTER", "redis"]).await?;
        let flags = consul_redis::redis_link::fields(&answer).map_err(LabError)?.remove("flags");
        if flags.as_deref() == Some("master") {
            Ok(())
        } else {
            Err(LabError(format!("{flags:?}")))
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", third.log()));
    // No secret in anything that is written.
    for log in running.iter().chain([&third]).map(|agent| agent.log()) {
        assert!(!log.contains("secret"), "{log}");
    }
    // A wrong password is said to be one, and is no death.
    let wrong = run(&world, &["status"], &[("CONSUL_REDIS_PASSWORD", "wrong")]);
    assert!(text(&wrong).contains("does not answer from here"), "{}", text(&wrong));
    assert!(text(&wrong).contains("login refused: WRONGPASS"), "{}", text(&wrong));
    assert!(!text(&wrong).contains("secret"));
}

/// An authority and one certificate of its, as files.
pub fn certificates(dir: &std::path::Path) -> TlsFiles {
    let authority = Authority::new(dir, "ca");
    let name = "everything.lab".to_owned();
    let (certificate, secret) = authority.issue(&[&name]);
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert, certificate).unwrap();
    std::fs::write(&key, secret).unwrap();
    TlsFiles { ca: authority.file, cert, key, name }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one world, and each way to its Consul")]
async fn users_and_tls_towards_redis_sentinel_and_consul() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path());
    let spec = WorldSpec {
        redis_password: Some("redis-secret".to_owned()),
        sentinel_password: Some("sentinel-secret".to_owned()),
        username: Some("operator".to_owned()),
        tls: Some(tls.clone()),
        // Sentinel has no users before that.
        since: Some("6.2"),
        ..WorldSpec::default()
    };
    let mut world = world(spec).await;
    let config = dir.path().join("tls.toml");
    let (ca, cert, key) = (tls.ca.display(), tls.cert.display(), tls.key.display());
    let login = format!(
        "ca_cert = \"{ca}\"\nclient_cert = \"{cert}\"\nclient_key = \"{key}\"\nserver_name = \"{}\"\n",
        tls.name
    );
    let text =
        format!("[[group]]\nname = \"redis\"\n[instances]\n{login}[sentinels.login]\n{login}");
    std::fs::write(&config, text).unwrap();
    let https = format!("https://{}", world.consul.https);
    // Authorities as a system has them: a directory.
    let authorities = dir.path().join("authorities");
    std::fs::create_dir(&authorities).unwrap();
    std::fs::copy(&tls.ca, authorities.join("lab.pem")).unwrap();
    let (ca, cert, key) = (ca.to_string(), cert.to_string(), key.to_string());
    let env = [
        ("CONSUL_REDIS_CONFIG", config.to_str().unwrap()),
        ("CONSUL_HTTP_ADDR", https.as_str()),
        ("CONSUL_CAPATH", authorities.to_str().unwrap()),
        ("CONSUL_CLIENT_CERT", cert.as_str()),
        ("CONSUL_CLIENT_KEY", key.as_str()),
        ("CONSUL_TLS_SERVER_NAME", tls.name.as_str()),
    ];
    let agent = agent(&world, "agent-0", &[], &env);
    let first = until_writer(&world, "redis", 30, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.server_mut(&first).unwrap().kill();
    let second = until_writer(&world, "redis", 30, Some(&first)).await;
    assert!(agent.log().contains(&format!("writer {first} -> {second}")), "{}", agent.log());
    // The old one comes back and follows; and nothing of that was spoken without TLS.
    world.server_mut(&first).unwrap().restart().await.unwrap();
    until_in_sync(&world, "redis", 2).await;
    for server in world.groups[0].redis.iter().chain(&world.sentinels) {
        let plain = LinkSettings { tls: None, ..server.login.clone() };
        assert!(Link::open(&server.address, &plain).await.is_err(), "{} speaks it", server.name());
    }
    let by_file = [&env[..2], &[("CONSUL_CACERT", ca.as_str())], &env[3..]].concat();
    for env in [&env[..], &by_file] {
        let status = run(&world, &["status"], env);
        assert!(
            crate::support::text(&status).contains(&second),
            "{}",
            crate::support::text(&status)
        );
    }
    // Another authority in that directory is none of this Consul's.
    std::fs::remove_file(authorities.join("lab.pem")).unwrap();
    Authority::new(&authorities, "other");
    let refused = run(&world, &["status"], &env);
    assert_eq!(refused.status.code(), Some(69), "{}", crate::support::text(&refused));
    // The same Consul on its socket.
    let socket = format!("unix://{}", world.consul.socket.display());
    let env = [env[0], ("CONSUL_HTTP_ADDR", socket.as_str())];
    let status = run(&world, &["status"], &env);
    assert!(crate::support::text(&status).contains(&second), "{}", crate::support::text(&status));
    // Without the authority nothing is believed.
    let env = [("CONSUL_REDIS_CONFIG", config.to_str().unwrap()), ("CONSUL_HTTP_ADDR", &https)];
    let refused = run(&world, &["status"], &env);
    assert_eq!(refused.status.code(), Some(69), "{}", crate::support::text(&refused));
    assert!(
        crate::support::text(&refused).contains("hint: CONSUL_CACERT names the authority"),
        "{}",
        crate::support::text(&refused)
    );
    // Each protocol where the other one is spoken.
    for (address, code, hint) in [
        (format!("http://{}", world.consul.https), 1, "hint: that port speaks TLS: write https://"),
        (
            format!("https://{}", world.consul.http),
            69,
            "hint: that port speaks no TLS: write http://",
        ),
    ] {
        // An agent waits for a Consul that does not answer at all.
        let commands: &[&str] = if code == 69 { &["status"] } else { &["status", "agent"] };
        for command in commands {
            let refused = run(&world, &[command], &[("CONSUL_HTTP_ADDR", &address)]);
            let text = crate::support::text(&refused);
            assert_eq!(refused.status.code(), Some(code), "{text}");
            assert!(text.contains(hint), "{text}");
        }
    }
}

/// The users that the reference gives an agent, in the words of `ACL SETUSER`: on Redis and on Sentinel.
fn documented_users() -> Vec<Vec<String>> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("user consul-redis "));
    let words = |line: &str| -> Vec<String> {
        let rules = line.split('#').next().unwrap_or_default().split_whitespace().skip(1);
        rules
            .map(|word| if word == ">…" { ">secret".to_owned() } else { word.to_owned() })
            .collect()
    };
    lines.map(words).collect()
}

#[tokio::test]
async fn the_users_of_the_reference_may_do_all_that_an_agent_does() {
    let mut world = world(WorldSpec { since: Some("6.2"), ..WorldSpec::default() }).await;
    let users = documented_users();
    let [redis, sentinel] = users.as_slice() else { panic!("{users:?}") };
    let set = |user: &[String]| -> Vec<String> {
        ["ACL", "SETUSER"].iter().map(|word| (*word).to_owned()).chain(user.to_vec()).collect()
    };
    let blank = world.start_redis("newcomer", None).await.unwrap();
    let on_redis = world.groups[0].redis.iter().chain([&blank]).map(|server| (server, redis));
    let on_sentinels = world.sentinels.iter().map(|server| (server, sentinel));
    for (server, user) in on_redis.chain(on_sentinels) {
        let command = set(user);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        server.ask(&command).await.unwrap();
    }
    let ignorant = world.start_sentinel("newcomer-sentinel", false).await.unwrap();
    let command = set(sentinel);
    ignorant.ask(&command.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let config = world.dir().join("node.toml");
    let text = format!(
        "[[group]]\nname = \"redis\"\n\n[[redis]]\naddress = \"{}\"\n\n\
         [[sentinel]]\naddress = \"{}\"\n",
        blank.address, ignorant.address
    );
    std::fs::write(&config, text).unwrap();
    let env = [
        ("CONSUL_REDIS_USERNAME", "consul-redis"),
        ("CONSUL_REDIS_PASSWORD", "secret"),
        ("CONSUL_REDIS_SENTINEL_USERNAME", "consul-redis"),
        ("CONSUL_REDIS_SENTINEL_PASSWORD", "secret"),
    ];
    let args = ["--config", config.to_str().unwrap()];
    let agents = [agent(&world, "agent-0", &args, &env)];
    let old = until_writer(&world, "redis", 20, None).await;
    // A replica has what was written only a while after its link is up: one without it would be chosen, and empty.
    until_all_have(world.server(&old).unwrap(), "kept", 2).await;
    // The newcomer joins, the new Sentinel is reconfigured, and a switch holds and fences the old primary.
    until_in_sync(&world, "redis", 3).await;
    let known = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis"];
    until("the Sentinel is reconfigured", Duration::from_secs(20), || async {
        let answer = ignorant.ask(&known).await?;
        if answer == redis::Value::Nil { Err(LabError::new("not yet")) } else { Ok(()) }
    })
    .await
    .unwrap();
    world.sentinels[0].fail_over("redis").await.unwrap();
    until_writer(&world, "redis", 20, Some(&old)).await;
    until_in_sync(&world, "redis", 3).await;
    let log = logs(&agents);
    for said in [
        "was blank; it is a replica",
        "holding writes on",
        "was a stray primary",
        "reconfigured Sentinel",
    ] {
        assert!(log.contains(said), "no `{said}` in\n{log}");
    }
    assert!(!log.contains("NOPERM") && !log.contains("no permissions"), "{log}");
}
