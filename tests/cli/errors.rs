//! What a person can get wrong before any server is asked: the code, what is said, and what to do about it. What takes
//! servers is in tests/e2e/errors.rs.

use std::path::Path;

use super::run;

/// A mistake, and the answer to it.
struct Mistake {
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    code: i32,
    /// All that is printed; the rest of a flag's own error is `SEE_HELP`.
    said: &'static str,
}

const SEE_HELP: &str = "\n\nFor more information, try '--help'.\n";

const fn mistake(
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    code: i32,
    said: &'static str,
) -> Mistake {
    Mistake { args, env, code, said }
}

/// A flag that clap refuses, by its own words and ours.
const FLAGS: &[Mistake] = &[
    mistake(
        &["agent", "--login-meta", "eu"],
        &[],
        64,
        "error: invalid value 'eu' for '--login-meta <KEY=VALUE>': `eu`: write KEY=VALUE",
    ),
    mistake(
        &["agent", "--sentinels", "10.0.0.1"],
        &[],
        64,
        "error: invalid value '10.0.0.1' for '--sentinels <HOST:PORT>': `10.0.0.1` has no port: write host:port, or [v6]:port",
    ),
    mistake(
        &["agent", "--sentinels", "10.0.0.1:99999"],
        &[],
        64,
        "error: invalid value '10.0.0.1:99999' for '--sentinels <HOST:PORT>': `10.0.0.1:99999` has no valid port: \
         a port is a number from 1 to 65535",
    ),
    mistake(
        &["agent", "--group", "a b"],
        &[],
        64,
        "error: invalid value 'a b' for '--group <NAME[=SERVICE]>': group name `a b` must be 1 to 64 of A-Z a-z 0-9 . _ -",
    ),
    mistake(
        &["agent", "--zone", "EU-1"],
        &[],
        64,
        "error: invalid value 'EU-1' for '--zone <ZONE>': zone `EU-1` must be 1 to 58 of a-z 0-9 - and begin and end with a \
         letter or digit",
    ),
    mistake(
        &["agent", "--group", "redis=Cache_1"],
        &[],
        64,
        "error: invalid value 'redis=Cache_1' for '--group <NAME[=SERVICE]>': service name `Cache_1` must be 1 to 55 of \
         A-Z a-z 0-9 - and start with a letter or digit",
    ),
    mistake(
        &["status", "--timeout", "soon"],
        &[],
        64,
        "error: invalid value 'soon' for '--timeout <TIME>': `soon` is no length of time: write 500ms, 10s, 5m or 1h",
    ),
    mistake(
        &["status", "--watch", "1ms"],
        &[],
        64,
        "error: invalid value '1ms' for '--watch [<EVERY>]': at least 100ms",
    ),
    mistake(
        &["wait", "redis", "--replicas", "0"],
        &[],
        64,
        "error: invalid value '0' for '--replicas <COUNT>': 0 is not in 1..=65535",
    ),
    mistake(
        &["config", "redis", "quorum=most"],
        &[],
        64,
        "error: invalid value 'quorum=most' for '[KEY=VALUE]...': `most` is no number from 1 to 1000",
    ),
    mistake(
        &["config", "redis", "speed=1"],
        &[],
        64,
        "error: invalid value 'speed=1' for '[KEY=VALUE]...': `speed` is none of quorum, down_after, failover_timeout, \
         parallel_syncs, reboot_down_after",
    ),
    mistake(
        &["config", "redis", "quorum"],
        &[],
        64,
        "error: invalid value 'quorum' for '[KEY=VALUE]...': write KEY=VALUE, or KEY= to take it away",
    ),
    mistake(
        &["agent", "--listen", "localhost"],
        &[],
        64,
        "error: invalid value 'localhost' for '--listen <IP:PORT>': write ip:port, or [v6]:port",
    ),
    mistake(
        &["agent", "--resolver", "localhost"],
        &[],
        64,
        "error: invalid value 'localhost' for '--resolver <IP:PORT>': write ip:port, or [v6]:port",
    ),
    mistake(
        &["health", "nowhere"],
        &[],
        64,
        "error: invalid value 'nowhere' for '[HOST:PORT]': `nowhere` has no port: write host:port, or [v6]:port",
    ),
    mistake(
        &["maintenance", "sideways"],
        &[],
        64,
        "error: invalid value 'sideways' for '<on|off|list>'\n  [possible values: on, off, list]",
    ),
    mistake(
        &["agent", "--log-format", "xml"],
        &[],
        64,
        "error: invalid value 'xml' for '--log-format <FORMAT>'\n  [possible values: text, json]",
    ),
];

/// What we refuse ourselves.
const OURS: &[Mistake] = &[
    mistake(
        &["agent", "--sentinels", "10.0.0.1:26379", "--listen", "0.0.0.0:9790"],
        &[],
        64,
        "error: 0.0.0.0:9790 is open to others, and neither a token nor a client certificate is asked for\n\
         hint: give [http] token_file or client_ca (--listen-token-file, --listen-client-ca), or listen on 127.0.0.1\n",
    ),
    mistake(
        &["status", "--token-file", "/no/such/token"],
        &[],
        64,
        "error: cannot read the secret in /no/such/token: No such file or directory (os error 2)\n\
         hint: CONSUL_HTTP_TOKEN_FILE, --token-file or [consul] token_file names a file that this user can read, with \
         the token in it and nothing else\n",
    ),
    mistake(
        &["status", "--token-file", "/dev/null"],
        &[],
        64,
        "error: /dev/null is no secret: it is empty, longer than 16384 bytes, or not text\n\
         hint: CONSUL_HTTP_TOKEN_FILE, --token-file or [consul] token_file names a file that this user can read, with \
         the token in it and nothing else\n",
    ),
    mistake(
        &["plan"],
        &[("CONSUL_CLIENT_CERT", "/dev/null"), ("CONSUL_CLIENT_KEY", "/no/such/key")],
        64,
        "error: cannot read /no/such/key: No such file or directory (os error 2)\n\
         hint: CONSUL_CACERT, CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY, or [consul] in the config, name PEM files\n",
    ),
    mistake(
        &["health", "127.0.0.1:1"],
        &[],
        1,
        "error: Redis at 127.0.0.1:1: cannot connect: Connection refused (os error 111)\n\
         hint: another address: consul-redis health HOST:PORT; a Sentinel: SENTINEL=1, or port 26379\n",
    ),
    mistake(
        &["exec", "--", "nginx"],
        &[],
        64,
        "error: `nginx` runs neither redis-server nor redis-sentinel: write consul-redis exec -- redis-server ...\n",
    ),
    mistake(
        &["exec", "--", "redis-server", "-"],
        &[],
        64,
        "error: a config from standard input cannot be kept: give a file\n",
    ),
    mistake(
        &["exec", "--", "redis-server", "/no/such.conf"],
        &[],
        64,
        "error: there is no /no/such.conf\nhint: name the config that is in the image or on the host, or none at all\n",
    ),
    mistake(
        &["exec", "--announce", "a b", "--", "redis-server"],
        &[],
        64,
        "error: announce: `a b:6379` has no valid host: write an address, a DNS name, or [v6]:port\n",
    ),
    mistake(
        &["exec", "--announce", "127.0.0.1", "--", "redis-server", "--port", "0"],
        &[],
        64,
        "error: port 0 and no tls-port: no client can reach it\n",
    ),
    mistake(
        &["exec", "--announce", "127.0.0.1", "--", "redis-server"],
        &[("REDIS_QUORUM", "most")],
        64,
        "error: REDIS_QUORUM=most: write a number from 1 to 1000\n",
    ),
    mistake(
        &["exec", "--announce", "127.0.0.1", "--", "redis-server"],
        &[("SENTINEL_NAME", "a:b:c")],
        64,
        "error: SENTINEL_NAME: `a:b:c:26379` has no valid host: write an address, a DNS name, or [v6]:port\n",
    ),
    mistake(
        &["man", "/dev/null/man1"],
        &[],
        1,
        "error: cannot write to /dev/null/man1: Not a directory (os error 20)\n\
         hint: name a directory that this user may write to: consul-redis man /usr/local/share/man/man1\n",
    ),
    mistake(
        &["retire", "redis"],
        &[("CONSUL_HTTP_ADDR", "https://127.0.0.1:1")],
        69,
        "error: Consul at https://127.0.0.1:1 does not answer: Connection refused (os error 111)\n\
         hint: is Consul running there? set CONSUL_HTTP_ADDR or --http-addr\n",
    ),
];

#[test]
fn a_mistake_is_reported_with_what_to_do() {
    // Whatever exec writes before it sees what is wrong, it writes here.
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("a path");
    for Mistake { args, env, code, said } in FLAGS.iter().chain(OURS) {
        let env: Vec<(&str, &str)> =
            env.iter().copied().chain([("CONSUL_REDIS_DATA_DIR", data)]).collect();
        let (found, text) = run(args, &env);
        let end = if said.ends_with('\n') { "" } else { SEE_HELP };
        assert_eq!(text, format!("{said}{end}"), "{args:?}");
        assert_eq!(found, *code, "{args:?}");
    }
}

/// What the config file can get wrong, beside what snapshots have: the line, what is wrong, and what to do.
#[test]
fn a_mistake_in_the_file_is_reported_with_what_to_do() {
    let sentinels = "[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n";
    for (text, said) in [
        ("[http]\nlisten = \"9790\"\n", "hint: write ip:port, or [v6]:port\n"),
        (
            "[http]\nlisten = \"0.0.0.0:9790\"\n",
            "error: consul-redis.toml:2: 0.0.0.0:9790 is open to others, and neither a token nor a client certificate is asked for\n\
             hint: give [http] token_file or client_ca (--listen-token-file, --listen-client-ca), or listen on 127.0.0.1\n",
        ),
        (
            "[instances]\npassword_env = \"NO_SUCH_VARIABLE\"\n",
            "error: consul-redis.toml:1: password_env names NO_SUCH_VARIABLE, which is not set\n\
             hint: set the variable, or write password_file\n",
        ),
        (
            "[instances]\npassword_env = \"A\"\npassword_file = \"/a\"\n",
            "error: consul-redis.toml:1: password_file and password_env exclude each other\n\
             hint: keep the one that holds the password\n",
        ),
        (
            "[consul]\ntoken_file = \"/a\"\n[consul.login]\nmethod = \"nomad\"\nbearer_token_file = \"/jwt\"\n",
            "error: consul-redis.toml:3: a token (the one in /a) and a login to Consul contradict each other\n\
             hint: keep one: take [consul.login] and its flags away; or unset CONSUL_HTTP_TOKEN and \
             CONSUL_HTTP_TOKEN_FILE, and take token_file away. In a Nomad job a consul block in the task sets \
             CONSUL_HTTP_TOKEN\n",
        ),
        (
            "[consul.login]\nmethod = \"nomad\"\n",
            "error: consul-redis.toml:1: a login to Consul needs method and bearer_token_file\n\
             hint: give both: [consul.login], or --login-method and --bearer-token-file; \
             docs/how-to/log-in-by-identity.md\n",
        ),
        (
            "[consul]\nclient_cert = \"/a\"\n",
            "error: consul-redis.toml:2: client_cert and client_key are only of use together\nhint: give both, or neither\n",
        ),
        (
            "[consul]\naddress = \"ftp://consul\"\n",
            "error: consul-redis.toml:2: `ftp://consul` is no Consul address: write http://host:port, https://host:port, \
             host:port or unix:///path\n",
        ),
        (
            "[consul]\nprefix = \"a//b\"\n",
            "error: consul-redis.toml:2: prefix `a//b` must be names of A-Z a-z 0-9 . _ - with slashes between them\n",
        ),
        (
            "[[cluster]]\nname = \"redis\"\nseeds = [\"10.0.0.5:6379\"]\n",
            "error: consul-redis.toml:2: cluster `redis` and group `redis` cannot have one name\n",
        ),
        (
            "[[cluster]]\nname = \"orders\"\nservice = \"redis\"\nseeds = [\"10.0.0.5:6379\"]\n",
            "error: consul-redis.toml:2: group `redis` and cluster `orders` would both be published as `redis`\n\
             hint: give the cluster another service: service = \"...\"\n",
        ),
        (
            "[[cluster]]\nname = \"a.b\"\nseeds = [\"10.0.0.5:6379\"]\n",
            "error: consul-redis.toml:2: cluster `a.b` needs a service name, for DNS has none like it: \
             write service = \"...\"\n",
        ),
        (
            "[agent]\nname = \"a\"\n",
            "hint: docs/config.md has every key, docs/consul-redis.toml an example of each\n",
        ),
    ] {
        let error = super::config_error(&format!("{text}{sentinels}"));
        assert!(error.ends_with(said), "{text}\n{error}");
        assert!(error.starts_with("error: consul-redis.toml:"), "{text}\n{error}");
    }
}

/// What agents publish of a cluster leads to no cluster: with the last of its nodes it would be lost.
#[test]
fn a_service_that_agents_publish_is_none_to_find_the_nodes_under() {
    let hint = "\nhint: register the nodes under a service of their own, such as `NAME-nodes`, and write consul_service = \
                \"NAME-nodes\"\n";
    for (service, said, hint) in [
        (
            "Orders-replica",
            "cluster `orders` cannot find its nodes under service `Orders-replica`: that is what agents publish of \
             cluster `orders`",
            hint,
        ),
        (
            "redis-server",
            "cluster `orders` cannot find its nodes under service `redis-server`: that is what agents publish of group \
             `redis`",
            hint,
        ),
        ("a/b", "consul_service `a/b` is no service's name: write A-Z a-z 0-9 - _ .", "\n"),
    ] {
        let cluster = format!("[[cluster]]\nname = \"orders\"\nconsul_service = \"{service}\"\n");
        let error = super::config_error(&format!(
            "{cluster}[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n"
        ));
        assert_eq!(error, format!("error: consul-redis.toml:3: {said}{hint}"));
    }
}

#[test]
fn what_makes_no_cluster_is_reported_with_what_would() {
    for (text, said) in [
        (
            "[[cluster]]\nname = \"orders\"\nexpect = 4\n",
            "error: consul-redis.toml:3: 4 nodes make 2 shards: a cluster needs 3 at least, for two \
             primaries are no majority when one is dead\n",
        ),
        (
            "[[cluster]]\nname = \"orders\"\nexpect = 7\nshards = 3\nreplicas = 1\n",
            "error: consul-redis.toml:3: expect = 7 is not 3 shards with 1 replicas each: 6 nodes are\n",
        ),
        (
            "[[cluster]]\nname = \"orders\"\nshards = 3\n",
            "error: consul-redis.toml:3: shards needs expect: the number of nodes that are made into a \
             cluster\n",
        ),
        (
            "[[cluster]]\nname = \"orders\"\n[[redis]]\naddress = \"10.0.0.5:6379\"\ncluster = \"carts\"\n",
            "error: consul-redis.toml:5: cluster `carts` is not configured: add [[cluster]] name = \
             \"carts\"\n",
        ),
        (
            "[[cluster]]\nname = \"orders\"\n[[redis]]\naddress = \"10.0.0.5:6379\"\ngroup = \"redis\"\n\
             cluster = \"orders\"\n",
            "error: consul-redis.toml:5: a Redis belongs to a group or to a cluster: write one of \
             them\n",
        ),
    ] {
        let error = super::config_error(text);
        assert_eq!(error.lines().next(), said.lines().next(), "{text}\n{error}");
    }
}

#[test]
fn an_agent_with_clusters_alone_needs_no_sentinels_and_no_group() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("consul-redis.toml");
    let args = ["check-config", "--config", path.to_str().expect("a path")];
    let cluster = "[[cluster]]\nname = \"orders\"\nseeds = [\"10.0.0.5:6379\"]\n";
    std::fs::write(&path, cluster).expect("a file");
    let (code, said) = run(&args, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("orders as orders.service.consul, from 10.0.0.5:6379"), "{said}");
    assert!(!said.contains("redis-primary") && !said.contains("Sentinels"), "{said}");
    let more = "consul_service = \"redis-nodes\"\n";
    for (text, from) in [
        (format!("{cluster}{more}"), "from 10.0.0.5:6379, those of service redis-nodes"),
        (format!("[[cluster]]\nname = \"orders\"\n{more}"), "from those of service redis-nodes"),
        ("[[cluster]]\nname = \"orders\"\n".to_owned(), "from the nodes that agents stand beside"),
    ] {
        std::fs::write(&path, &text).expect("a file");
        let (code, said) = run(&args, &[]);
        assert!(code == 0 && said.contains(from), "{text}{said}");
    }
    std::fs::write(&path, format!("{cluster}[[group]]\nname = \"redis\"\n")).expect("a file");
    let (code, said) = run(&args, &[]);
    assert!(code == 64 && said.contains("no Sentinels"), "{said}");
}

/// What is found when a value is used, and not when the file is read, has its line all the same. So has each kind of
/// mistake that the parser finds, with the column.
#[test]
fn a_value_that_cannot_be_used_names_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("consul-redis.toml");
    let shown = path.display();
    for (text, said) in [
        ("[instances]\npassword_file = \"/no/such\"\n", "4: cannot read the secret in /no/such: "),
        (
            "[sentinels.login]\npassword_file = \"/no/such\"\n",
            "4: cannot read the secret in /no/such: ",
        ),
        ("[group]\n# /no/such\n", "line 3, column 1"),
        ("[agent]\nzone = \"EU-1\"\n", "line 4, column 8"),
        (
            "[[group]]\nname = \"redis\"\n[group.login]\npassword_file = '/no/such'\n",
            "6: cannot read the secret in /no/such: ",
        ),
        ("[[group]]\nname = \"redis\"\nconfirm_within = \"soon\"\n", "line 5, column 18"),
        ("[[group]]\nname = \"redis\"\nmark = \"a key\"\n", "5: mark `a key` must be 1 to 128 of "),
        ("[[group]]\nservice = \"redis\"\n", "line 3, column 1"),
        (
            "[instances]\ntls = true\nca_cert = \"/no/such.pem\"\n",
            "5: TLS: cannot read /no/such.pem: ",
        ),
        (
            "[consul]\n# \"/no/such\"\ntoken_file = \"/no/such\"\n",
            "5: cannot read the secret in /no/such: ",
        ),
        ("[consul]\nca_cert = \"/no/such.pem\"\n", "4: cannot read /no/such.pem: "),
        ("[log]\nlevel = \"loud\"\n", "4: `loud` is no log level: "),
        (
            "[[template]]\nsource = \"/no/such.j2\"\ndestination = \"/tmp/no-such\"\n",
            "4: cannot read /no/such.j2: ",
        ),
        (
            "[[template]]\nsource = \"/dev/null\"\ndestination = \"/tmp/no-such\"\nowner = \"no-such-user:\"\n",
            "5: /tmp/no-such: there is no user `no-such-user`",
        ),
    ] {
        let text = format!("[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n{text}");
        std::fs::write(&path, &text).expect("a file");
        let (code, error) = run(&["check-config", "--config", path.to_str().expect("a path")], &[]);
        assert_eq!(code, 64, "{text}{error}");
        let parsed = format!("error: {shown}: TOML parse error at {said}");
        let used = format!("error: {shown}:{said}");
        assert!(error.starts_with(&parsed) || error.starts_with(&used), "{text}{error}");
    }
    // What is not in the file is not said to be.
    std::fs::write(&path, "[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n").expect("a file");
    let args = ["check-config", "--config", path.to_str().expect("a path")];
    let (_, error) = run(&args, &[("CONSUL_REDIS_LOG", "loud")]);
    assert!(error.starts_with("error: `loud` is no log level: "), "{error}");
}

#[test]
fn a_template_that_cannot_be_used_names_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("app.env.j2");
    let config = dir.path().join("consul-redis.toml");
    let write = |path: &Path, text: &str| std::fs::write(path, text).expect("a file");
    let entry = |more: &str| {
        let (source, destination) = (source.display(), dir.path().join("app.env"));
        format!(
            "[[template]]\nsource = '{source}'\ndestination = '{}'\n{more}",
            destination.display()
        )
    };
    let hint = "\nhint: consul-redis render --print shows what a template makes; docs/consumers.md has what it sees\n";
    let owner = "\nhint: owner = \"user:group\", of users and groups that this machine knows\n";
    let no_user = "app.env: there is no user `no-such-user`";
    for (template, more, said, hint) in [
        ("a\n{% if %}\n", "", "app.env.j2:2: syntax error: ", hint),
        ("{{ nothing", "", "app.env.j2:1: syntax error: ", hint),
        ("a", "owner = 'no-such-user:'\n", no_user, owner),
    ] {
        write(&source, template);
        write(&config, &entry(more));
        let (code, error) =
            run(&["render", "--once", "--config", config.to_str().expect("a path")], &[]);
        assert_eq!(code, 64, "{error}");
        assert!(error.contains(said) && error.ends_with(hint), "{error}");
    }
    std::fs::remove_file(&source).expect("it is there");
    write(&config, &entry(""));
    let (code, error) =
        run(&["render", "--once", "--config", config.to_str().expect("a path")], &[]);
    assert_eq!(code, 64, "{error}");
    assert!(error.contains("app.env.j2: No such file") && error.ends_with(hint), "{error}");
}
