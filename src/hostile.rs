//! What reads the words of servers, against those that mean harm: answers that were changed, and servers that drip,
//! never end, claim what they do not send, or answer something else. `tests/shared/mutations.rs` makes the answers;
//! `core/tests/rules/hostile.rs` has what strangers write into Consul.

use std::future::Future;
use std::time::Duration;

use proptest::prelude::*;
use redis::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster;
use crate::consul::client::{Consul, ConsulError, Response};
use crate::consul::endpoint::ConsulEndpoint;
use crate::consul::store::any_keys_in;
use crate::consul::txn;
use crate::core::identity::address::{Address, GroupName};
use crate::core::known::observed::Role;
use crate::dns::Names;
use crate::exec::conf_words::words as words_of_line;
use crate::foreign::{harmless, harmless_json, one_line};
use crate::instance;
use crate::mutations::{hostile, is_showable};
use crate::process;
use crate::redis_link::{
    Fields, Link, LinkError, LinkSettings, Subscription, SubscriptionNews, subscribe,
};
use crate::scripted::Scripted;
use crate::secret::SecretSource;
use crate::sentinel::events::groups_of;
use crate::sentinel::query::{self, Identity};

const ESCAPE: char = '\u{1b}';
/// From there on from right to left.
const TURN: char = '\u{202e}';
const REPLICATION: &str = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
    slave0:ip=10.0.0.2,port=6379,state=online,offset=1402,lag=0\r\n\
    slave1:ip=redis-3,port=6379,state=wait_bgsave,offset=0,lag=1\r\nmin_slaves_good_slaves:1\r\n\
    master_failover_state:no-failover\r\nmaster_replid:3c6f2a3ad21f4b7c0d4d6e9f5a8c1b2d3e4f5a6b\r\n\
    master_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:1402\r\n\
    second_repl_offset:-1\r\nrepl_backlog_active:1\r\n";
const REPLICA: &str = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n\
    master_link_status:up\r\nmaster_last_io_seconds_ago:1\r\nslave_repl_offset:1402\r\nslave_priority:100\r\n\
    replica_announced:1\r\nmaster_replid:3c6f2a3ad21f4b7c0d4d6e9f5a8c1b2d3e4f5a6b\r\n\
    master_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:1402\r\n";
const SERVER: &str = "# Server\r\nredis_version:8.2.1\r\nprocess_id:4711\r\n\
    run_id:9f1a9dd0f4f5b7c3a1b2c3d4e5f60718293a4b5c\r\ntcp_port:6379\r\nuptime_in_seconds:120\r\n\
    config_file:/data/redis.conf\r\n";
const KEYSPACE: &str =
    "# Keyspace\r\ndb0:keys=12,expires=0,avg_ttl=0\r\ndb3:keys=9,expires=1,avg_ttl=4\r\n";
/// Names and values, one a line: what `SENTINEL MASTER`, `REPLICAS` and `SENTINELS` answer as lists.
const MASTER: &str = "name:redis\nip:10.0.0.1\nport:6379\nrunid:9f1a9dd0f4f5b7c3a1b2c3d4e5f60718293a4b5c\n\
    flags:master,s_down,failover_in_progress\nlast-ok-ping-reply:90\nlast-ping-reply:90\n\
    down-after-milliseconds:5000\nconfig-epoch:3\nnum-slaves:1\nnum-other-sentinels:2\nquorum:2\n\
    failover-timeout:60000\nparallel-syncs:1\nfailover-state:wait_start\n";
const SLAVE: &str = "name:10.0.0.2:6379\nip:10.0.0.2\nport:6379\nflags:slave,promoted\n\
    last-ok-ping-reply:90\nlast-ping-reply:90\ndown-after-milliseconds:5000\nslave-priority:100\n";
const PEER: &str = "name:b\nip:10.0.1.2\nport:26379\nrunid:b9f1a9dd0f4f5b7c3a1b2c3d4e5f60718293a4b5\n\
    flags:sentinel\nvoted-leader:c9f1a9dd0f4f5b7c3a1b2c3d4e5f60718293a4b5\nvoted-leader-epoch:3\n";
const SUMMARY: &str = "# Sentinel\r\nsentinel_masters:1\r\nsentinel_tilt:0\r\n\
    master0:name=redis,status=ok,address=10.0.0.1:6379,slaves=1,sentinels=3\r\n";
const RESP: &str = "*3\r\n$4\r\nrole\r\n*2\r\n:7\r\n$-1\r\n+OK\r\n-ERR no\r\n$5\r\na\r\nbc\r\n*-1\r\n*0\r\n:-12\r\n";
const KV: &str = r#"[{"LockIndex":0,"Key":"redis-ha/redis/state","Flags":0,"Value":"eyJ2IjoxfQ==","Session":"a-b","CreateIndex":9,"ModifyIndex":12},{"Key":"redis-ha/redis/primary","Value":"/xtbMko=","ModifyIndex":3},{"Key":"redis-ha/redis/agents/a\u001b[2J\nb","Value":null,"ModifyIndex":18446744073709551615}]"#;
const HEALTH: &str = r#"[{"Node":{"Node":"a","Address":"10.0.0.1","Meta":{"k":"v"}},"Service":{"ID":"redis-1","Service":"redis","Tags":["primary"],"Address":"10.0.0.1","Port":6379,"Meta":null},"Checks":[{"CheckID":"c","Status":"passing","Output":"TCP connect\nok\u0007"}]}]"#;
const TXN: &str = r#"{"Results":[{"KV":{"Key":"a/state","ModifyIndex":18}}],"Errors":[{"OpIndex":0,"What":"failed to set key \"a/state\", index is stale"}]}"#;
const CONF: &str = "# a comment\r\nport 7000\r\nsave \"3600 1\"\nuser app on >\"a \\\"b\\\" \\x41\" ~* +@all\nrequirepass 'it''s'\ninclude 'more\\'s.conf'\n";

fn text(bytes: &[u8]) -> String {
    harmless(String::from_utf8_lossy(bytes)).into_owned()
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

/// `name:value` lines as a flat list.
fn row(lines: &[u8]) -> Value {
    let lines = String::from_utf8_lossy(lines).into_owned();
    let both = lines.split('\n').filter_map(|line| line.split_once(':'));
    Value::Array(both.flat_map(|(name, value)| [bulk(name), bulk(value)]).collect())
}

fn identity() -> Identity {
    let id = crate::core::known::observed::SentinelId("a".to_owned());
    Identity { id, process: None, refuses_relay: None, summary: None }
}

fn answered(status: u16, body: Vec<u8>) -> Response {
    let status = reqwest::StatusCode::from_u16(status).unwrap();
    Response { asked: Instant::now(), status, index: 1, body }
}

/// All strings of a JSON value, names among them.
fn strings(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::String(text) => vec![text.clone()],
        serde_json::Value::Array(all) => all.iter().flat_map(strings).collect(),
        serde_json::Value::Object(all) => {
            all.iter().flat_map(|(k, v)| [vec![k.clone()], strings(v)].concat()).collect()
        }
        _ => Vec::new(),
    }
}

fn obeyed_in(strings: &[String]) -> Option<String> {
    let obeyed = |text: &&String| !is_showable(&text.chars().take(900).collect::<String>());
    strings.iter().find(obeyed).cloned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_instance_says_of_itself_what_can_be_shown(
        replication in prop_oneof![hostile(REPLICATION), hostile(REPLICA)],
        server in hostile(SERVER),
        keyspace in hostile(KEYSPACE),
    ) {
        let (replication, server, keyspace) = (text(&replication), text(&server), text(&keyspace));
        let of = |info: &str| -> Vec<(String, String)> {
            let fields = Fields::of_info(info);
            fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        for (_, value) in of(&replication) {
            prop_assert!(!value.contains(['\n', '\r', '\u{1b}', '\0']), "{value:?}");
        }
        instance::count_keys(&Fields::of_info(&keyspace));
        let answer = instance::parse(None, &Fields::of_info(&replication), &Fields::of_info(&server));
        match answer {
            Ok(answer) => {
                for text in [&answer.run_id, &answer.config_file, &answer.version, &answer.replid.0] {
                    prop_assert!(is_showable(text) && text.len() < 2_000, "{text:?}");
                }
                if let Role::Primary { replicas } = answer.role {
                    prop_assert!(replicas.len() <= 256);
                }
            }
            Err(why) => {
                let shown = LinkError::Unexpected(why).to_string();
                prop_assert!(is_showable(&shown), "{shown:?}");
            }
        }
    }

    #[test]
    fn a_sentinel_says_of_a_group_what_can_be_shown(
        master in hostile(MASTER), slave in hostile(SLAVE), peer in hostile(PEER), place in hostile("10.0.0.1:6379"),
    ) {
        let place = text(&place);
        let place = Value::Array(place.split(':').map(bulk).collect());
        let rows = |bytes: &[u8]| Value::Array(vec![row(bytes); 3]);
        let answers = [place, row(&master), rows(&slave), rows(&peer)];
        match query::answer_of(&identity(), &answers, false, Vec::new) {
            Ok(answer) => {
                if let Some(group) = answer.group {
                    prop_assert!(group.other_sentinels <= query::ROWS_MAX);
                    let voted = |peer: &crate::core::known::observed::SentinelPeer| {
                        peer.voted.as_ref().map(|(leader, _)| leader.0.clone())
                    };
                    let ids: Vec<String> = group.peers.iter().map(|peer| peer.id.0.clone())
                        .chain(group.peers.iter().filter_map(voted)).collect();
                    // They go into what Sentinels say to one another, with commas between.
                    let plain = |id: &String| id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                    prop_assert!(ids.iter().all(plain), "{ids:?}");
                }
            }
            Err(error) => prop_assert!(is_showable(&error.to_string()), "{error:?}"),
        }
    }

    #[test]
    fn a_list_of_lists_is_read_or_refused(bytes in hostile(RESP), summary in hostile(SUMMARY)) {
        // The lengths are looked at as the bytes come; what reads them then must not want more.
        let mut parser = redis::Parser::new();
        if crate::redis_link::is_whole(&bytes, 1) == Ok(true) {
            let value = parser.parse_value(bytes.as_slice());
            if let Ok(value) = &value {
                let _ = query::answer_of(&identity(), &vec![value.clone(); 4], false, Vec::new);
                let words = crate::redis_link::text(value).unwrap_or_else(|error| error);
                prop_assert!(!words.contains(ESCAPE));
            }
        }
        let whole = crate::redis_link::is_whole(&bytes, 1);
        let drip = (0..=bytes.len()).map(|len| &bytes[..len]);
        prop_assert_eq!(crate::redis_link::drips(drip, 1), whole);
        let summary = text(&summary);
        groups_of(&summary, &["redis".parse::<GroupName>().unwrap()]);
    }

    #[test]
    fn what_consul_answers_is_showable_or_refused(
        kv in hostile(KV), health in hostile(HEALTH), txn_ in hostile(TXN), status in prop::sample::select(vec![200_u16, 400, 403, 409, 429, 500]),
    ) {
        match any_keys_in(answered(200, kv), "GET /v1/kv/redis-ha/") {
            Ok(keys) => {
                let names: Vec<String> = keys.iter().map(|key| key.key.clone()).collect();
                prop_assert_eq!(obeyed_in(&names), None);
                // As it is read where it is no JSON.
                let values = keys.iter().map(|key| String::from_utf8_lossy(&key.value).replace(['\n', '\r'], ""));
                prop_assert_eq!(obeyed_in(&values.collect::<Vec<_>>()), None);
            }
            Err(error) => prop_assert!(is_showable(&error.to_string()), "{error:?}"),
        }
        match answered(200, health).decode::<serde_json::Value>("GET /v1/health/service/redis") {
            Ok(found) => prop_assert_eq!(obeyed_in(&strings(&found.value)), None),
            Err(error) => prop_assert!(is_showable(&error.to_string()), "{error:?}"),
        }
        let outcome = format!("{:?}", txn::outcome(status, &txn_, "a/state"));
        prop_assert!(outcome.len() < 4_000, "{outcome}");
        match answered(status, txn_).ok("PUT /v1/txn") {
            Ok(_) => {}
            Err(error) => prop_assert!(is_showable(&error.to_string().replace(['\n', '\r'], "")), "{error:?}"),
        }
    }

    #[test]
    fn json_stays_json_and_what_is_no_json_becomes_none(bytes in hostile(HEALTH)) {
        let before = serde_json::from_slice::<serde_json::Value>(&bytes);
        let after = serde_json::from_slice::<serde_json::Value>(&harmless_json(&bytes));
        match (before, after) {
            (Ok(before), Ok(after)) => {
                prop_assert_eq!(strings(&before).len(), strings(&after).len());
                prop_assert_eq!(obeyed_in(&strings(&after)), None);
            }
            (before, after) => prop_assert!(before.is_err() || after.is_ok(), "{after:?}"),
        }
        let line = one_line(String::from_utf8_lossy(&bytes)).into_owned();
        prop_assert!(!line.contains(['\n', '\r', ESCAPE]) && !line.contains(TURN));
    }

    #[test]
    fn a_config_of_redis_has_words_or_is_refused(config in hostile(CONF)) {
        for line in String::from_utf8_lossy(&config).lines() {
            let Some(words) = words_of_line(line) else { continue };
            // Quoted, each word is the same again.
            let quoted: Vec<String> = words
                .iter()
                .map(|word| format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            if words.iter().all(|word| !word.contains(['\n', '\r', '\0'])) {
                prop_assert_eq!(words_of_line(&quoted.join(" ")), Some(words));
            }
        }
    }

    #[test]
    fn a_config_of_ours_is_read_or_refused(config in hostile(include_str!("../docs/consul-redis.toml"))) {
        let config = crate::config::parsed_for_test(&String::from_utf8_lossy(&config));
        prop_assert!(config.is_none_or(|why| !why.is_empty()));
    }
}

/// As `sdssplitargs` of Redis 8 does.
#[test]
fn a_line_of_a_config_is_taken_apart_as_redis_does() {
    let words = |line: &str| words_of_line(line).map(|words| words.join("|"));
    for (line, wanted) in [
        ("port 7000", Some("port|7000")),
        ("  \tport\t 7000 \r", Some("port|7000")),
        ("# port 7000", Some("")),
        ("port 7000 # the old one", Some("port|7000|#|the|old|one")),
        ("save \"3600 1\" '300 100'", Some("save|3600 1|300 100")),
        (r#"a "\x41\n\"\q" 'it\'s \n'"#, Some("a|A\n\"q|it's \\n")),
        ("a\"b c\" d", Some("ab c|d")),
        ("\"port\" 7", Some("port|7")),
        ("a \"\"", Some("a|")),
        ("a \"b\"c", None),
        ("a \"b", None),
        ("a 'b\\'", None),
        ("a b\0c", Some("a|b")),
    ] {
        assert_eq!(words(line).as_deref(), wanted, "{line:?}");
    }
}

/// Serves each connection so; the number of the connection is given.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    each: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> (Address, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let task = tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(each(connection, stream));
        }
    });
    (address, AbortOnDropHandle::new(task))
}

/// Writes `first` and then `again` without end, `len` bytes at a time.
async fn pour(mut stream: TcpStream, first: &[u8], again: &[u8], len: usize) {
    let _ = stream.read(&mut [0; 4_096]).await;
    let _ = stream.set_nodelay(true);
    let _ = stream.write_all(first).await;
    loop {
        for part in again.chunks(len) {
            if stream.write_all(part).await.is_err() {
                return;
            }
            if len == 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

const DEADLINE: Duration = Duration::from_millis(400);

fn settings() -> LinkSettings {
    LinkSettings { timeout: DEADLINE, ..LinkSettings::default() }
}

/// Answers that never end are given up, in time, and the next connection's good answer is taken.
#[tokio::test]
async fn a_redis_that_never_ends_is_given_up_and_asked_again() {
    let nested = b"*1\r\n".repeat(10_000);
    let harms: [(&str, &[u8], &[u8], usize); 9] = [
        ("a drip of a line", b"+", b"x", 1),
        ("a drip of a text", b"$100000\r\n", b"x", 1),
        ("a line", b"+", &[b'x'; 65_536], 65_536),
        ("an error", b"-ERR ", &[b'x'; 65_536], 65_536),
        ("a bulk of 2^62 bytes", b"$4611686018427387904\r\n", &[b'x'; 65_536], 65_536),
        ("a list of 2^62 values", b"*4611686018427387904\r\n", b"+a\r\n", 4),
        ("lists without end", b"*2\r\n", b"*2\r\n+a\r\n", 8),
        ("a deep list", &nested, b":1\r\n", 4),
        ("another protocol", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n", 2),
    ];
    for (what, first, again, len) in harms {
        let (first, again) = (first.to_vec(), again.to_vec());
        let (address, _task) = serve(move |connection, mut stream| {
            let (first, again) = (first.clone(), again.clone());
            async move {
                if connection == 0 {
                    return pour(stream, &first, &again, len).await;
                }
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(b"+PONG\r\n").await;
                let _ = stream.read(&mut [0; 1]).await;
            }
        })
        .await;
        let begun = Instant::now();
        let mut link = Link::open(&address, &settings()).await.unwrap();
        let error = link.call(&["PING"]).await.unwrap_err().to_string();
        assert!(begun.elapsed() < DEADLINE * 4, "{what}: {:?}", begun.elapsed());
        assert!(is_showable(&error), "{what}: {error:?}");
        assert!(link.is_closed(), "{what}: what comes next is no answer to another question");
        let mut link = Link::open(&address, &settings()).await.unwrap();
        let pong = link.call(&["PING"]).await.unwrap();
        assert_eq!(crate::redis_link::text(&pong).as_deref(), Ok("PONG"), "{what}");
    }
}

/// One hostile Sentinel or node may name hundreds of servers.
#[tokio::test]
async fn all_endless_answers_together_have_a_bound() {
    let patient = LinkSettings { timeout: Duration::from_secs(30), ..LinkSettings::default() };
    let asks = (0..12).map(async |_| {
        // Each of them would be taken alone, and does not end.
        let (address, _task) = serve(|_, mut stream| async move {
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(b"$16000000\r\n").await;
            let _ = stream.write_all(&vec![b'x'; 15_000_000]).await;
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await;
        let mut link = Link::open(&address, &patient).await.unwrap();
        link.call(&["PING"]).await.unwrap_err().to_string()
    });
    let (first, _, others) = futures_util::future::select_all(asks.map(Box::pin)).await;
    assert!(first.contains("by other servers as well"), "{first}");
    drop(others);
    assert_eq!(crate::redis_link::held(), 0, "what was given up is counted no more");
}

/// The events of a Sentinel are no way around these bounds.
#[tokio::test]
async fn events_that_never_end_are_given_up() {
    const BULK: &[u8] =
        b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$6\r\n+sdown\r\n$4611686018427387904\r\n";
    const GOOD: &[u8] =
        b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$7\r\n+sd\x1b[wn\r\n$9\r\nmaster\r\nx\r\n";
    const SUBSCRIBED: &[u8] = b"*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n";
    let (address, _task) = serve(|_, stream| async move {
        pour(stream, &[SUBSCRIBED, GOOD, BULK].concat(), &[b'x'; 65_536], 65_536).await;
    })
    .await;
    let mut events: Subscription = subscribe(&address, &settings()).await.unwrap();
    let event = SubscriptionNews::Event("+sd\\u{1b}[wn".to_owned(), "master\\r\\nx".to_owned());
    assert_eq!(events.next().await, Some(event));
    let ended = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
    assert_eq!(ended.expect("it reads on"), None);
    assert!(events.held() < 1024 * 1024, "{}", events.held());
}

/// Answers of every other type to each command that an agent asks with.
#[tokio::test]
async fn a_server_that_answers_something_else_is_an_error() {
    let long = format!("*{}\r\n{}", 20_000, "$3\r\n\x1b[2\r\n".repeat(20_000));
    let wrong = [
        ":7\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "$0\r\n\r\n",
        "+\r\n",
        "+OK\r\n",
        "-\r\n",
        "-ERR\r\n",
        "-LOADING \x1b[2J\r\n",
        "*1\r\n*1\r\n*1\r\n*0\r\n",
        "*3\r\n$1\r\na\r\n:1\r\n$-1\r\n",
        "$5\r\na:\0\x1bb\r\n",
        &long,
    ];
    for wrong in wrong.map(str::to_owned) {
        let answer = wrong.clone();
        let server = Scripted::start(move |_, words| {
            let commands = words.lines().filter(|line| line.starts_with('*')).count();
            Some(answer.repeat(commands))
        });
        let server = server.await;
        let (group, login) = ("redis".parse::<GroupName>().unwrap(), settings());
        let at: Address = "10.0.0.1:6379".parse().unwrap();
        let mut errors = Vec::new();
        macro_rules! ask {
            ($ask:expr) => {{
                let mut link = Link::open(&server.address, &login).await.unwrap();
                let asked = $ask(&mut link);
                errors.extend(asked.await.err());
            }};
        }
        ask!(async |link: &mut Link| query::identity(link).await.map(drop));
        ask!(async |link: &mut Link| query::may_relay(link).await.map(drop));
        ask!(async |link: &mut Link| query::ask(link, &identity(), &group).await.map(drop));
        ask!(async |link: &mut Link| query::summary(link).await.map(drop));
        ask!(async |link: &mut Link| query::groups(link).await.map(drop));
        ask!(async |link: &mut Link| query::refusing(link, &group).await.map(drop));
        ask!(async |link: &mut Link| query::gave_up(link, &group, &at).await.map(drop));
        ask!(async |link: &mut Link| instance::probe(link).await.map(drop));
        ask!(async |link: &mut Link| instance::hold(link, 1).await.map(drop));
        ask!(async |link: &mut Link| instance::follow_at_once(link, &at).await.map(drop));
        ask!(async |link: &mut Link| process::ask(link).await.map(drop));
        ask!(async |link: &mut Link| link.setting("port").await.map(drop));
        errors.extend(cluster::position(&server.address, &login).await.err());
        let (seeds, names) = ([server.address.clone()], Names::new(None));
        let looked = cluster::look(&seeds, &login, &names, true);
        let looked = looked.await.unwrap();
        let nodes = looked.values().filter_map(|answer| answer.as_ref().err().cloned());
        for shown in errors.iter().map(ToString::to_string).chain(nodes) {
            assert!(is_showable(&shown), "{wrong:.80?}: {shown:?}");
        }
        assert!(errors.len() > 3, "{wrong:.80?}: {errors:?}");
    }
}

async fn a_consul<F: Future<Output = ()> + Send + 'static>(
    each: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> (Consul, AbortOnDropHandle<()>) {
    let (address, task) = serve(each).await;
    let endpoint = ConsulEndpoint {
        address: address.to_string().parse().unwrap(),
        token: SecretSource::Value("the-token".into()),
        ..ConsulEndpoint::default()
    };
    (Consul::new(&endpoint).unwrap(), task)
}

/// Bodies and headers that never end, and bodies that are packed.
#[tokio::test]
async fn a_consul_that_never_ends_is_given_up() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\n";
    let body = "x".repeat(65_536);
    let harms = [
        (
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n"),
            format!("10000\r\n{body}\r\n"),
            65_536,
        ),
        (format!("{HEAD}Content-Length: 4611686018427387904\r\n\r\n"), body.clone(), 65_536),
        (format!("{HEAD}\r\n"), body.clone(), 65_536),
        (HEAD.to_owned(), format!("X-{body}: a\r\n"), 65_536),
        (HEAD.to_owned(), "X: a\r\n".to_owned(), 6),
        (format!("{HEAD}Content-Length: 9\r\n\r\n"), "x".to_owned(), 1),
        ("HTTP/1.1 200 OK\r\n".repeat(3), body.clone(), 65_536),
        (
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
            25,
        ),
    ];
    for (first, again, len) in harms {
        let told = first.clone();
        let (consul, _task) = a_consul(move |connection, mut stream| {
            let (first, again) = (first.clone(), again.clone());
            async move {
                if connection == 0 {
                    return pour(stream, first.as_bytes(), again.as_bytes(), len).await;
                }
                let _ = stream.read(&mut [0; 4_096]).await;
                let good = format!("{HEAD}Content-Length: 2\r\n\r\n[]");
                let _ = stream.write_all(good.as_bytes()).await;
                let _ = stream.read(&mut [0; 1]).await;
            }
        })
        .await;
        let begun = Instant::now();
        let ask = |timeout| consul.call(reqwest::Method::GET, "/v1/kv/a", &[], None, timeout);
        let answer = ask(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(4), "{told}: {:?}", begun.elapsed());
        match answer {
            Err(error) => assert!(is_showable(&error.to_string()), "{told}: {error}"),
            // What has been read when the length is over.
            Ok(answer) => assert!(answer.body.len() < 16, "{told}: {}", answer.body.len()),
        }
        // One connection that is still open may have more of the same.
        let good = match ask(Duration::from_secs(2)).await {
            Ok(good) => good,
            Err(_) => ask(Duration::from_secs(2)).await.unwrap(),
        };
        assert_eq!(good.body, b"[]", "{told}");
    }
}

/// A redirect would carry the token to another host.
#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays() {
    let (elsewhere, mut ears) = tokio::sync::mpsc::channel(8);
    let (other, _other) = serve(move |_, _| {
        let elsewhere = elsewhere.clone();
        async move { elsewhere.send(()).await.unwrap() }
    })
    .await;
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nLocation: http://{other}/v1/kv/a\r\nContent-Length: 0\r\n\r\n"
        );
        let (consul, _task) = a_consul(move |_, mut stream| {
            let answer = answer.clone();
            async move {
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.read(&mut [0; 1]).await;
            }
        })
        .await;
        let error = consul.get::<Vec<String>>("/v1/kv/a", &[]).await.unwrap_err();
        assert!(matches!(error, ConsulError::Status { status: 301..=308, .. }), "{error:?}");
    }
    assert!(ears.try_recv().is_err(), "the other host was asked");
}

/// Packed bodies are not unpacked: a few kilobytes of one could be gigabytes. And indexes that no number holds are none.
#[tokio::test]
async fn a_packed_body_and_an_index_out_of_bounds_are_no_answers() {
    let answers = [
        ("Content-Encoding: gzip\r\nX-Consul-Index: 7", "\u{1f}\u{8b}\u{8}"),
        ("X-Consul-Index: 18446744073709551616", "[]"),
        ("X-Consul-Index: -1", "[]"),
        ("X-Consul-Index: 1e3", "[]"),
    ];
    for (head, body) in answers {
        let answer =
            format!("HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (consul, _task) = a_consul(move |_, mut stream| {
            let answer = answer.clone();
            async move {
                while let Ok(1..) = stream.read(&mut [0; 4_096]).await {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        })
        .await;
        let read = consul.get::<Vec<String>>("/v1/kv/a", &[]).await;
        match read {
            Ok(read) => assert_eq!(read.index, 0, "{head}"),
            Err(error) => assert!(matches!(error, ConsulError::Unreadable { .. }), "{error:?}"),
        }
    }
}

/// What a DNS server may put behind the question of `question`: nothing, itself, or names that lead in circles.
fn dns_answers(question: &[u8]) -> Vec<Vec<u8>> {
    let name = question.get(12..question.len().min(12 + 64)).unwrap_or_default();
    let end = 12 + name.iter().position(|byte| *byte == 0).unwrap_or(0) + 5;
    let head = |answers: u8| {
        let mut head = question.get(..end).unwrap_or(question).to_vec();
        (head[2], head[3], head[7], head[11]) = (0x84, 0, answers, 0);
        (head[9], head[5]) = (0, 1);
        head
    };
    let record = |kind: u8, data: &[u8]| {
        let mut record =
            vec![0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 9, 0, u8::try_from(data.len()).unwrap()];
        record.extend(data);
        record
    };
    let at = u8::try_from(end).unwrap();
    vec![
        // A pointer to itself, as the name of an answer.
        [head(1), vec![0xc0, at, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]].concat(),
        // A CNAME of its own name.
        [head(1), record(5, &[0xc0, 12])].concat(),
        // An SRV record whose target would clear a screen.
        [head(1), record(33, b"\0\x01\0\x01\x18\xeb\x04\x1b[2J\x05redis\0")].concat(),
        // More answers than there are.
        head(255),
        // A length beyond the end.
        [head(1), vec![0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 255, 255, 1]].concat(),
    ]
}

#[tokio::test]
async fn a_dns_server_that_leads_in_circles_is_given_up() {
    for which in 0..5 {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let _task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((len, from)) = server.recv_from(&mut question).await {
                let answers = dns_answers(&question[..len]);
                let _ = server.send_to(&answers[which], from).await;
            }
        }));
        let (names, begun) = (Names::new(Some(at)), Instant::now());
        let (service, srv, a) = tokio::join!(
            names.service("redis.service.consul", "consul"),
            names.srv("redis.service.consul"),
            names.a("redis.service.consul"),
        );
        assert!(begun.elapsed() < Duration::from_secs(9), "{which}: {:?}", begun.elapsed());
        let targets = srv.iter().flatten().map(|(target, _)| target.clone());
        let more =
            service.iter().flat_map(|answer| answer.services.iter().map(|(name, _)| name.clone()));
        let errors = [service.as_ref().err(), srv.as_ref().err(), a.as_ref().err()];
        let errors = errors.into_iter().flatten().map(ToString::to_string);
        for shown in targets.chain(more).chain(errors) {
            assert!(is_showable(&shown), "{which}: {shown:?}");
        }
        assert!(a.is_err() || a.is_ok_and(|found| found.len() < 2), "{which}");
    }
}

/// The status line of the answer to these bytes; empty where the connection is closed without one.
async fn asked_http(at: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // It may be refused before all of it is sent.
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.write_all(bytes)).await;
    let mut answer = vec![0; 512];
    let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut answer)).await;
    let len = read.ok().and_then(Result::ok).unwrap_or(0);
    String::from_utf8_lossy(&answer[..len]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn requests_that_mean_harm_are_refused_and_the_next_one_is_answered() {
    let (at, _stop) = crate::http::serving_for_test().await;
    let long = "a".repeat(1024 * 1024);
    let many = "X-A: b\r\n".repeat(5_000);
    let host = "Host: 127.0.0.1\r\n";
    let refused = [
        // Two lengths of one body.
        format!(
            "GET /healthz HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
        ),
        format!("GET /healthz HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{host}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\n{host}\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{host}X: {long}\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{host}{many}\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{host}X : a\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"),
        format!("GET /healthz\x1b[2J HTTP/1.1\r\n{host}\r\n"),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /..%2f..%2fetc/passwd HTTP/1.1\r\n{host}\r\n"),
        format!("POST /healthz HTTP/1.1\r\n{host}Content-Length: 1\r\n\r\nx"),
        format!(
            "GET /primary?instance=%00%1b%5b2J&generation=18446744073709551616 HTTP/1.1\r\n{host}\r\n"
        ),
    ];
    for request in refused {
        let said = asked_http(&at, request.as_bytes()).await;
        assert!(
            said.is_empty() || said.contains(" 4") || said.contains(" 503"),
            "{request:.90?}: {said}"
        );
        let good = format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
        assert_eq!(asked_http(&at, good.as_bytes()).await, "HTTP/1.1 200 OK", "{request:.90?}");
    }
}
