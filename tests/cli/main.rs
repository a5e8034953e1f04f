//! The command line as a person meets it: help, and every error that a person can make before anything is
//! started, word for word.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod errors;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// Runs the program in an environment of its own; its exit code and all that it printed.
pub fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_consul-redis"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .expect("the program runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code().unwrap_or(-1), text)
}

/// The error of a config file, with the file's name as it was given.
pub fn config_error(text: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("consul-redis.toml");
    std::fs::write(&path, text).expect("the file");
    let (code, error) = run(&["plan", "--config", path.to_str().expect("a path")], &[]);
    assert_eq!(code, 64, "{error}");
    error.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn help_says_it_all() {
    insta::assert_snapshot!("help", run(&["--help"], &[]).1);
    for command in [
        "agent",
        "init",
        "check-config",
        "exec",
        "health",
        "status",
        "history",
        "wait",
        "doctor",
        "plan",
        "render",
        "retire",
        "adopt",
        "switchover",
        "config",
        "forget",
        "support-bundle",
        "demo",
        "completions",
        "man",
    ] {
        let (code, text) = run(&[command, "-h"], &[]);
        assert_eq!(code, 0);
        let own: Vec<&str> =
            text.lines().take_while(|line| !line.starts_with("Options:")).collect();
        insta::assert_snapshot!(format!("help-{command}"), own.join("\n"));
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    for args in [&["nonsense"][..], &["status", "--nonsense"], &[], &["agent", "--group", "a b"]] {
        assert_eq!(run(args, &[]).0, 64, "{args:?}");
    }
    assert_eq!(run(&["--version"], &[]).0, 0);
}

#[test]
fn an_unknown_key_names_its_line() {
    insta::assert_snapshot!(config_error("[[group]]\nname = \"redis\"\nservce = \"cache\"\n"));
}

#[test]
fn a_secret_in_the_config_gets_a_hint() {
    insta::assert_snapshot!(config_error("[instances]\npassword = \"hunter2\"\n"));
}

#[test]
fn a_bad_address_says_what_to_write() {
    insta::assert_snapshot!(config_error("[sentinels]\naddresses = [\"10.0.0.1\"]\n"));
}

#[test]
fn a_bad_time_says_what_to_write() {
    insta::assert_snapshot!(config_error(
        "[[group]]\nname = \"redis\"\nconfirm_within = \"soon\"\n"
    ));
}

#[test]
fn a_bad_quorum_says_what_to_write() {
    insta::assert_snapshot!(config_error(
        "[[group]]\nname = \"redis\"\n[group.settings]\nquorum = \"most\"\n"
    ));
}

#[test]
fn a_group_that_is_there_twice_names_its_line() {
    insta::assert_snapshot!(config_error(
        "[[group]]\nname = \"redis\"\n\n[[group]]\nname = \"redis\"\n"
    ));
}

#[test]
fn groups_with_one_service_name_are_refused() {
    insta::assert_snapshot!(
        "collision-in-file",
        config_error(
            "[[group]]\nname = \"redis\"\n\n[[group]]\nname = \"cache\"\nservice = \"redis-primary\"\n"
        )
    );
    let flags = ["plan", "--group", "a=cache", "--group", "b=cache"];
    insta::assert_snapshot!("collision-in-flags", run(&flags, &[]).1);
    let sentinels = ["plan", "--group", "a=redis-sentinel"];
    insta::assert_snapshot!("collision-with-sentinels", run(&sentinels, &[]).1);
    insta::assert_snapshot!("reserved-name", run(&["plan", "--group", "sentinels"], &[]).1);
}

#[test]
fn a_group_that_dns_cannot_name_needs_a_service() {
    insta::assert_snapshot!(run(&["plan", "--group", "my_master.1"], &[]).1);
}

#[test]
fn a_server_of_no_group_names_its_line() {
    insta::assert_snapshot!(
        "unknown-group",
        config_error("[[redis]]\naddress = \"10.0.0.1:6379\"\ngroup = \"cache\"\n")
    );
    insta::assert_snapshot!(
        "which-group",
        config_error(
            "[[group]]\nname = \"a\"\n[[group]]\nname = \"b\"\n[[redis]]\naddress = \"10.0.0.1:6379\"\n"
        )
    );
}

#[test]
fn a_template_that_cannot_be_right_names_its_line() {
    let entry = |more: &str| {
        config_error(&format!("[[template]]\nsource = \"a\"\ndestination = \"b\"\n{more}\n"))
    };
    for (name, more) in [
        ("template-mode", "mode = \"rw-r--r--\""),
        ("template-owner", "owner = \":\""),
        ("template-check-without-file", "check = [\"true\"]"),
        ("template-command-without-program", "command = []"),
        ("template-command-as-text", "command = \"reload\""),
        ("template-twice", "[[template]]\nsource = \"c\"\ndestination = \"b\""),
        ("template-no-writer", "on_no_writer = \"empty\""),
    ] {
        insta::assert_snapshot!(name, entry(more));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("exec.toml");
    std::fs::write(&path, "[[template]]\nsource = \"a\"\ndestination = \"b\"\n").expect("a file");
    let config = path.to_str().expect("a path");
    let (code, error) = run(&["exec", "--config", config, "--", "redis-server"], &[]);
    assert_eq!(code, 64);
    insta::assert_snapshot!("exec-renders-nothing", error);
    let (code, error) = run(&["render", "--once"], &[]);
    assert_eq!(code, 64);
    insta::assert_snapshot!("nothing-to-render", error);
}

#[test]
fn a_target_that_cannot_be_right_names_its_line() {
    for (more, said) in [
        ("name = \"a\"", ":2: [[notify]] `a` needs one of url, url_file and command"),
        ("name = \"a\"\nurl = \"http://b\"\ncommand = [\"c\"]", "needs one of"),
        ("name = \"a b\"\nurl = \"http://b\"", ":2: name `a b` is none"),
        ("name = \"a\"\nurl = \"b.example\"", ":3: url: it is no URL"),
        ("name = \"a\"\nurl = \"ftp://b\"", ":3: url: it is no URL: it has to begin with http"),
        ("name = \"a\"\ncommand = []", ":3: command names no program"),
        ("name = \"a\"\ncommand = [\"b\"]\nbody = \"c\"", ":4: body is for a URL"),
        ("name = \"a\"\nurl = \"http://b\"\nkey_file = \"c\"", ":4: key_file is for a template"),
        ("name = \"a\"\nurl = \"http://b\"\nevents = []", ":4: [[notify]] `a` is told of no event"),
        ("name = \"a\"\nurl = \"http://b\"\nevents = [\"swich\"]", "unknown variant `swich`"),
        ("name = \"a\"\nurl = \"http://b\"\ngroups = [\"c\"]", ":4: `c` is no [[group]]"),
        ("name = \"a\"\nurl = \"http://b\"\ntries = 0", ":4: tries is a number from 1 to 20"),
        (
            "name = \"a\"\nurl = \"http://b\"\n[[notify]]\nname = \"a\"\nurl = \"http://b\"",
            ":5: two [[notify]] are called `a`",
        ),
    ] {
        let error = config_error(&format!("[[notify]]\n{more}\n"));
        assert!(error.contains(said), "{more}: {error}");
    }
}

/// The bodies that are ready come to JSON, whatever happens; one that does not is refused before it is sent.
#[test]
fn bodies_are_tried_before_they_are_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.toml");
    let check = |body: &str| {
        let key = dir.path().join("key");
        std::fs::write(&key, "hunter2\n").expect("a key");
        let text = format!(
            "[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n[[notify]]\nname = \"a\"\nurl = \"https://a.example\"\n\
             body = \"{body}\"\nkey_file = {key:?}\n"
        );
        std::fs::write(&path, text).expect("a file");
        run(&["check-config", "--config", path.to_str().expect("a path")], &[])
    };
    let root = env!("CARGO_MANIFEST_DIR");
    for ready in ["slack", "pagerduty", "alertmanager"] {
        let (code, said) = check(&format!("{root}/templates/notify/{ready}.json.j2"));
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("a, a URL, of proof"), "{said}");
    }
    let own = dir.path().join("own.j2");
    let own_path = own.to_str().expect("a path");
    for (source, words) in [
        ("{\"text\": \"{{ txt }}\"}", "own.j2:1: undefined value: `txt` is undefined"),
        ("{\"text\": \"{{ text }}\"}", "own.j2 does not come to JSON for `proof`"),
        ("{\"new\": {{ new }}}", "own.j2 does not come to JSON for"),
    ] {
        std::fs::write(&own, source).expect("a template");
        let (code, said) = check(own_path);
        assert_eq!(code, 64, "{said}");
        assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
    }
    let (code, said) = check("/no/such.j2");
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("cannot read /no/such.j2"), "{said}");
}

#[test]
fn certificates_without_tls_are_a_contradiction() {
    insta::assert_snapshot!(config_error("[instances]\ntls = false\nca_cert = \"/ca.pem\"\n"));
}

#[test]
fn a_listener_that_cannot_be_meant_is_refused() {
    let http = |more: &str| config_error(&format!("[http]\nlisten = \"0.0.0.0:9790\"\n{more}"));
    insta::assert_snapshot!("listen-open-to-all", http(""));
    insta::assert_snapshot!("listen-half-a-pair", http("tls_cert = \"/cert.pem\"\n"));
    insta::assert_snapshot!("listen-plain-with-authority", http("client_ca = \"/ca.pem\"\n"));
    let flags = ["plan", "--listen", "0.0.0.0:0", "--listen-cert", "/c", "--listen-key", "/k"];
    insta::assert_snapshot!("listen-tls-open-to-all", run(&flags, &[]).1);
}

#[test]
fn a_missing_file_is_named() {
    let (code, error) = run(&["plan", "--config", "/no/such/file"], &[]);
    assert_eq!(code, 64);
    insta::assert_snapshot!(error);
}

#[test]
fn an_agent_without_sentinels_says_how_to_name_them() {
    let (code, error) = run(&["agent"], &[]);
    assert_eq!(code, 64);
    insta::assert_snapshot!(error);
}

#[test]
fn the_environment_is_checked_like_everything_else() {
    for (name, env) in [
        ("bad-address", ("CONSUL_HTTP_ADDR", "ftp://consul")),
        ("bad-ssl", ("CONSUL_HTTP_SSL", "perhaps")),
        ("half-a-certificate", ("CONSUL_CLIENT_CERT", "/cert.pem")),
        ("bad-prefix", ("CONSUL_REDIS_PREFIX", "a//b")),
        ("bad-sentinel", ("CONSUL_REDIS_SENTINELS", "10.0.0.1:26379,10.0.0.2")),
        ("bad-level", ("CONSUL_REDIS_PUBLISH", "perhaps")),
        ("no-ca", ("CONSUL_CACERT", "/no/such/ca.pem")),
    ] {
        let (code, error) = run(&["plan"], &[env]);
        assert_eq!(code, 64, "{error}");
        insta::assert_snapshot!(name, error);
    }
}

#[test]
fn a_bad_log_level_is_reported_before_anything_starts() {
    let args = ["agent", "--sentinels", "127.0.0.1:1", "--log", "loud=very=much"];
    let (code, error) = run(&args, &[]);
    assert_eq!(code, 64);
    insta::assert_snapshot!(error);
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    // As compose files do with ${VARIABLE:-}.
    let names = [
        "CONSUL_HTTP_ADDR",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_HTTP_TOKEN_FILE",
        "CONSUL_HTTP_SSL",
        "CONSUL_CACERT",
        "CONSUL_REDIS_SENTINELS",
        "CONSUL_REDIS_GROUP",
        "CONSUL_REDIS_PUBLISH",
        "CONSUL_REDIS_PASSWORD",
        "CONSUL_REDIS_RESOLVER",
        "CONSUL_REDIS_TIMEOUT",
        "CONSUL_REDIS_TLS",
    ];
    let env: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    assert_eq!(run(&["agent"], &env), run(&["agent"], &[]));
}

#[test]
fn consul_that_does_not_answer_is_69_with_a_hint() {
    let (code, error) = run(&["status"], &[("CONSUL_HTTP_ADDR", "127.0.0.1:1")]);
    assert_eq!(code, 69);
    insta::assert_snapshot!(error);
}

/// What the program answers a shell that has these words, the last of which is not complete.
fn completed(shell: &str, words: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let index = words.len().to_string();
    let asked = [
        ("CONSUL_REDIS_COMPLETE", shell),
        ("_CLAP_COMPLETE_INDEX", index.as_str()),
        ("_CLAP_IFS", "\n"),
    ];
    let args = [&["--", "consul-redis"][..], words].concat();
    let (code, said) = run(&args, &[&asked[..], env].concat());
    assert_eq!(code, 0, "{said}");
    // Some shells want a word's meaning behind it, and one an escape before a colon.
    let word = |line: &str| line.split(['\t', ':']).next().unwrap_or_default().trim().to_owned();
    said.lines().map(word).filter(|word| !word.is_empty()).collect()
}

#[test]
fn every_shell_completes_every_command_and_flag() {
    let help = run(&["--help"], &[]).1;
    let commands = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        // Where nothing is set up yet, and what is set up cannot be used.
        let broken = [("CONSUL_HTTP_ADDR", "ftp://consul")];
        let (code, script) = run(&["completions", shell], &broken);
        assert_eq!((code, script.contains("CONSUL_REDIS_COMPLETE")), (0, true), "{script}");
        let known = completed(shell, &[""], &broken);
        for word in &commands {
            assert!(known.iter().any(|one| one == word), "{shell} does not know {word}: {known:?}");
        }
        let known = completed(shell, &["wait", "--re"], &broken);
        assert!(known.iter().any(|one| one.starts_with("--replicas")), "{shell}: {known:?}");
    }
}

/// Of the config that the line names; Consul does not answer here, and tests/e2e/scripts.rs has one that does.
#[test]
fn every_command_that_takes_a_group_completes_those_of_the_config() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, "[[group]]\nname = \"cache\"\n[[group]]\nname = \"queue\"\n")
        .expect("the file");
    let away = [("CONSUL_HTTP_ADDR", "127.0.0.1:1")];
    let named = [("CONSUL_HTTP_ADDR", "127.0.0.1:1"), ("CONSUL_REDIS_CONFIG", path)];
    let groups_only = |words: &[&str], env: &[(&str, &str)]| {
        let all = completed("bash", words, env);
        all.into_iter().filter(|word| !word.starts_with('-')).collect::<Vec<_>>()
    };
    for command in ["history", "wait", "doctor", "retire", "adopt", "config", "switchover"] {
        let groups = groups_only(&["--config", path, command, ""], &away);
        assert_eq!(groups, ["cache", "queue"], "{command}");
        assert_eq!(completed("fish", &[command, "q"], &named), ["queue"], "{command}");
    }
    let groups = groups_only(&["status", "--config", path, "--group", ""], &away);
    assert_eq!(groups, ["cache", "queue"]);
    // A config that cannot be read names none, and Bash itself takes it.
    std::fs::write(&file, "[[group]\n").expect("the file");
    assert_eq!(groups_only(&["wait", ""], &named), [""; 0]);
    std::fs::write(&file, "[[group]]\nname = \"cache\"\n").expect("the file");
    let script = run(&["completions", "bash"], &[]).1;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_consul-redis"));
    let path_dir = program.parent().expect("a directory").display();
    let asked = format!(
        "
        export PATH={path_dir}:$PATH CONSUL_REDIS_CONFIG={path} CONSUL_HTTP_ADDR=127.0.0.1:1
        completing=$(complete -p consul-redis); completing=${{completing#*-F }}
        COMP_WORDS=(consul-redis switchover c) COMP_CWORD=2 COMP_TYPE=9
        ${{completing%% *}} consul-redis c switchover
        echo \"${{COMPREPLY[*]}}\""
    );
    let asked_file = dir.path().join("asked.bash");
    std::fs::write(&asked_file, script + &asked).expect("the script");
    let bash = Command::new("bash").arg(&asked_file).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "cache", "{bash:?}");
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man1");
    let (code, said) = run(&["man", pages.to_str().expect("a path")], &[]);
    assert_eq!((code, said.as_str()), (0, ""));
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).expect(name);
    assert!(page("consul-redis.1").contains("Keeps Consul pointing at the Redis writer"));
    assert!(page("consul-redis.1").contains("Exit codes:"));
    assert!(page("consul-redis-switchover.1").contains("without losing a write"));
    let (code, refused) = run(&["man", "/dev/null/man1"], &[]);
    assert_eq!(code, 1, "{refused}");
}

#[test]
fn waiting_has_an_end() {
    let away = [("CONSUL_HTTP_ADDR", "127.0.0.1:1")];
    let (code, error) = run(&["wait", "redis", "--timeout", "300ms"], &away);
    assert_eq!(code, 69);
    insta::assert_snapshot!("wait-without-consul", error);
    let both = ["wait", "redis", "--primary", "--replicas", "2"];
    assert_eq!(run(&both, &away).0, 64);
}

#[test]
fn a_config_is_checked_down_to_its_secrets_and_templates() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("the file");
    let check = || {
        let (code, text) = run(&["check-config", "--config", &at("agent.toml")], &[]);
        (code, text.replace(&format!("{}/", dir.path().display()), ""))
    };
    write(
        "agent.toml",
        &format!(
            "[sentinels]\naddresses = [\"10.0.0.1:26379\", \"10.0.0.2:26379\"]\n\
             [consul]\ntoken_file = \"{}\"\n[http]\nlisten = \"127.0.0.1:9790\"\n\
             [[group]]\nname = \"mymaster\"\nservice = \"cache\"\npublish = \"quorum\"\n\
             [[redis]]\naddress = \"10.0.0.1:6379\"\n\
             [[template]]\nsource = \"{}\"\ndestination = \"{}\"\n",
            at("token"),
            at("writer.j2"),
            at("writer"),
        ),
    );
    write("token", "secret");
    set_mode(&at("token"), 0o640);
    write("writer.j2", "{{ groups.mymaster.writer }}");
    let (code, good) = check();
    assert_eq!(code, 0, "{good}");
    insta::assert_snapshot!("checked", good);
    for (mode, is_open) in [(0o600, false), (0o644, true), (0o604, true), (0o660, false)] {
        set_mode(&at("token"), mode);
        let (code, said) = check();
        let warned = said.contains("warning: every user may read the secret in token: chmod");
        assert_eq!((code, warned), (0, is_open), "{mode:o}: {said}");
    }
    set_mode(&at("token"), 0o600);
    // Good, and unwise: a setting that agents keep.
    let sound = std::fs::read_to_string(at("agent.toml")).expect("the file");
    for (down_after, warned) in [("1100ms", true), ("1499ms", true), ("1500ms", false)] {
        write("agent.toml", &format!("{sound}[group.settings]\ndown_after = \"{down_after}\"\n"));
        let (code, said) = check();
        assert_eq!(
            (code, said.contains("warning: group mymaster: down_after")),
            (0, warned),
            "{said}"
        );
    }
    write("agent.toml", &sound);
    for (name, text) in [("writer.j2", "{{ groups. }}"), ("token", "")] {
        let before = std::fs::read_to_string(at(name)).expect("the file");
        write(name, text);
        let (code, wrong) = check();
        write(name, &before);
        assert_eq!(code, 64, "{wrong}");
        insta::assert_snapshot!(format!("checked-{name}"), wrong);
    }
}

fn set_mode(path: &str, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the file");
}

/// Good as far as it can be said without a server, and it would not do what is wanted.
#[test]
fn what_a_template_lacks_is_a_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("run"), "#!/bin/sh\n").expect("the file");
    let said = |source: &str, destination: &str, program: &str, path: Option<&str>| {
        let (from, to) = (at("a.j2"), at(destination));
        let text = format!(
            "[[group]]\nname = \"cache\"\n[[template]]\nsource = \"{from}\"\ndestination = \"{to}\"\n\
             check = [\"{program}\", \"{{}}\"]\ncommand = [\"{program}\"]\n"
        );
        std::fs::write(at("a.toml"), text).expect("the file");
        std::fs::write(&from, source).expect("the file");
        let env: Vec<(&str, &str)> = path.map(|path| ("PATH", path)).into_iter().collect();
        let (code, said) = run(&["check-config", "--config", &at("a.toml")], &env);
        assert_eq!(code, 0, "{said}");
        let said = said.replace(&format!("{}/", dir.path().display()), "");
        let warnings = said.lines().filter_map(|line| line.trim().strip_prefix("warning: "));
        warnings.map(str::to_owned).collect::<Vec<_>>()
    };
    let whole = "{{ groups.cache.writer.host }} {{ groups['cache'].replicas[1].port }}\n\
                 {% for i in groups.cache.instances %}{{ i.role }} {% endfor %}\n";
    let no_program = |program| {
        ["check", "command"].map(|key| {
            format!("template a: its `{key}` runs {program}, and there is no such program")
        })
    };
    let here = dir.path().to_str();
    assert_eq!(said(whole, "a", &at("run"), None), no_program("run"), "not executable");
    set_mode(&at("run"), 0o755);
    assert_eq!(said(whole, "a", &at("run"), None), [""; 0]);
    assert_eq!(said(whole, "a", "run", here), [""; 0]);
    assert_eq!(said(whole, "a", "walk", here), no_program("walk"));
    assert_eq!(said(whole, "a", &at("walk"), None), no_program("walk"));
    let lacks = |source: &str, why: &str| {
        let wanted = format!("template a: with a writer and two replicas, a.j2:1: {why}");
        assert!(said(source, "a", "run", here)[0].starts_with(&wanted), "{source}");
    };
    lacks("{{ groups.cache.writer | nosuch }}", "unknown filter");
    lacks("{{ groups.redis.writer }}", "undefined value");
    lacks("{{ groups.cache.writer.hots }}", "undefined value");
    let away = said(whole, "b/c/a", "run", here);
    assert_eq!(away, ["template b/c/a: there is no directory b/c"]);
}

/// What `render` reads is not asked for Sentinels, and checked all the same.
#[test]
fn a_config_that_only_renders_is_checked_as_such() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let template =
        format!("[[template]]\nsource = \"{}\"\ndestination = \"{}\"\n", at("a.j2"), at("a"));
    std::fs::write(at("a.toml"), template).expect("the file");
    for (source, wanted) in [
        ("{{ groups.redis.writer }}", (0, "none: for `consul-redis render`, and for no agent")),
        ("{{ groups. }}", (64, "a.j2:1: syntax error")),
        ("\n{% for %}", (64, "a.j2:2: syntax error")),
    ] {
        std::fs::write(at("a.j2"), source).expect("the file");
        let (code, said) = run(&["check-config", "--config", &at("a.toml")], &[]);
        assert_eq!((code, said.contains(wanted.1)), (wanted.0, true), "{source}: {said}");
    }
}

#[test]
fn a_mistyped_key_and_a_mistyped_table_get_a_hint_of_their_own() {
    for (config, hint) in [
        ("[instances]\npasswd_file = \"/x\"\n", "hint: did you mean `password_file`?"),
        ("[log]\nlevl = \"debug\"\n", "hint: did you mean `level`?"),
        ("[instance]\ntls = true\n", "hint: did you mean `instances`?"),
        ("[log]\ncolour = true\n", "hint: docs/config.md has every key"),
        ("[group]\nname = \"redis\"\n", "hint: there may be several: write it as [[group]]"),
        ("[template]\nsource = \"a\"\n", "hint: there may be several: write it as [[group]]"),
    ] {
        let said = config_error(config);
        assert!(said.contains(hint), "{config}: {said}");
    }
}

/// The files of a support bundle, by name.
fn unpacked(path: &std::path::Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(path).expect("the bundle");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().expect("entries");
    let read = entries.map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        (name.trim_start_matches("consul-redis-support/").to_owned(), text)
    });
    read.collect()
}

#[test]
fn a_support_bundle_has_no_secret_whatever_holds_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("the file");
    let secrets = ["hunter2-token", "hunter2-\"redis\"", "hunter2-sentinel", "hunter2-comment"];
    write("token", secrets[0]);
    write("redis-password", &format!("{}\n", secrets[1]));
    // What another program wrote into the log.
    write("agent.log", &format!("started\nAUTH {} {}\nAUTH ab cab ab,\n", secrets[1], secrets[2]));
    let config = format!(
        "# the password is {}\n[consul]\naddress = \"http://127.0.0.1:1\"\ntoken_file = \"{}\"\n\
         [sentinels]\naddresses = [\"127.0.0.1:1\"]\n[instances]\npassword_file = \"{}\"\n\
         [[group]]\nname = \"redis\"\n\
         [[template]]\nsource = \"a\"\ndestination = \"b\"\ncommand = [\"curl\", \"-u\", \"me:hunter2-command\"]\n",
        secrets[3],
        at("token"),
        at("redis-password")
    );
    write("agent.toml", &config);
    let (bundle, log) = (at("bundle.tar.gz"), at("agent.log"));
    let config = at("agent.toml");
    let args = ["support-bundle", &bundle, "--log-file", &log, "--config", &config];
    let env = [("CONSUL_REDIS_SENTINEL_PASSWORD", secrets[2]), ("CONSUL_HTTP_AUTH", "user:ab")];
    // Nothing answers here: it says so in the file, and is written all the same.
    let (code, said) = run(&args, &env);
    assert_eq!(code, 0, "{said}");
    let files = unpacked(std::path::Path::new(&bundle));
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let wanted = [
        "about.json",
        "clusters.json",
        "config.json",
        "doctor.json",
        "history.json",
        "log-0-agent.log",
        "status.json",
    ];
    assert_eq!(names, wanted);
    for (name, text) in &files {
        assert!(!text.contains("hunter2") && !text.is_empty(), "{name}: {text}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    let log = "started\nAUTH (secret) (secret)\nAUTH (secret) cab (secret),\n";
    assert_eq!(files["log-0-agent.log"], log);
    assert!(files["config.json"].contains("password_file"), "{}", files["config.json"]);
    assert!(files["about.json"].contains("CONSUL_HTTP_AUTH"), "{}", files["about.json"]);
    assert!(files["status.json"].contains("127.0.0.1:1"), "{}", files["status.json"]);
    let mode = std::fs::metadata(&bundle).expect("the bundle").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, again) = run(&args, &env);
    assert_eq!(code, 1, "{again}");
    assert!(again.contains("File exists"), "{again}");
}

#[test]
fn init_says_what_it_needs_and_writes_over_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().display().to_string();
    let file = dir.path().join("consul-redis.toml");
    let (code, said) = run(&["init", "--dir", &to], &[]);
    assert_eq!(code, 64, "{said}");
    insta::assert_snapshot!("init-without-sentinels", said);
    let (code, said) = run(&["init", "--mode", "node", "--sentinels", "127.0.0.1:1"], &[]);
    assert_eq!((code, said.contains("--host <HOST>")), (64, true), "{said}");
    // No Sentinel answers, so the group is not known.
    let unnamed = ["init", "--dir", &to, "--sentinels", "127.0.0.1:1"];
    let (code, said) = run(&unnamed, &[]);
    assert_eq!(code, 1, "{said}");
    insta::assert_snapshot!("init-without-group", said);
    let named = ["init", "--dir", &to, "--sentinels", "127.0.0.1:1", "--group", "my_group=cache"];
    // The file that the package brings sets nothing.
    std::fs::write(&file, "# nothing\n\n#[consul]\n").expect("the file");
    let (code, said) = run(&named, &[("CONSUL_REDIS_PASSWORD_FILE", "/etc/redis-password")]);
    assert_eq!(code, 0, "{said}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
    insta::assert_snapshot!("init-config", read("consul-redis.toml"));
    insta::assert_snapshot!("init-agent-policy", read("agent-policy.hcl"));
    insta::assert_snapshot!("init-reader-policy", read("reader-policy.hcl"));
    let (code, said) = run(&named, &[]);
    assert_eq!((code, said.contains("is there already")), (1, true), "{said}");
    let forced = [&named[..], &["--force", "--mode", "node", "--host", "127.0.0.1"]].concat();
    let (code, said) = run(&forced, &[]);
    assert_eq!(code, 0, "{said}");
    let config = file.display().to_string();
    let (code, checked) = run(&["check-config", "--config", &config], &[]);
    assert_eq!(code, 0, "{checked}");
    assert!(checked.contains("Redis 127.0.0.1:6379"), "{checked}");
}

#[test]
fn a_config_that_only_publishes_is_named_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.toml");
    let sentinels = "[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n[[group]]\nname = \"redis\"\n";
    let said = |more: &str| {
        std::fs::write(&file, format!("{sentinels}{more}")).expect("the file");
        let (code, text) = run(&["check-config", "--config", file.to_str().expect("a path")], &[]);
        assert_eq!(code, 0, "{text}");
        text
    };
    let only = "manage = false: no instance and no Sentinel is changed";
    assert!(said("manage = false\n").contains(only));
    assert!(!said("").contains("manage"));
    // Some of it is managed again.
    assert!(!said("manage = false\nfence = true\n").contains("manage"));
}

#[test]
fn a_secret_is_not_shown_wherever_it_stands_in_its_line() {
    let said = config_error("[sentinels]\nlogin = { username = \"a\", password = \"hunter2\" }\n");
    assert!(said.contains("unknown field `password`") && !said.contains("hunter2"), "{said}");
}
