//! What an operator sees of a published Redis Cluster, and does with it: `status`, the page, `doctor`, `wait`,
//! `history`, completion, `support-bundle`, `retire`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::cluster::{LabCluster, id};
use consul_redis::lab::process::Process;
use consul_redis::lab::redis::LabServer;
use consul_redis::lab::tools::{Age, Family, run_all_on};
use consul_redis::lab::wait::until;
use consul_redis::lab::world::{World, WorldSpec};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::clients::{Sample, example, interpreter, last_before_failure, sample};
use crate::cluster::{
    AT_ONCE, NODE_TIMEOUT_MS, REPLACED_WITHIN, ats, blank_alone, cluster_agents, config,
    until_all_named, until_answers, until_calm,
};
use crate::support::{agent, get, http_address, off_schema, run, text, world};

/// A planned failover that has not come after so long does not: the cluster gives it up after 5 s.
const SWITCHED_WITHIN: Duration = Duration::from_secs(6);
/// Between two looks whether what was forgotten stays.
const CALM: Duration = Duration::from_secs(1);
/// So often it is asked for.
const SWITCHES_MAX: usize = 5;
/// Long enough for an election at the nodes' own pace.
const NOT_ELECTED_FOR: Duration = Duration::from_secs(8);
/// What the page shows, as text.
const TEXT: &str = "return document.body.innerText";

/// A cluster that these agents have published, and their config.
struct Published {
    world: World,
    cluster: LabCluster,
    agents: Vec<Process>,
    config: String,
}

impl Published {
    async fn by(count: usize) -> Self {
        let (world, cluster) = blank_alone().await;
        Self::of(world, cluster, count).await
    }

    /// Of these nodes, which are blank.
    async fn of(world: World, cluster: LabCluster, count: usize) -> Self {
        cluster.create().await.unwrap();
        let agents = cluster_agents(&world, &cluster, count);
        until_all_named(&world, &cluster).await;
        let config = config(&world, &[("orders", &cluster)]);
        Self { world, cluster, agents, config }
    }

    /// A command with the agents' config.
    fn run(&self, args: &[&str]) -> Output {
        let args = [args, &["--config", &self.config]].concat();
        run(&self.world, &args, &[("CONSUL_REDIS_SENTINELS", "")])
    }

    /// Its exit code, and what it prints for programs.
    fn json(&self, schema: &str, args: &[&str]) -> (Option<i32>, Value) {
        let output = self.run(&[args, &["--json"]].concat());
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
        assert_eq!(off_schema(schema, &said), Vec::<String>::new(), "{said:#}");
        (output.status.code(), said)
    }

    /// Waits until `status` ends with this, and says what fits.
    async fn until_status(&self, code: i32, fits: impl Fn(&Value) -> bool) -> Value {
        until("status is as expected", REPLACED_WITHIN, || async {
            let (found, said) = self.json("status", &["status", "orders"]);
            let right = found == Some(code) && fits(&said[0]);
            if right { Ok(said[0].clone()) } else { Err(LabError(format!("{found:?}: {said:#}"))) }
        })
        .await
        .unwrap()
    }

    /// Has a replica take over as planned. Whether it has: a voter that is late to know the other one as a replica gives
    /// no vote, and then nothing comes of it.
    async fn switched(&self, to: usize) -> bool {
        let node = &self.cluster.nodes[to];
        // The one that leads already refuses it.
        let _ = node.ask(&["CLUSTER", "FAILOVER"]).await;
        let leads = node.address.to_string();
        let found = until("it leads, and the other one follows", SWITCHED_WITHIN, || async {
            let (code, said) = self.json("status", &["status", "orders"]);
            let shards = said[0]["shards"].as_array().unwrap();
            let right = code == Some(0) && shards.iter().any(|shard| shard["primary"] == leads);
            if right { Ok(()) } else { Err(LabError(format!("{said:#}"))) }
        });
        found.await.is_ok()
    }

    /// What `doctor` finds.
    fn findings(&self) -> Vec<Value> {
        let (_, said) = self.json("doctor", &["doctor", "orders"]);
        assert_eq!(said[0]["cluster"], "orders", "{said:#}");
        said[0]["findings"].as_array().unwrap().clone()
    }

    async fn until_found(&self, what: &str, fits: impl Fn(&[&str]) -> bool) -> Vec<Value> {
        until(what, REPLACED_WITHIN, || async {
            let found = self.findings();
            if fits(&codes(&found)) { Ok(found) } else { Err(LabError(format!("{found:#?}"))) }
        })
        .await
        .unwrap()
    }

    /// Does what a finding says, on real servers.
    async fn cure(&self, found: &[Value], code: &str) {
        let mend = mend(found, code);
        let commands: Vec<&str> = mend.split("; ").filter_map(command_in).collect();
        assert!(!commands.is_empty(), "no command: {mend}");
        for command in commands {
            let words: Vec<&str> = command.split(' ').collect();
            let ["-h", host, "-p", port, rest @ ..] = &words[..] else { panic!("{command}") };
            let at = format!("{host}:{port}");
            let node = self.cluster.nodes.iter().find(|node| node.address.to_string() == at);
            node.unwrap_or_else(|| panic!("{command}")).ask(rest).await.unwrap();
        }
    }
}

/// What stands after `redis-cli` in a part of a cure, where that begins with it, or names it after a colon or a comma.
fn command_in(part: &str) -> Option<&str> {
    let (_, command) = part.split_once("redis-cli ")?;
    // What comes after the command is about it.
    Some(command.split(" makes ").next().unwrap_or(command))
}

fn codes(found: &[Value]) -> Vec<&str> {
    found.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

fn mend<'a>(found: &'a [Value], code: &str) -> &'a str {
    let finding = found.iter().find(|finding| finding["code"] == code);
    finding.unwrap_or_else(|| panic!("no {code}: {found:#?}"))["mend"].as_str().unwrap()
}

async fn ask_all(nodes: &[LabServer], command: &[&str]) {
    for node in nodes {
        node.ask(command).await.unwrap();
    }
}

#[tokio::test]
async fn status_wait_and_history_follow_a_cluster_through_the_death_of_a_primary() {
    let mut it = Published::by(2).await;
    let both = json!(["agent-0", "agent-1"]);
    let said = it.until_status(0, |said| said["healthy"] == true && said["agents"] == both).await;
    assert_eq!(
        (&said["cluster"], &said["slots_served"], &said["voters"]),
        (&json!("orders"), &json!(16_384), &json!(3))
    );
    let shown = text(&it.run(&["status"]));
    let head = "orders: healthy, orders.service.consul -> 16384 of 16384 slots are served\n";
    assert!(shown.starts_with(head), "{shown}");
    // A command without a config asks Consul which there are.
    let bare = run(&it.world, &["status"], &[("CONSUL_REDIS_SENTINELS", "")]);
    assert!(text(&bare).contains(head), "{}", text(&bare));
    let (code, waited) = it.json("wait", &["wait", "orders", "--replicas", "1"]);
    assert_eq!((code, waited["replicas"].as_array().unwrap().len()), (Some(0), 3), "{waited:#}");
    let before = until_calm(&it.world).await;

    let dead = it.cluster.nodes[0].address.to_string();
    it.cluster.nodes[0].kill();
    let said = it.until_status(2, |said| said["slots_served"] != 16_384).await;
    assert_eq!(said["problems"][0]["code"], "slots-unserved", "{said:#}");
    let late = it.run(&["wait", "orders", "--timeout", "100ms"]);
    let output = text(&late);
    assert_eq!(late.status.code(), Some(2), "{output}");
    assert!(output.contains("hint: consul-redis status orders says what is wrong"), "{output}");
    let waited = it.run(&["wait", "orders", "--timeout", "60s"]);
    assert_eq!(waited.status.code(), Some(0), "{}", text(&waited));
    let primaries = ats(&[&it.cluster.nodes[1], &it.cluster.nodes[2], &it.cluster.nodes[3]]);
    let mut printed: Vec<String> = text(&waited).lines().map(str::to_owned).collect();
    printed.sort();
    assert_eq!(printed, primaries);
    let said = it.until_status(3, |said| said["slots_served"] == 16_384).await;
    assert_eq!(said["unfit"][0]["address"], dead, "{said:#}");

    until_calm(&it.world).await;
    let (code, changes) = it.json("history", &["history", "orders"]);
    assert_eq!(code, Some(0), "{changes:#}");
    let changes = changes.as_array().unwrap();
    let generations: Vec<u64> =
        changes.iter().map(|change| change["generation"].as_u64().unwrap()).collect();
    let last = generations[0];
    // None is left out, and none is there twice, whichever agent wrote it.
    assert_eq!(generations, (1..=last).rev().collect::<Vec<u64>>());
    assert!(last > before, "{last}");
    let lines: Vec<String> = changes.iter().map(|change| change["what"].to_string()).collect();
    let lines = lines.join("\n");
    assert!(lines.contains(&dead) && lines.contains("leaves: "), "{lines}");
    let shown = text(&it.run(&["history", "orders"]));
    assert!(shown.contains("leaves: ") && shown.contains("agent-"), "{shown}");
    let steps = text(&it.run(&["history", "orders", "--steps"]));
    assert!(steps.contains(" slots without a primary\n") && steps.contains("leaves: "), "{steps}");
    assert!(steps.contains(" ms  all slots have a primary\n"), "{steps}");
    it.cluster.nodes[0].restart().await.unwrap();
    it.until_status(0, |said| said["unfit"] == json!([])).await;
}

#[tokio::test]
async fn a_node_in_maintenance_is_in_no_name_and_stands_for_no_election() {
    let mut it = Published::by(2).await;
    it.until_status(0, |said| said["healthy"] == true).await;
    let (code, plan) = it.json("plan", &["plan"]);
    let cluster = plan.as_array().unwrap().iter().find(|planned| planned["cluster"] == "orders");
    assert_eq!((code, &cluster.unwrap()["actions"]), (Some(0), &json!([])), "{plan:#}");
    // Which replica follows the first primary.
    let (_, said) = it.json("status", &["status", "orders"]);
    let owner = it.cluster.nodes[0].address.to_string();
    let shards = said[0]["shards"].as_array().unwrap();
    let shard = shards.iter().find(|shard| shard["primary"] == owner.as_str()).unwrap();
    let replica = shard["replicas"][0].as_str().unwrap().to_owned();
    let node = it.cluster.nodes.iter().position(|n| n.address.to_string() == replica).unwrap();

    let refused = it.run(&["maintenance", "on", &owner]);
    let shown = text(&refused);
    assert!(!refused.status.success(), "{shown}");
    let number = &shard["shard"];
    assert!(shown.contains(&format!("switchover orders --shard {number} moves")), "{shown}");
    let (code, out) = it.json("maintenance", &["maintenance", "on", &replica]);
    assert_eq!((code, &out["nodes"][0]["address"]), (Some(0), &json!(replica)), "{out:#}");
    assert_eq!(out["nodes"][0]["no_failover_before"], "no");
    let said = it.until_status(3, |said| said["unfit"][0]["why"] == "in maintenance").await;
    assert_eq!(said["problems"][0]["code"], "no-replica", "{said:#}");
    let setting = ["CONFIG", "GET", "cluster-replica-no-failover"];
    let has = async |it: &Published| {
        let answer = it.cluster.nodes[node].ask(&setting).await.unwrap();
        format!("{answer:?}")
    };
    assert!(has(&it).await.contains("yes"));
    let moved = it.run(&["switchover", "orders", "--shard", &number.to_string(), "--yes"]);
    assert!(
        text(&moved).contains("no replica of this shard can take requests"),
        "{}",
        text(&moved)
    );
    // Its primary dies, and it does not take over.
    it.cluster.nodes[0].kill();
    it.until_status(2, |said| said["slots_served"] != 16_384).await;
    tokio::time::sleep(NOT_ELECTED_FOR).await;
    it.until_status(2, |said| said["slots_served"] != 16_384).await;
    let back = it.run(&["maintenance", "off", &replica]);
    assert!(back.status.success(), "{}", text(&back));
    assert!(has(&it).await.contains("no"));
    let whole = |said: &Value| said["slots_served"] == 16_384;
    it.until_status(3, whole).await;
    let listed = it.run(&["maintenance", "list"]);
    assert!(text(&listed).contains("none in maintenance"), "{}", text(&listed));
    it.cluster.nodes[0].restart().await.unwrap();
    it.until_status(0, |said| said["unfit"] == json!([])).await;
}

#[tokio::test]
async fn the_page_shows_a_cluster_and_follows_it_without_a_reload() {
    let mut it = Published::by(1).await;
    let url = http_address(&it.agents[0]).await;
    let (code, ready) = get(&format!("{url}/readyz"), None).await.unwrap();
    assert_eq!(code, 200, "{ready}");
    let (_, told) = get(&format!("{url}/status.json"), None).await.unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(off_schema("status", &told), Vec::<String>::new(), "{told:#}");
    assert_eq!((&told[0]["cluster"], &told[0]["voters_answering"]), (&json!("orders"), &json!(3)));

    let browser = Browser::start(it.world.dir()).await;
    browser.look(1120, 900, "light").await;
    browser.requested().await;
    browser.open(&format!("{url}/")).await;
    let shows = |text: &str| format!("return document.body.innerText.includes({})", json!(text));
    browser.until("it is well", &shows("✓ healthy"), TEXT).await;
    browser.until("all slots", &shows("16,384 of 16,384 slots are served"), TEXT).await;
    browser.until("the voters", &shows("3 of 3 voters answer this agent"), TEXT).await;
    for node in &it.cluster.nodes {
        browser.until("each node", &shows(&node.address.to_string()), TEXT).await;
    }
    browser.run("window.sameAsBefore = true").await;
    let (from, to) = (&it.cluster.nodes[0], &it.cluster.nodes[1]);
    let other = id(to).await.unwrap();
    from.ask(&["CLUSTER", "SETSLOT", "7", "MIGRATING", &other]).await.unwrap();
    let migrates = "return [...document.querySelectorAll('caption')].some((one) => one.textContent === 'Slots that migrate')";
    browser.until("the slots that migrate", migrates, TEXT).await;
    from.ask(&["CLUSTER", "SETSLOT", "7", "STABLE"]).await.unwrap();
    browser.until("none of them migrates", &migrates.replace("return ", "return !"), TEXT).await;

    let dead = it.cluster.nodes[0].address.to_string();
    it.cluster.nodes[0].kill();
    let covered = "return !document.querySelector('.covered').textContent.startsWith('16,384 of')";
    browser.until("the slots are not served", covered, TEXT).await;
    browser.until("its successor", &shows("16,384 of 16,384 slots are served"), TEXT).await;
    browser.until("it is degraded", &shows("▲ degraded"), TEXT).await;
    let unfit = format!(
        "return [...document.querySelectorAll('caption')].some((one) => one.textContent === 'In no name' && \
         one.parentElement.innerText.includes({}))",
        json!(dead)
    );
    browser.until("who is in no name, and why", &unfit, TEXT).await;
    browser.until("the last changes", &shows("The last changes"), TEXT).await;
    assert_eq!(browser.run("return window.sameAsBefore").await, json!(true));
    let news = browser.run("return document.getElementById('news').textContent").await;
    assert!(news.as_str().unwrap().contains("orders"), "a screen reader does not say it: {news}");
    let overflow =
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    browser.look(360, 740, "dark").await;
    assert_eq!(browser.run(overflow).await, json!(0), "wider than a phone");
    browser.close().await;
}

#[tokio::test]
async fn a_cluster_is_completed_collected_and_retired() {
    let mut it = Published::by(1).await;
    let asked =
        [("CONSUL_REDIS_COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", "2"), ("_CLAP_IFS", "\n")];
    for command in ["status", "wait", "history", "doctor", "retire", "cluster"] {
        let completed = text(&run(&it.world, &["--", "consul-redis", command, ""], &asked));
        assert!(completed.lines().any(|word| word == "orders"), "{command}: {completed}");
    }
    let switched = text(&run(&it.world, &["--", "consul-redis", "switchover", ""], &asked));
    assert!(!switched.lines().any(|word| word == "orders"), "{switched}");

    let file = it.world.dir().join("bundle.tar.gz");
    let log = it.world.dir().join("bundle.log");
    std::fs::write(&log, "started\n").unwrap();
    let (file, log) = (file.display().to_string(), log.display().to_string());
    let bundle = it.run(&["support-bundle", &file, "--log-file", &log]);
    assert_eq!(bundle.status.code(), Some(0), "{}", text(&bundle));
    let archive = std::fs::File::open(&file).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut found = archive.entries().unwrap().map(Result::unwrap);
    let clusters = found.find(|entry| entry.path().unwrap().ends_with("clusters.json")).unwrap();
    let clusters: Value = serde_json::from_reader(clusters).unwrap();
    assert_eq!(clusters["orders"]["state"]["cluster"], "orders", "{clusters:#}");
    assert_eq!(clusters["orders"]["history"][0]["by"], "agent-0", "{clusters:#}");

    let refused = it.run(&["retire", "orders"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("1 agent(s) still watch `orders`"), "{}", text(&refused));
    it.agents[0].signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(it.agents[0].end(Duration::from_secs(5)).await.unwrap(), 0);
    let unwatched = it.json("status", &["status", "orders"]);
    assert_eq!(
        (unwatched.0, &unwatched.1[0]["problems"][0]["code"]),
        (Some(2), &json!("no-agents"))
    );
    let gone = it.run(&["retire", "orders"]);
    assert_eq!(gone.status.code(), Some(0), "{}", text(&gone));
    for service in ["orders", "orders-primary", "orders-replica"] {
        until_answers(&it.world, service, AT_ONCE, <[String]>::is_empty).await;
    }
    assert_eq!(it.world.consul.key("redis-ha/cluster/orders/state").await.unwrap(), None);
    assert_eq!(it.world.consul.key("redis-ha/cluster/orders/history").await.unwrap(), None);
    let again = it.run(&["retire", "orders"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    let info = it.cluster.nodes[0].ask(&["CLUSTER", "INFO"]).await.unwrap();
    let info = consul_redis::redis_link::text(&info).unwrap();
    assert!(info.contains("cluster_state:ok"), "the cluster was touched: {info}");
}

#[tokio::test]
async fn what_doctor_says_of_a_cluster_cures_it() {
    let mut it = Published::by(2).await;
    let nodes = &it.cluster.nodes;
    ask_all(&nodes[1..2], &["CONFIG", "SET", "cluster-node-timeout", "15000"]).await;
    ask_all(&nodes[4..5], &["CONFIG", "SET", "cluster-node-timeout", "500"]).await;
    ask_all(&nodes[2..3], &["CONFIG", "SET", "cluster-allow-reads-when-down", "yes"]).await;
    ask_all(&nodes[..1], &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let wanted = [
        "cluster-min-replicas",
        "cluster-persistence-off",
        "cluster-node-timeout",
        "cluster-haste-left",
        "cluster-reads-when-down",
        "cluster-full-coverage",
    ];
    let found = it.until_found("each setting is found", |found| found == wanted).await;
    for code in wanted {
        it.cure(&found, code).await;
    }
    assert_eq!(it.findings(), Vec::<Value>::new());

    // The agents' seed is the last node, which is asked at its own address all the same.
    let (last, of) = (&nodes[5], id(&nodes[2]).await.unwrap());
    let elsewhere = it.world.address().to_string();
    last.ask(&["CONFIG", "SET", "cluster-announce-ip", &elsewhere]).await.unwrap();
    let silent = |found: &[&str]| found.contains(&"cluster-node-silent");
    let found = it.until_found("an address that leads nowhere is found", silent).await;
    it.cure(&found, "cluster-node-silent").await;
    it.until_found("it is known by its own again", |found| found.is_empty()).await;

    let its = id(last).await.unwrap();
    ask_all(&nodes[..5], &["CLUSTER", "FORGET", &its]).await;
    let ghost =
        |found: &[&str]| found.contains(&"cluster-ghost") && found.contains(&"cluster-no-replica");
    let found = it.until_found("a node that all have forgotten is found", ghost).await;
    assert!(mend(&found, "cluster-no-replica").contains(&of), "{found:#?}");
    let back = mend(&found, "cluster-ghost").split("; to be rid").next().unwrap().to_owned();
    let back = [json!({"code": "cluster-ghost", "mend": back})];
    // Some versions have it forgotten again for a minute.
    until("it is a member again", 2 * REPLACED_WITHIN, || async {
        it.cure(&back, "cluster-ghost").await;
        tokio::time::sleep(CALM).await;
        let found = it.findings();
        if found.is_empty() { Ok(()) } else { Err(LabError(format!("{found:#?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn without_a_majority_every_surface_says_so_until_it_is_back() {
    let mut it = Published::by(2).await;
    for node in &mut it.cluster.nodes[1..] {
        node.kill();
    }
    let without = |found: &[&str]| found.contains(&"cluster-no-majority");
    let found = it.until_found("no majority", without).await;
    assert!(mend(&found, "cluster-no-majority").contains("TAKEOVER"), "{found:#?}");
    assert_eq!(it.run(&["doctor", "orders"]).status.code(), Some(2));
    it.until_status(2, |said| said["slots_served"] == 0).await;
    for node in &mut it.cluster.nodes[1..] {
        node.restart().await.unwrap();
    }
    it.until_status(0, |said| said["slots_served"] == 16_384).await;
    it.until_found("a majority again", |found| !without(found)).await;
}

/// As a person does who takes the node's death for settled (facts 0.10).
#[tokio::test]
async fn a_dead_primary_that_was_forgotten_too_soon_is_replaced_by_hand() {
    let mut it = Published::by(2).await;
    let (dead, replica) = (id(&it.cluster.nodes[0]).await.unwrap(), 3);
    // So that it is not elected before.
    let set = ["CONFIG", "SET", "cluster-replica-no-failover", "yes"];
    it.cluster.nodes[replica].ask(&set).await.unwrap();
    it.cluster.nodes[0].kill();
    let others = [1, 2, 4, 5];
    for index in others {
        it.cluster.nodes[index].ask(&["CLUSTER", "FORGET", &dead]).await.unwrap();
    }
    let stuck = |found: &[&str]| found.contains(&"cluster-unelectable");
    let found = it.until_found("the shard cannot elect", stuck).await;
    let said = mend(&found, "cluster-unelectable");
    assert!(said.contains(&it.cluster.nodes[replica].address.port().to_string()), "{said}");
    it.cure(&found, "cluster-unelectable").await;
    it.until_found("the replica has the slots", |found| !stuck(found)).await;
    it.until_status(3, |said| said["slots_served"] == 16_384).await;
}

#[tokio::test]
async fn a_node_that_no_agent_has_recorded_is_a_stranger_until_one_has() {
    let mut it = Published::by(1).await;
    it.agents[0].kill();
    let more = LabCluster::start_blank(&mut it.world, &["node-6"], NODE_TIMEOUT_MS).await.unwrap();
    it.cluster.nodes[0].meet(&more.nodes[0]).await.unwrap();
    let strange = |found: &[&str]| found.contains(&"cluster-stranger");
    let found = it.until_found("a voter knows it, and no agent does", strange).await;
    let its = id(&more.nodes[0]).await.unwrap();
    assert!(mend(&found, "cluster-stranger").contains(&its), "{found:#?}");
    let _agents = cluster_agents(&it.world, &it.cluster, 2);
    it.until_found("it is recorded", |found| !strange(found)).await;
    // It is a member, and in no name: it has no slots, and follows no node.
    let said = it.until_status(3, |said| said["unfit"] != json!([])).await;
    assert_eq!(said["unfit"][0]["address"], more.nodes[0].address.to_string(), "{said:#}");
}

/// As docs/clients.md has it, through the death of a primary and its return.
#[tokio::test]
async fn the_sample_for_redis_py_writes_to_a_cluster_through_a_failover() {
    let args = sample("redis_py_cluster.py");
    writes_through_a_failover("redis-py", interpreter("python-with-redis"), &args).await;
}

#[tokio::test]
async fn the_sample_for_redis_rs_writes_to_a_cluster_through_a_failover() {
    writes_through_a_failover("redis-rs", example("redis_rs_cluster"), &[]).await;
}

#[tokio::test]
async fn the_sample_for_node_redis_writes_to_a_cluster_through_a_failover() {
    let args = sample("node_redis_cluster.js");
    writes_through_a_failover("node-redis", interpreter("node-with-redis"), &args).await;
}

/// A sample writes while a primary is killed and comes back.
async fn writes_through_a_failover(name: &str, interpreter: PathBuf, args: &[String]) {
    let mut it = Published::by(1).await;
    let mut written = Sample::start(&it.world, &interpreter, args);
    written.until_some_more().await;
    let seen = written.lines().len();
    it.cluster.nodes[0].kill();
    written.until("a write fails", seen, |lines| lines.iter().any(|line| !line.acknowledged)).await;
    let at_risk = last_before_failure(&written.lines(), seen);
    it.until_status(3, |said| said["slots_served"] == 16_384).await;
    written.until_some_more().await;
    it.cluster.nodes[0].restart().await.unwrap();
    it.until_status(0, |said| said["unfit"] == json!([])).await;
    written.until_some_more().await;
    assert_eq!(written.process.ended(), None, "{}", written.process.log());
    written.process.kill();

    let lines = written.lines();
    let acknowledged: Vec<u64> =
        lines.iter().filter(|line| line.acknowledged).map(|line| line.number).collect();
    let mut lost = Vec::new();
    for number in &acknowledged {
        let mut has = false;
        for node in &it.cluster.nodes[1..4] {
            // Of another node's slots a node says where they are.
            let answer = node.ask(&["GET", &format!("written:{number}")]).await;
            has |= answer.is_ok_and(|value| {
                consul_redis::redis_link::text(&value).is_ok_and(|it| it == number.to_string())
            });
        }
        if !has {
            lost.push(*number);
        }
    }
    let failed = lines.len() - acknowledged.len();
    println!(
        "{name}: {} writes acknowledged, {} of them lost; {failed} failed",
        acknowledged.len(),
        lost.len()
    );
    let unexplained: Vec<&u64> = lost.iter().filter(|number| !at_risk.contains(number)).collect();
    assert!(unexplained.is_empty(), "{unexplained:?} of {lost:?}");
}

/// As containers of one host have them.
#[tokio::test]
async fn a_shard_that_is_on_one_host_is_spread_as_doctor_says() {
    let spec = WorldSpec { redis: 0, sentinels: 0, groups: Vec::new(), ..WorldSpec::default() };
    let mut world = world(spec).await;
    let hosts: Vec<Ipv4Addr> = (0..5).map(|_| world.address()).collect();
    let names = ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"];
    let at: Vec<(&str, Ipv4Addr)> =
        names.into_iter().zip([0, 1, 2, 0, 3, 4].map(|host: usize| hosts[host])).collect();
    let cluster = LabCluster::start_blank_at(&world, &at, NODE_TIMEOUT_MS).await.unwrap();
    let it = Published::of(world, cluster, 2).await;
    let one = |found: &[&str]| found.contains(&"cluster-one-host");
    let found = it.until_found("the shard is on one host", one).await;
    assert!(mend(&found, "cluster-one-host").contains("CLUSTER REPLICATE"), "{found:#?}");
    let nodes = &it.cluster.nodes;
    let (first, second) = (id(&nodes[0]).await.unwrap(), id(&nodes[1]).await.unwrap());
    nodes[3].ask(&["CLUSTER", "REPLICATE", &second]).await.unwrap();
    nodes[4].ask(&["CLUSTER", "REPLICATE", &first]).await.unwrap();
    it.until_found("it is on two", |found| !one(found)).await;
}

/// Redis 7 and 8 count an election's votes again within twice the node timeout; Valkey 9 does not (facts 2.5).
#[tokio::test]
async fn a_node_that_promoted_itself_by_old_votes_is_named_and_followed_by_hand() {
    let mut it = Published::by(2).await;
    let (owner, replica) = (0, 3);
    // Votes count again for twice as long as this: time for a planned failover that has to be asked for again.
    let long = ["CONFIG", "SET", "cluster-node-timeout", "30000"];
    ask_all(&it.cluster.nodes, &long).await;
    for to in [replica, owner] {
        let mut tries = 0;
        while !it.switched(to).await {
            tries += 1;
            assert!(tries < SWITCHES_MAX, "no planned failover comes to an end");
        }
    }
    it.cluster.nodes[owner].kill();
    it.cluster.nodes[replica].ask(&["CLUSTER", "FAILOVER", "FORCE"]).await.unwrap();
    let info = it.cluster.nodes[replica].ask(&["INFO", "server"]).await.unwrap();
    let valkey = consul_redis::redis_link::text(&info).unwrap().contains("valkey_version");
    let promoted = |found: &[&str]| found.contains(&"cluster-self-promoted");
    if valkey {
        // Where votes do not count again, none is given again for as long.
        let short = ["CONFIG", "SET", "cluster-node-timeout", "1000"];
        ask_all(&it.cluster.nodes[1..], &short).await;
    }
    let leads = it.cluster.nodes[replica].address.to_string();
    let settled = until("it leads, or says so alone", REPLACED_WITHIN, || async {
        let found = it.findings();
        if promoted(&codes(&found)) {
            return Ok(Some(found));
        }
        let (_, said) = it.json("status", &["status", "orders"]);
        let mut shards = said[0]["shards"].as_array().unwrap().iter();
        let led = shards.any(|shard| shard["primary"] == leads);
        if led { Ok(None) } else { Err(LabError(format!("{said:#}"))) }
    });
    let settled = settled.await.unwrap();
    // Each Redis does; of Valkey, 9 does not.
    assert!(valkey || settled.is_some(), "the votes were not counted again");
    if let Some(found) = settled {
        assert!(mend(&found, "cluster-self-promoted").contains("CLUSTER BUMPEPOCH"), "{found:#?}");
        it.cure(&found, "cluster-self-promoted").await;
    }
    it.until_status(3, |said| said["slots_served"] == 16_384).await;
    assert!(!promoted(&codes(&it.findings())));
}

/// Valkey 8.1 to 9.1 sends MEET to a dead node's address by itself (facts 0.5).
#[tokio::test]
async fn a_dead_node_of_valkey_is_to_be_forgotten() {
    run_all_on(Family::Valkey, Age::Newest).unwrap();
    let mut it = Published::by(2).await;
    let dead = id(&it.cluster.nodes[5]).await.unwrap();
    it.cluster.nodes[5].kill();
    let held = |found: &[&str]| found.contains(&"cluster-not-forgotten");
    let found = it.until_found("a dead node that is not forgotten", held).await;
    let forget = mend(&found, "cluster-not-forgotten").split(": ").last().unwrap().to_owned();
    assert_eq!(forget, format!("CLUSTER FORGET {dead}"));
    let words: Vec<&str> = forget.split(' ').collect();
    // Valkey passes it on to the others: a node may have forgotten it by then.
    for node in &it.cluster.nodes[..5] {
        let _ = node.ask(&words).await;
    }
    it.until_found("it is forgotten", |found| !held(found)).await;
}

/// An agent keeps a file of seeds and shards, as the templates of this repository make it.
#[tokio::test]
async fn files_follow_a_cluster_through_the_death_of_a_primary() {
    let mut it = Published::by(1).await;
    let (out, root) = (it.world.dir().join("cluster.json"), env!("CARGO_MANIFEST_DIR"));
    let template = format!(
        "\n[[template]]\nsource = \"{root}/templates/cluster.json.j2\"\ndestination = \"{}\"\n",
        out.display()
    );
    let clusters = std::fs::read_to_string(&it.config).unwrap();
    let with = it.world.dir().join("with-template.toml");
    std::fs::write(&with, clusters + &template).unwrap();
    it.config = with.to_str().unwrap().to_owned();
    let printed: Value = serde_json::from_slice(&it.run(&["render", "--print"]).stdout).unwrap();
    assert_eq!(printed["orders"]["seeds"].as_array().unwrap().len(), 6, "{printed:#}");
    let checked = it.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
    assert!(!text(&checked).contains("undefined"), "{}", text(&checked));
    let env = [("CONSUL_REDIS_SENTINELS", "")];
    let _renders = agent(&it.world, "agent-9", &["--config", &it.config], &env);
    let read =
        || std::fs::read_to_string(&out).ok().and_then(|text| serde_json::from_str(&text).ok());
    let until_file = async |what: &str, fits: &dyn Fn(&Value) -> bool| {
        until(what, REPLACED_WITHIN, || async {
            let found: Value = read().unwrap_or_default();
            if fits(&found["orders"]) { Ok(()) } else { Err(LabError(format!("{found:#}"))) }
        })
        .await
        .unwrap();
    };
    let whole = |found: &Value| found["seeds"].as_array().is_some_and(|seeds| seeds.len() == 6);
    until_file("all nodes are in the file", &whole).await;
    let (dead, next) =
        (it.cluster.nodes[0].address.to_string(), it.cluster.nodes[3].address.to_string());
    let leads = |found: &Value, at: &str| {
        found["shards"]
            .as_array()
            .is_some_and(|shards| shards.iter().any(|one| one["primary"] == at))
    };
    assert!(leads(&read().unwrap_or_default()["orders"], &dead));
    it.cluster.nodes[0].kill();
    until_file("its successor is in the file", &|found| {
        leads(found, &next) && !leads(found, &dead)
    })
    .await;
}
