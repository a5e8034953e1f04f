//! `[[notify]]`: what happens is told to a URL and to a command by exactly one agent, in order, and never in the way of
//! publishing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::any;
use consul_redis::core::published::record::Change;
use consul_redis::lab::LabError;
use consul_redis::lab::process::Process;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use consul_redis::notify::send::{SIGNATURE, signature};
use nix::sys::signal::Signal;
use secrecy::SecretString;
use serde_json::Value;

use crate::cures::{until_found_among, until_gone};
use crate::support::{
    agent, history, http_address, logs, must_follow_a_failover, off_schema, run, text,
    until_in_sync, until_logged, until_writer, world,
};

/// How long an event may take to arrive on a busy machine, and to be noted.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of the receiver's";

/// One request.
#[derive(Debug, Clone)]
struct Told {
    path: String,
    signature: Option<String>,
    body: Vec<u8>,
}

impl Told {
    fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A server that is told what happens.
#[derive(Clone)]
struct Receiver {
    url: String,
    told: Arc<Mutex<Vec<Told>>>,
    /// What it answers; `None`: nothing.
    answers: Arc<Mutex<Option<StatusCode>>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let receiver =
            Self { url, told: Arc::default(), answers: Arc::new(Mutex::new(Some(StatusCode::OK))) };
        let app = Router::new().fallback(any(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        receiver
    }

    fn answer(&self, answer: Option<StatusCode>) {
        *self.answers.lock().unwrap() = answer;
    }

    /// What it was told at this path.
    fn at(&self, path: &str) -> Vec<Told> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|told| told.path == path).cloned().collect()
    }
}

async fn take(
    State(receiver): State<Receiver>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let signature = headers.get(SIGNATURE).map(|value| value.to_str().unwrap().to_owned());
    let told = Told { path: uri.path().to_owned(), signature, body: body.to_vec() };
    receiver.told.lock().unwrap().push(told);
    let answer = *receiver.answers.lock().unwrap();
    match answer {
        Some(status) => (status, "so it is"),
        None => std::future::pending().await,
    }
}

/// Agents by one config file.
fn agents(world: &World, count: usize, config: &str) -> (Vec<Process>, PathBuf) {
    let path = world.dir().join("notify.toml");
    std::fs::write(&path, config).unwrap();
    let args = ["--config", path.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let started = (0..count).map(|n| agent(world, &format!("agent-{n}"), &args, &[]));
    (started.collect(), path)
}

/// All agents watch the group, and show that they tell of it.
async fn until_all_tell(world: &World, count: usize) {
    until("all agents show that they tell", Duration::from_secs(20), || async {
        for n in 0..count {
            let key = format!("redis-ha/redis/agents/agent-{n}");
            let shown = world.consul.key(&key).await?.unwrap_or_default();
            if !shown.contains("\"notifies\":true") {
                return Err(LabError(format!("{key}: {shown}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

/// `event generation new`, of the changes after a generation.
fn lines(changes: &[Change], after: u64) -> Vec<String> {
    let later = changes.iter().rev().filter(|change| change.generation > after);
    let line = |change: &Change| {
        let kind = if change.to.is_some() { "switch" } else { "withdrawal" };
        let new = change.to.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{kind} {} {new}", change.generation).trim_end().to_owned()
    };
    later.map(line).collect()
}

fn line_of(event: &Value) -> String {
    let new = event["new"].as_str().unwrap_or_default();
    let kind = event["event"].as_str().unwrap();
    format!("{kind} {} {new}", event["generation"]).trim_end().to_owned()
}

/// Waits until what was told is exactly what stands in the history.
async fn until_told(
    world: &World,
    after: u64,
    running: &[Process],
    told: impl Fn() -> Vec<String>,
) -> Vec<String> {
    until("all changes are told", TOLD_WITHIN, || async {
        let (told, wanted) = (told(), lines(&history(world).await?, after));
        if !wanted.is_empty() && told == wanted {
            return Ok(told);
        }
        Err(LabError(format!("{told:?}, and not {wanted:?}")))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(running)))
}

/// Waits until `history` says of each change after this one that these targets were told.
async fn until_noted(world: &World, after: u64, targets: &[&str], word: &str) {
    let wanted: BTreeMap<&str, &str> = targets.iter().map(|target| (*target, word)).collect();
    until("it is noted", TOLD_WITHIN, || async {
        let output = run(world, &["history", "redis", "--json"], &[]);
        let changes: Value = serde_json::from_slice(&output.stdout).map_err(LabError::new)?;
        assert_eq!(off_schema("history", &changes), Vec::<String>::new(), "{changes:#}");
        let changes = changes.as_array().unwrap().iter();
        let mut later =
            changes.filter(|change| change["generation"].as_u64().unwrap() > after).peekable();
        let noted = |change: &Value| change["notified"] == serde_json::json!(wanted);
        if later.peek().is_some() && later.all(noted) {
            Ok(())
        } else {
            Err(LabError(text(&output)))
        }
    })
    .await
    .unwrap();
}

async fn generation(world: &World) -> u64 {
    history(world).await.unwrap()[0].generation
}

/// Moves the primary, once the Sentinels have done with the failover before.
async fn until_moved(world: &World) {
    until("the primary is moved", TOLD_WITHIN, || async {
        let moved = run(world, &["switchover", "redis", "--yes"], &[]);
        if moved.status.success() { Ok(()) } else { Err(LabError(text(&moved))) }
    })
    .await
    .unwrap();
}

fn commanded(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[tokio::test]
async fn a_failover_is_told_once_and_in_order_and_history_says_so() {
    let mut world = world(WorldSpec::default()).await;
    let receiver = Receiver::start().await;
    let (file, secret) = (world.dir().join("told"), world.dir().join("hmac"));
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let command = "cat > /dev/null; \
                   echo \"$CONSUL_REDIS_EVENT $CONSUL_REDIS_GENERATION $CONSUL_REDIS_NEW\" >> \"$0\"";
    let config = |path: &str| {
        format!(
            "[[group]]\nname = \"redis\"\n\
             [[notify]]\nname = \"hook\"\nurl = \"{}{path}\"\nhmac_file = {secret:?}\n\
             events = [\"switch\", \"withdrawal\"]\n\
             [[notify]]\nname = \"run\"\ncommand = [\"/bin/sh\", \"-c\", '{command}', {file:?}]\n\
             events = [\"switch\", \"withdrawal\"]\n",
            receiver.url
        )
    };
    let (running, path) = agents(&world, 3, &config("/one"));
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_all_tell(&world, 3).await;
    // What happened before all agents were there may be told or not.
    let before = generation(&world).await;
    let later = |told: Vec<Told>, after: u64| {
        let events = told.iter().map(Told::event);
        let events = events.filter(|event| event["generation"].as_u64().unwrap() > after);
        events.map(|event| line_of(&event)).collect::<Vec<_>>()
    };
    must_follow_a_failover(&mut world).await;
    until_told(&world, before, &running, || later(receiver.at("/one"), before)).await;
    let told = until_told(&world, before, &running, || {
        let after = |line: &String| {
            line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > before)
        };
        commanded(&file).into_iter().filter(after).collect()
    })
    .await;
    assert!(told.last().unwrap().starts_with("switch "), "{told:?}");
    until_noted(&world, before, &["hook", "run"], "delivered").await;
    let history = text(&run(&world, &["history", "redis"], &[]));
    assert!(history.contains("hook, run"), "{history}");
    for told in receiver.at("/one") {
        let event = told.event();
        assert_eq!(off_schema("event", &event), Vec::<String>::new(), "{event:#}");
        let expected = signature(&SecretString::from(SECRET.to_owned()), &told.body);
        assert_eq!(told.signature.as_deref(), Some(expected.as_str()));
    }
    assert!(!logs(&running).contains(SECRET));

    // A reload: another path from now on, and nothing is told twice.
    let count = receiver.at("/one").len();
    std::fs::write(&path, config("/two")).unwrap();
    running.iter().for_each(|agent| agent.signal(Signal::SIGHUP).unwrap());
    until_logged(|| logs(&running), 20, "the new config is in force: [[notify]]", 3).await;
    let before = generation(&world).await;
    until_in_sync(&world, "redis", 1).await;
    until_moved(&world).await;
    until_told(&world, before, &running, || later(receiver.at("/two"), before)).await;
    until_noted(&world, before, &["hook", "run"], "delivered").await;
    assert_eq!(receiver.at("/one").len(), count);
}

#[tokio::test]
async fn a_target_that_is_down_is_found_and_is_told_again_once_it_is_up() {
    let mut world = world(WorldSpec::default()).await;
    let (failing, hanging) = (Receiver::start().await, Receiver::start().await);
    failing.answer(Some(StatusCode::SERVICE_UNAVAILABLE));
    hanging.answer(None);
    let target = |name: &str, url: &str| {
        format!(
            "[[notify]]\nname = \"{name}\"\nurl = \"{url}\"\ntries = 2\ntimeout = \"1s\"\ndebounce = \"2s\"\n"
        )
    };
    let config = format!(
        "[[group]]\nname = \"redis\"\n{}{}",
        target("failing", &failing.url),
        target("hanging", &hanging.url)
    );
    let (running, _) = agents(&world, 2, &config);
    let url = http_address(&running[0]).await;
    until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    until_all_tell(&world, 2).await;
    let before = generation(&world).await;
    // It is published as ever, whatever the targets do.
    must_follow_a_failover(&mut world).await;
    let findings = until_found_among(&world, "notify-failed").await;
    let said = format!("{findings:?}");
    assert!(said.contains("HTTP 503: so it is") || said.contains("no answer within"), "{said}");
    until("both have failed, after two tries each", TOLD_WITHIN, || async {
        for receiver in [&failing, &hanging] {
            let mut tries: BTreeMap<String, usize> = BTreeMap::new();
            for told in receiver.at("/") {
                *tries.entry(told.event()["id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            if !tries.values().any(|count| *count == 2) {
                return Err(LabError(format!("{tries:?}")));
            }
            assert!(tries.values().all(|count| *count <= 2), "{tries:?}");
        }
        Ok(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&running)));
    let (_, metrics) = crate::support::get(&format!("{url}/metrics"), None).await.unwrap();
    for target in ["failing", "hanging"] {
        let line = format!("consul_redis_notices_total{{target=\"{target}\",outcome=\"failed\"}} ");
        assert!(metrics.contains(&line), "{metrics}");
    }
    failing.answer(Some(StatusCode::OK));
    hanging.answer(Some(StatusCode::OK));
    // A Redis is still away, which is a problem that comes and goes, and each is told.
    until("a problem is told", TOLD_WITHIN, || async {
        let kinds: BTreeSet<String> = failing
            .at("/")
            .iter()
            .map(|told| told.event()["event"].as_str().unwrap().to_owned())
            .collect();
        if kinds.contains("problem") { Ok(()) } else { Err(LabError(format!("{kinds:?}"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", logs(&running)));
    until_moved(&world).await;
    let last = generation(&world).await;
    assert!(last > before);
    until_noted(&world, last - 1, &["failing", "hanging"], "delivered").await;
    until_gone(&world, "notify-failed").await;
}
