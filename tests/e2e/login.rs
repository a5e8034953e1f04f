//! Logging in to Consul by an identity: a real Consul with ACLs and an auth method of type `jwt`.

use std::path::PathBuf;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::consul::ConsulServer;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::containers::{group, spec};
use crate::jwt::{Signer, claims};
use crate::support::{
    agent, get, http_address, logs, on_one_and_three_servers, run, text, until_in_sync,
    until_logged, until_metric, until_writer, world,
};

const MASTER: &str = "11111111-2222-3333-4444-555555555555";
const METHOD: &str = "identity";
/// The least that Consul takes.
const TTL_S: u64 = 60;

on_one_and_three_servers!(
    a_token_is_renewed_while_a_failover_goes_on_and_none_is_left,
    a_token_that_an_operator_deletes_is_replaced,
);

/// A Consul that knows the identity, and the file with its JWT.
struct Identified {
    world: World,
    signer: Signer,
    file: PathBuf,
}

impl Identified {
    async fn start(consul_servers: u8, ttl_s: Option<u64>) -> Self {
        Self::start_in(WorldSpec { consul_servers, ..WorldSpec::default() }, ttl_s).await
    }

    async fn start_in(spec: WorldSpec, ttl_s: Option<u64>) -> Self {
        let world = world(WorldSpec { master_token: Some(MASTER.to_owned()), ..spec }).await;
        let signer = Signer::new();
        let file = world.dir().join("jwt");
        let identified = Self { world, signer, file };
        identified.write(&claims("redis", 3_600));
        identified.set_up(ttl_s).await;
        identified
    }

    /// By what an operator runs: `consul/login.sh`.
    async fn set_up(&self, ttl_s: Option<u64>) {
        let config = self.world.dir().join("method.json");
        let text = json!({
            "JWTValidationPubKeys": [self.signer.public_key()],
            "BoundIssuer": "lab",
            "BoundAudiences": ["consul"],
            "ClaimMappings": {"sub": "sub"},
        });
        std::fs::write(&config, text.to_string()).unwrap();
        let ttl = ttl_s.map_or_else(|| "0s".to_owned(), |ttl| format!("{ttl}s"));
        let args = ["nomad", config.to_str().unwrap(), "value.sub == \"redis\""];
        self.script(&args, &[("METHOD", METHOD), ("MAX_TOKEN_TTL", &ttl)]).await;
    }

    async fn script(&self, args: &[&str], env: &[(&str, &str)]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/consul/login.sh");
        let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/root/usr/bin");
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
        let done = tokio::process::Command::new("sh")
            .arg(script)
            .args(args)
            .env("PATH", path)
            .env("CONSUL_HTTP_ADDR", self.world.consul.http.to_string())
            .env("CONSUL_HTTP_TOKEN", MASTER)
            .envs(env.iter().copied())
            .output()
            .await
            .unwrap();
        assert!(done.status.success(), "{}", text(&done));
    }

    fn write(&self, claims: &Value) {
        std::fs::write(&self.file, self.signer.sign(claims)).unwrap();
    }

    fn env(&self) -> [(&'static str, &str); 3] {
        [
            ("CONSUL_HTTP_TOKEN", ""),
            ("CONSUL_REDIS_LOGIN_METHOD", METHOD),
            ("CONSUL_REDIS_BEARER_TOKEN_FILE", self.file.to_str().unwrap()),
        ]
    }

    fn agent(&self, name: &str, args: &[&str]) -> Process {
        agent(&self.world, name, args, &self.env())
    }

    /// The accessors of the tokens that logins have given and that still exist.
    async fn tokens(&self) -> Vec<String> {
        tokens(&self.world.consul).await
    }

    async fn until_tokens(&self, seconds: u64, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        until("the tokens are as wanted", Duration::from_secs(seconds), || async {
            let found = self.tokens().await;
            if wanted(&found) { Ok(found) } else { Err(LabError(format!("{found:?}"))) }
        })
        .await
        .unwrap()
    }

    async fn delete(&self, accessor: &str) {
        let client = self.world.consul.client().unwrap();
        let path = format!("/v1/acl/token/{accessor}");
        let timeout = Duration::from_secs(5);
        client.call(Method::DELETE, &path, &[], None, timeout).await.unwrap().ok("it").unwrap();
    }
}

async fn tokens(consul: &ConsulServer) -> Vec<String> {
    let client = consul.client().unwrap();
    let found: Value = client.get("/v1/acl/tokens", &[]).await.unwrap().value;
    let by_login = |token: &&Value| token["AuthMethod"] == METHOD;
    let accessor = |token: &Value| token["AccessorID"].as_str().unwrap().to_owned();
    found.as_array().unwrap().iter().filter(by_login).map(accessor).collect()
}

async fn stop(agents: Vec<Process>) {
    for mut agent in agents {
        agent.signal(Signal::SIGTERM).unwrap();
        assert_eq!(agent.end(Duration::from_secs(3)).await.unwrap(), 0);
    }
}

/// At two thirds of its minute each agent fetches another token; the one before is deleted at its end at the latest.
async fn a_token_is_renewed_while_a_failover_goes_on_and_none_is_left(consul_servers: u8) {
    let mut identified = Identified::start(consul_servers, Some(TTL_S)).await;
    let server = identified.world.groups[0].redis[0].address.to_string();
    let config = identified.world.dir().join("node.toml");
    std::fs::write(&config, format!("[[redis]]\naddress = \"{server}\"\n")).unwrap();
    let mut agents = vec![
        identified.agent("agent-0", &["--listen", "127.0.0.1:0"]),
        identified.agent("agent-1", &["--config", config.to_str().unwrap()]),
    ];
    let url = http_address(&agents[0]).await;
    let first = until_writer(&identified.world, "redis", 20, None).await;
    until_in_sync(&identified.world, "redis", 2).await;
    let before = identified.until_tokens(10, |all| all.len() == 2).await;
    until_metric(&url, "consul_redis_consul_logins_total{outcome=\"done\"} 1").await;
    // The JWT is renewed on disk meanwhile, and the one before is over.
    identified.write(&claims("redis", 7_200));

    let renewed = identified
        .until_tokens(TTL_S, |all| all.iter().filter(|token| !before.contains(token)).count() == 2);
    let both = renewed.await;
    assert!(before.iter().all(|token| both.contains(token)), "{both:?} after {before:?}");
    identified.world.server_mut(&first).unwrap().kill();
    let second = until_writer(&identified.world, "redis", 20, Some(&first)).await;
    let after =
        identified.until_tokens(60, |all| all.iter().all(|token| !before.contains(token))).await;
    assert_eq!(after.len(), 2, "{after:?}");
    until_metric(&url, "consul_redis_consul_logins_total{outcome=\"done\"} 2").await;
    // What this host registers is written by Consul's own agent, with the token that it was given: the next one.
    let client = identified.world.consul_of("agent-1").client().unwrap();
    let services: Value = client.get("/v1/agent/services", &[]).await.unwrap().value;
    assert!(services.to_string().contains(&server), "{services}");
    identified.world.server_mut(&first).unwrap().restart().await.unwrap();
    identified.world.server_mut(&second).unwrap().kill();
    until_writer(&identified.world, "redis", 30, Some(&second)).await;
    let log = logs(&agents);
    assert!(!log.contains("enied") && !log.contains("not found"), "{log}");
    stop(std::mem::take(&mut agents)).await;
    assert_eq!(identified.tokens().await, Vec::<String>::new());
    let services: Value = client.get("/v1/agent/services", &[]).await.unwrap().value;
    assert!(!services.to_string().contains(&server), "{services}");
    // The catalog's rows go with the token, too, before it is deleted.
    let path = "/v1/catalog/service/redis-server";
    let rows: Value = client.get(path, &[]).await.unwrap().value;
    assert_eq!(rows, json!([]));
}

async fn a_token_that_an_operator_deletes_is_replaced(consul_servers: u8) {
    let mut identified = Identified::start(consul_servers, None).await;
    let running = identified.agent("agent-0", &[]);
    let first = until_writer(&identified.world, "redis", 20, None).await;
    until_in_sync(&identified.world, "redis", 2).await;
    let before = identified.until_tokens(5, |all| all.len() == 1).await;
    // One that is a moment old may be unknown to a server for other reasons.
    until_logged(|| running.log(), 10, "which never expires", 1).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    identified.delete(&before[0]).await;
    identified.world.server_mut(&first).unwrap().kill();
    until_writer(&identified.world, "redis", 20, Some(&first)).await;
    let after = identified.until_tokens(10, |all| all.len() == 1).await;
    assert_ne!(before, after);
    until_logged(|| running.log(), 5, "does not know the token of the login any more", 1).await;
    stop(vec![running]).await;
    assert_eq!(identified.tokens().await, Vec::<String>::new());
}

/// Each command fetches a token of its own, and leaves none.
#[tokio::test]
async fn commands_log_in_and_out() {
    let identified = Identified::start(1, Some(TTL_S)).await;
    let running = identified.agent("agent-0", &[]);
    until_writer(&identified.world, "redis", 20, None).await;
    let own = identified.until_tokens(5, |all| all.len() == 1).await;
    for args in [
        &["status"][..],
        &["history", "redis"],
        &["wait", "redis"],
        &["plan"],
        &["doctor", "redis"],
        &["config", "redis", "parallel_syncs=2"],
        &["maintenance", "list"],
    ] {
        let done = run(&identified.world, args, &identified.env());
        assert!(matches!(done.status.code(), Some(0 | 2 | 3)), "{args:?}: {}", text(&done));
        assert_eq!(identified.tokens().await, own, "{args:?}");
    }
    let bundle = identified.world.dir().join("bundle.tar.gz");
    let jwt = std::fs::read_to_string(&identified.file).unwrap();
    let args = ["support-bundle", bundle.to_str().unwrap()];
    let done = run(&identified.world, &args, &identified.env());
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let unpacked = std::process::Command::new("tar").arg("xzOf").arg(&bundle).output().unwrap();
    assert!(unpacked.status.success() && !unpacked.stdout.is_empty());
    assert!(!text(&unpacked).contains(&jwt));
    stop(vec![running]).await;
    assert_eq!(identified.tokens().await, Vec::<String>::new());
}

/// Containers: the server's process and the agent in it are one login, from the choice of the first primary to the end.
#[tokio::test]
async fn containers_log_in_once_each_and_leave_nothing() {
    let mut identified = Identified::start_in(spec(), Some(TTL_S)).await;
    let file = identified.file.display().to_string();
    let env = [
        ("CONSUL_REDIS_LOGIN_METHOD", METHOD),
        ("CONSUL_REDIS_BEARER_TOKEN_FILE", &*file),
        ("CONSUL_REDIS_LOGIN_META", "of=lab"),
    ];
    let mut group = group(&mut identified.world, 2, &env).await;
    until_writer(&identified.world, "redis", 30, None).await;
    until_in_sync(&identified.world, "redis", 1).await;
    let all = group.redis.len() + group.sentinels.len();
    identified.until_tokens(10, |tokens| tokens.len() == all).await;
    for container in group.redis.iter_mut().chain(&mut group.sentinels) {
        container.process().signal(Signal::SIGTERM).unwrap();
    }
    for container in group.redis.iter_mut().chain(&mut group.sentinels) {
        container.process().end(Duration::from_secs(60)).await.unwrap();
    }
    assert_eq!(identified.tokens().await, Vec::<String>::new());
}

/// From a token to a login and back: what was tried is what is used, and what is used no more is deleted.
#[tokio::test]
async fn a_reload_goes_over_to_a_login_and_back() {
    let mut identified = Identified::start(1, Some(TTL_S * 10)).await;
    let dir = identified.world.dir().to_owned();
    let (path, token) = (dir.join("agent.toml"), dir.join("token"));
    std::fs::write(&token, MASTER).unwrap();
    let by_token = format!("[consul]\ntoken_file = \"{}\"\n", token.display());
    let by_login = format!(
        "[consul.login]\nmethod = \"{METHOD}\"\nbearer_token_file = \"{}\"\nmeta = {{ of = \"lab\" }}\n",
        identified.file.display()
    );
    std::fs::write(&path, &by_token).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let running = agent(&identified.world, "agent-0", &args, &[("CONSUL_HTTP_TOKEN", "")]);
    let first = until_writer(&identified.world, "redis", 20, None).await;
    until_in_sync(&identified.world, "redis", 2).await;
    let reload = |config: &str| {
        std::fs::write(&path, config).unwrap();
        running.signal(Signal::SIGHUP).unwrap();
    };
    let wrong = by_login.replace(METHOD, "other");
    reload(&wrong);
    let said = "the config is refused, the running one stays: cannot log in to Consul";
    until_logged(|| running.log(), 10, said, 1).await;
    reload(&by_login);
    until_logged(|| running.log(), 10, "the new config is in force: Consul is at", 1).await;
    identified.until_tokens(5, |all| all.len() == 1).await;
    identified.world.server_mut(&first).unwrap().kill();
    let second = until_writer(&identified.world, "redis", 20, Some(&first)).await;
    reload(&by_token);
    until_logged(|| running.log(), 10, "the new config is in force: Consul is at", 2).await;
    identified.until_tokens(60, <[String]>::is_empty).await;
    identified.world.server_mut(&first).unwrap().restart().await.unwrap();
    identified.world.server_mut(&second).unwrap().kill();
    until_writer(&identified.world, "redis", 30, Some(&second)).await;
    stop(vec![running]).await;
}

/// Each fault with its cause and what to do, by a command and by the agent's start.
#[tokio::test]
async fn a_login_that_fails_says_why() {
    let identified = Identified::start(1, Some(TTL_S)).await;
    let file = identified.file.display().to_string();
    let fails = |env: &[(&str, &str)], code: i32, said: &str, hint: &str| {
        let env = [&identified.env()[..], env].concat();
        for args in [&["status"][..], &["agent"]] {
            let done = run(&identified.world, args, &env);
            let all = text(&done);
            assert_eq!(done.status.code(), Some(code), "{args:?}: {all}");
            assert!(all.contains(said), "{args:?}: {all}");
            assert!(all.contains(hint), "{args:?}: {all}");
        }
    };
    let method = ("CONSUL_REDIS_LOGIN_METHOD", "other");
    fails(&[method], 77, "auth method `other`: Consul has no such auth method", "auth-method list");
    let missing = ("CONSUL_REDIS_BEARER_TOKEN_FILE", "/no/such/jwt");
    fails(&[missing], 64, "cannot read the secret in /no/such/jwt", "identity { file = true }");
    std::fs::write(&identified.file, "\n").unwrap();
    fails(&[], 64, &format!("{file} is no secret: it is empty"), "identity { file = true }");
    std::fs::write(&identified.file, "garbage").unwrap();
    fails(&[], 77, &format!("Consul does not take the JWT in {file}"), "BoundAudiences");
    identified.write(&claims("redis", -600));
    fails(&[], 77, &format!("the JWT in {file} expired 60"), "has not renewed it");
    std::fs::write(&identified.file, Signer::new().sign(&claims("redis", 600))).unwrap();
    fails(&[], 77, &format!("Consul does not take the JWT in {file}"), "its keys, BoundIssuer");
    let mut others = claims("redis", 600);
    others["aud"] = json!("vault");
    identified.write(&others);
    fails(&[], 77, &format!("Consul does not take the JWT in {file}"), "its keys, BoundIssuer");
    identified.write(&claims("other", 600));
    let rule = format!("no binding rule fits the JWT in {file} (sub `other`, aud `consul`");
    fails(&[], 77, &rule, "consul acl binding-rule list");
    assert_eq!(identified.tokens().await, Vec::<String>::new());
}

/// The files that say what Nomad and Kubernetes sign, but for the address of their keys, and the script's own selectors.
#[tokio::test]
async fn what_nomad_and_kubernetes_sign_is_let_in_by_the_shipped_files() {
    let identified = Identified::start(1, Some(TTL_S)).await;
    let now = |more: Value| {
        let mut all = claims("x", 600);
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let pod = |account: &str| {
        let account = json!({"name": account, "uid": "1"});
        let own = json!({"namespace": "default", "serviceaccount": account});
        let issuer = "https://kubernetes.default.svc.cluster.local";
        now(json!({"iss": issuer, "aud": ["consul"], "kubernetes.io": own}))
    };
    let job = |id: &str| {
        now(json!({"aud": "consul.io", "nomad_namespace": "default", "nomad_job_id": id,
                   "nomad_task": "redis"}))
    };
    for (kind, method, good, bad) in [
        ("nomad", "nomad-workloads", job("redis-sentinel"), job("other")),
        ("kubernetes", "kubernetes", pod("consul-redis"), pod("default")),
    ] {
        let shipped = format!("{}/consul/login-{kind}.json", env!("CARGO_MANIFEST_DIR"));
        let shipped = std::fs::read_to_string(shipped).unwrap();
        let mut config: Value = serde_json::from_str(&shipped).unwrap();
        let keys = config.as_object_mut().unwrap();
        keys.remove("JWKSURL").expect("where the keys are");
        keys.remove("JWTSupportedAlgs");
        keys.insert("JWTValidationPubKeys".to_owned(), json!([identified.signer.public_key()]));
        let path = identified.world.dir().join(format!("{kind}.json"));
        std::fs::write(&path, config.to_string()).unwrap();
        // Once more changes nothing.
        for _ in 0..2 {
            identified.script(&[kind, path.to_str().unwrap()], &[]).await;
        }
        let env = [&identified.env()[..], &[("CONSUL_REDIS_LOGIN_METHOD", method)]].concat();
        let status = |claims: &Value| {
            identified.write(claims);
            run(&identified.world, &["history", "redis"], &env)
        };
        let said = text(&status(&good));
        assert!(!said.contains("cannot log in"), "{kind}: {said}");
        let said = text(&status(&bad));
        assert!(said.contains("no binding rule fits"), "{kind}: {said}");
    }
}

/// The agent goes on with the token that it has, says what is wrong, and is well again once that is mended.
#[tokio::test]
async fn a_renewal_that_fails_is_said_everywhere_and_mended() {
    let mut identified = Identified::start(1, Some(TTL_S)).await;
    let running = identified.agent("agent-0", &["--listen", "127.0.0.1:0"]);
    let url = http_address(&running).await;
    let first = until_writer(&identified.world, "redis", 20, None).await;
    until_in_sync(&identified.world, "redis", 2).await;
    identified.write(&claims("redis", -600));
    let said = format!("the JWT in {} expired 6", identified.file.display());
    until_logged(|| running.log(), TTL_S, &said, 1).await;
    until_status(&url, "\"consul-login\"", true).await;
    until_metric(&url, "consul_redis_problem{group=\"redis\",code=\"consul-login\"} 1.0").await;
    assert_eq!(get(&format!("{url}/readyz"), None).await.unwrap().0, 200, "it does its duty");
    identified.world.server_mut(&first).unwrap().kill();
    until_writer(&identified.world, "redis", 15, Some(&first)).await;
    let doctor = run(&identified.world, &["doctor", "redis", "--json"], &identified.env());
    let all = text(&doctor);
    assert_eq!(doctor.status.code(), Some(77), "{all}");
    assert!(all.contains("\"consul-login\"") && all.contains("has not renewed it"), "{all}");
    // It is over, and no other one is to be had.
    until_status(&url, "\"consul-refuses\"", true).await;
    let log = running.log();
    assert!(log.matches(&said).count() <= 3, "{log}");
    // What the finding says.
    identified.write(&claims("redis", 600));
    until_status(&url, "\"consul-login\"", false).await;
    until_status(&url, "\"consul-refuses\"", false).await;
    let found = run(&identified.world, &["doctor", "redis", "--json"], &identified.env());
    assert!(!text(&found).contains("consul-login"), "{}", text(&found));
    stop(vec![running]).await;
    assert_eq!(identified.tokens().await, Vec::<String>::new());
}

async fn until_status(url: &str, said: &str, wanted: bool) {
    until(said, Duration::from_secs(40), || async {
        let (_, status) = get(&format!("{url}/status.json"), None).await?;
        if status.contains(said) == wanted { Ok(()) } else { Err(LabError(status)) }
    })
    .await
    .unwrap();
}
