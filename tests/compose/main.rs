//! docker-compose.yml as it is, on stand-ins for the public images: everything that a person would do to the
//! containers, and a reader that asks Consul's DNS all the time. `make test-compose` runs it; without Docker it says
//! that it was skipped.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
mod docker;
mod pods;
mod reader;
#[path = "../shared/writers.rs"]
mod writers;

use std::rc::Rc;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::contention::waited_within;
use consul_redis::lab::wait::{note_stalls, until};
use redis::Value;
use tokio::time::Instant;

use docker::{Project, is_here};
use pods::Pods;
use reader::Reader;
use writers::{Writers, none_lost};

/// The longest time from `up` to the first answer with a writer, besides what was waited for a processor.
const FIRST_WRITER: Duration = Duration::from_secs(30);
/// Writes before a handover, and after it.
const SOME: usize = 200;
/// The longest time that anything else may take: on a machine that does other things beside, six pods that all come
/// back need more than a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// A project that runs, its reader, and what was written so far.
struct Scenario {
    project: Rc<Project>,
    reader: Reader,
    /// Keys that the writer and all replicas have acknowledged.
    written: Vec<String>,
    begun: Instant,
}

impl Scenario {
    async fn start(name: &str, files: &[&str]) -> Self {
        note_stalls();
        let project = Project::new(name, files);
        let begun = Instant::now();
        project.compose(&["build", "redis"]);
        say(begun, "built");
        let up = Instant::now();
        project.compose(&["up", "-d"]);
        let reader = Reader::start(project.dns());
        let scenario = Self { project: Rc::new(project), reader, written: Vec::new(), begun };
        scenario.until_begun(up).await;
        scenario
    }

    /// The first writer is in DNS in time.
    async fn until_begun(&self, up: Instant) {
        let writer = self.until_writer(None).await;
        let took = up.elapsed();
        self.say(&format!("a writer in DNS {} ms after the start: {writer}", took.as_millis()));
        let waited = waited_within(took);
        assert!(took < FIRST_WRITER + waited, "{took:?}, of which {waited:?} for a processor");
    }

    fn say(&self, what: &str) {
        say(self.begun, what);
    }

    /// Waits until the name leads to a writer that is another one than this, and that says itself that it is one.
    async fn until_writer(&self, other: Option<&str>) -> String {
        let found = until("the name leads to a writer", PATIENCE, || async {
            let Some(ip) = self.reader.last() else {
                return Err(LabError("no answer has a writer".to_owned()));
            };
            if other == Some(ip.as_str()) {
                return Err(LabError(format!("still {ip}")));
            }
            match self.project.role(&ip).await?.as_str() {
                "master" => Ok(ip),
                role => Err(LabError(format!("{ip} is a {role}"))),
            }
        });
        found.await.unwrap_or_else(|error| panic!("{error}\n{}", self.project.logs()))
    }

    /// Waits until every instance has its role: one primary, the name leads to it, and so many follow it.
    async fn until_in_place(&mut self, replicas: usize) -> String {
        let found = until("one primary and its replicas", PATIENCE, || async {
            let mut primaries = Vec::new();
            let mut following = Vec::new();
            for container in self.project.running("redis") {
                let info = self.project.info(&container.ip).await?;
                let field = |name: &str| info.get(name).cloned().unwrap_or_default();
                match (field("role").as_str(), field("master_link_status").as_str()) {
                    ("master", _) => primaries.push(container.ip),
                    (_, "up") => following.push((container.ip, field("master_host"))),
                    _ => return Err(LabError(format!("{} has no place: {info:?}", container.ip))),
                }
            }
            let named = self.reader.last();
            let sound = |primary: &String| {
                named.as_ref() == Some(primary)
                    && following.len() == replicas
                    && following.iter().all(|(_, of)| of == primary)
            };
            match &primaries[..] {
                [primary] if sound(primary) => Ok(primary.clone()),
                _ => Err(LabError(format!("{primaries:?} <- {following:?}, named {named:?}"))),
            }
        })
        .await;
        let primary = found.unwrap_or_else(|error| panic!("{error}\n{}", self.project.logs()));
        self.write(&primary, replicas).await;
        primary
    }

    /// The same, and the primary is still this one.
    async fn until_led_by(&mut self, primary: &str, replicas: usize, what: &str) {
        let leads = self.until_in_place(replicas).await;
        assert!(leads == primary, "{what}: {leads} leads, not {primary}\n{}", self.project.logs());
    }

    /// The same; the old primary has come back as a replica. Who leads.
    async fn until_not_led_by(&mut self, old: &str, replicas: usize) -> String {
        let leads = self.until_in_place(replicas).await;
        assert!(leads != old, "{old} leads again\n{}", self.project.logs());
        leads
    }

    /// Writes, and waits until every replica has it, whichever the Sentinels may choose: no fault may lose that.
    async fn write(&mut self, primary: &str, replicas: usize) {
        let key = format!("key-{}", self.written.len());
        let (all, wanted) = (replicas.to_string(), i64::try_from(replicas).unwrap_or(i64::MAX));
        let written = until("a write that all replicas have", PATIENCE, || async {
            // WAIT is about the writes of its own connection.
            let commands = [&["SET", &key, "kept"][..], &["WAIT", &all, "300"][..]];
            match self.project.ask_in_turn(primary, &commands).await? {
                Value::Int(count) if count >= wanted => Ok(()),
                other => Err(LabError(format!("{other:?}"))),
            }
        });
        written.await.unwrap_or_else(|error| panic!("{error}\n{}", self.project.logs()));
        self.written.push(key);
    }

    /// Every Sentinel knows all others and all that run as replicas, with a majority for a quorum.
    async fn until_sentinels(&self, count: usize) {
        let known = until("the Sentinels know one another", PATIENCE, || async {
            let sentinels = self.project.running("sentinel");
            for sentinel in &sentinels {
                let fields = self.project.sentinel(&sentinel.ip).await?;
                let number = |name: &str| fields.get(name).and_then(|n| n.parse::<usize>().ok());
                let (others, quorum) = (number("num-other-sentinels"), number("quorum"));
                if others != Some(count - 1) || quorum != Some(count / 2 + 1) {
                    return Err(LabError(format!("{}: {others:?}, {quorum:?}", sentinel.ip)));
                }
                let listed = self.project.replicas(&sentinel.ip).await?;
                let primary = fields.get("ip").cloned().unwrap_or_default();
                let missing = self.project.running("redis").into_iter().map(|redis| redis.ip);
                if let Some(ip) =
                    missing.into_iter().find(|ip| *ip != primary && !listed.contains(ip))
                {
                    return Err(LabError(format!("{} does not know {ip}", sentinel.ip)));
                }
            }
            if sentinels.len() == count { Ok(()) } else { Err(LabError("too few".to_owned())) }
        });
        known.await.unwrap_or_else(|error| panic!("{error}\n{}", self.project.logs()));
    }

    /// What held all the time, and what is left.
    async fn end(mut self, replicas: usize) {
        let primary = self.until_in_place(replicas).await;
        for container in self.project.running("redis") {
            for key in &self.written {
                let what = format!("{} has {key}", container.name);
                let found = until(&what, PATIENCE, || async {
                    match self.project.ask(&container.ip, &["GET", key]).await? {
                        Value::Nil => Err(LabError::new("nothing")),
                        _ => Ok(()),
                    }
                });
                found.await.unwrap_or_else(|error| panic!("{error}\n{}", self.project.logs()));
            }
        }
        let seen = self.reader.seen();
        self.say(&format!("{primary} leads; {seen}"));
        assert!(seen.answers > 300, "{seen}");
        assert!(seen.wrong.is_empty(), "{seen}\n{}", self.project.logs());
    }
}

fn say(begun: Instant, what: &str) {
    eprintln!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
}

#[tokio::test]
async fn the_compose_file_holds_through_scaling_killing_pausing_and_cutting_off() {
    if !is_here() {
        return;
    }
    let mut all = Scenario::start("whole", &[]).await;
    let first = all.until_in_place(2).await;
    all.until_sentinels(3).await;
    all.say("3 Redis and 3 Sentinels in place");

    all.project.compose(&["up", "-d", "--scale", "redis=5"]);
    all.until_led_by(&first, 4, "more replicas move nothing").await;
    all.say("5 Redis in place");

    all.project.docker(&["kill", &all.project.named("redis", &first)]);
    let killed = Instant::now();
    all.until_writer(Some(&first)).await;
    all.say(&format!("killed: the name moved after {} ms", killed.elapsed().as_millis()));
    all.project.compose(&["up", "-d", "--scale", "redis=5"]);
    all.until_not_led_by(&first, 4).await;
    all.say("back as a replica");

    all.project.compose(&["up", "-d", "--scale", "redis=3", "--scale", "sentinel=5"]);
    all.until_sentinels(5).await;
    let third = all.until_in_place(2).await;
    all.say("3 Redis and 5 Sentinels in place");

    // One Sentinel less, and the primary is stopped: it hands over first.
    let stopped = all.project.named("redis", &third);
    let writers = Writers::by_name(all.project.dns());
    writers.until_more(SOME).await;
    let since = Instant::now();
    all.project.docker(&["stop", "--time", "40", &stopped]);
    let took = since.elapsed().as_millis();
    let log = all.project.docker_log(&stopped);
    assert!(log.contains(&format!("handed over from {third}:6379 to ")), "{log}");
    let new = all.until_writer(Some(&third)).await;
    writers.until_more(SOME).await;
    none_lost(&writers.stop(), &format!("{third}:6379"), &format!("{new}:6379")).await;
    all.say(&format!("stopped within {took} ms, and handed over before"));
    all.project.docker(&["start", &stopped]);
    let third = all.until_in_place(2).await;

    let sentinel = all.project.running("sentinel").remove(0);
    all.project.docker(&["kill", &sentinel.name]);
    let paused = all.project.named("redis", &third);
    all.project.docker(&["pause", &paused]);
    let since = Instant::now();
    all.until_writer(Some(&third)).await;
    all.say(&format!("paused: the name moved after {} ms", since.elapsed().as_millis()));
    all.project.docker(&["unpause", &paused]);
    let fourth = all.until_not_led_by(&third, 2).await;
    all.say("thawed, and a replica");

    // Cut off; meanwhile another one takes its address.
    let cut = all.project.named("redis", &fourth);
    all.project.docker(&["network", "disconnect", &all.project.network(), &cut]);
    let since = Instant::now();
    all.until_writer(Some(&fourth)).await;
    all.say(&format!("cut off: the name moved after {} ms", since.elapsed().as_millis()));
    let taker = all.project.take_address("redis");
    all.project.docker(&["network", "connect", &all.project.network(), &cut]);
    let healed = all.project.ip(&cut);
    all.say(&format!("healed: {fourth} is another one's ({taker}), it has {healed} now"));
    assert_ne!(healed, fourth, "the address was to be taken");
    let leads = all.until_in_place(3).await;
    assert!(![&fourth, &healed].contains(&&leads), "{leads} leads\n{}", all.project.logs());
    all.end(3).await;
}

#[tokio::test]
async fn sentinels_are_found_by_a_name_that_stands_for_all_of_them() {
    if !is_here() {
        return;
    }
    let mut all = Scenario::start("dnsrr", &["tests/compose/dnsrr.yml"]).await;
    let first = all.until_in_place(2).await;
    all.until_sentinels(3).await;
    all.say("3 Redis and 3 Sentinels in place");
    all.project.compose(&["up", "-d", "--scale", "sentinel=5", "--scale", "redis=4"]);
    all.until_sentinels(5).await;
    all.until_led_by(&first, 3, "the old one comes back as a replica").await;
    all.project.docker(&["kill", &all.project.named("redis", &first)]);
    let killed = Instant::now();
    all.until_writer(Some(&first)).await;
    all.say(&format!("killed: the name moved after {} ms", killed.elapsed().as_millis()));
    all.project.compose(&["up", "-d", "--scale", "sentinel=5", "--scale", "redis=4"]);
    all.until_not_led_by(&first, 3).await;

    // The whole machine: everything stops, and comes back in another order, with other addresses.
    let since = Instant::now();
    all.project.compose(&["stop", "--timeout", "40"]);
    all.say(&format!("all stopped within {} ms", since.elapsed().as_millis()));
    let back = Instant::now();
    for container in all.project.all().iter().rev() {
        all.project.docker(&["start", container]);
    }
    all.until_in_place(3).await;
    all.say(&format!("all in place {} ms after the start", back.elapsed().as_millis()));

    // Once more, and no container gets an address that any of them had.
    let ips = |all: &Scenario| -> Vec<String> {
        let redis = all.project.running("redis").into_iter().chain(all.project.running("sentinel"));
        redis.map(|container| container.ip).collect()
    };
    let before = ips(&all);
    all.project.compose(&["stop", "--timeout", "40"]);
    let taken = all.project.take_addresses(all.project.all().len() + 1);
    let back = Instant::now();
    for container in all.project.all().iter().rev() {
        all.project.docker(&["start", container]);
    }
    drop(taken);
    let after = ips(&all);
    assert!(before.iter().all(|ip| !after.contains(ip)), "{before:?} {after:?}");
    all.until_in_place(3).await;
    let took = back.elapsed().as_millis();
    all.say(&format!("all in place at other addresses {took} ms after the start"));
    all.until_sentinels(5).await;
    all.end(3).await;
}

/// The manifests of `kubernetes/`, pod by pod, through what Kubernetes does to them. Nothing is deleted by hand.
#[tokio::test]
async fn the_pods_of_the_manifests_live_through_losses_and_a_rolling_restart() {
    if !is_here() {
        return;
    }
    let begun = Instant::now();
    let pods = Pods::start();
    let up = Instant::now();
    for number in 0..pods.redis.replicas {
        pods.start_pod(&pods.redis, number);
    }
    for number in 0..pods.sentinels.replicas {
        pods.start_pod(&pods.sentinels, number);
    }
    let reader = Reader::start(pods.project.dns());
    let mut all = Scenario { project: pods.project.clone(), reader, written: Vec::new(), begun };
    all.until_begun(up).await;
    let first = all.until_in_place(2).await;
    all.until_sentinels(3).await;
    all.say("3 Redis and 3 Sentinels in place, from blank");

    let number = pods.number(&pods.redis, &first);
    pods.lose(&pods.redis, number);
    let since = Instant::now();
    all.until_writer(Some(&first)).await;
    all.say(&format!("primary pod lost: the name moved after {} ms", since.elapsed().as_millis()));
    let back = pods.start_pod(&pods.redis, number);
    assert_ne!(back, first, "another address");
    let mut primary = all.until_in_place(2).await;
    assert_ne!(primary, back, "back as a replica");

    pods.lose(&pods.sentinels, 1);
    pods.start_pod(&pods.sentinels, 1);
    all.until_sentinels(3).await;
    all.say("a Sentinel pod was lost, and is back at another address");

    for number in (0..pods.redis.replicas).rev() {
        let stopped = Instant::now();
        pods.stop(&pods.redis, number);
        let took = stopped.elapsed().as_millis();
        let at = pods.start_pod(&pods.redis, number);
        primary = all.until_in_place(2).await;
        all.say(&format!("redis-{number} restarted ({took} ms to stop), at {at}; {primary} leads"));
    }
    for number in (0..pods.sentinels.replicas).rev() {
        pods.stop(&pods.sentinels, number);
        pods.start_pod(&pods.sentinels, number);
        all.until_sentinels(3).await;
    }
    all.say("Sentinels restarted, one after the other");

    let number = pods.number(&pods.redis, &primary);
    pods.lose(&pods.redis, number);
    all.until_writer(Some(&primary)).await;
    pods.start_pod(&pods.redis, number);
    all.until_in_place(2).await;

    // All at once, with their volumes, as when every node is restarted. Consul goes on.
    let since = Instant::now();
    for set in [&pods.redis, &pods.sentinels] {
        (0..set.replicas).for_each(|number| pods.lose(set, number));
    }
    for set in [&pods.sentinels, &pods.redis] {
        (0..set.replicas).for_each(|number| {
            pods.start_pod(set, number);
        });
    }
    all.until_in_place(2).await;
    all.until_sentinels(3).await;
    let took = since.elapsed().as_millis();
    all.say(&format!("all pods lost, and in place again elsewhere after {took} ms"));
    all.end(2).await;
}
