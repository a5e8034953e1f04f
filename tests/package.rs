//! The Debian package and the RPM: what is in them, and what becomes of a clean system when one is installed, upgraded,
//! removed and purged.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_consul-redis");
const CONFIG: &str = "etc/consul-redis/consul-redis.toml";
/// What enabling the service makes.
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/consul-redis.service";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    said(&output)
}

/// A package of the program of this build, as `make deb` makes it, but quickly.
fn package(dir: &Path) -> PathBuf {
    built("deb", "1.0-1", dir)
}

/// One of this kind and version.
fn built(kind: &str, version: &str, dir: &Path) -> PathBuf {
    let dir = dir.join(format!("{kind}-{version}"));
    let script = root().join("scripts/package.sh");
    let build = [kind, PROGRAM, dir.to_str().expect("a path"), version];
    let uncompressed = [("DPKG_DEB_COMPRESSOR_TYPE", "none"), ("RPM_PAYLOAD", "w.ufdio")];
    succeeds(Command::new(script).args(build).envs(uncompressed));
    let file = std::fs::read_dir(&dir).expect("a directory").flatten().map(|entry| entry.path());
    let packages: Vec<_> =
        file.filter(|path| path.extension().is_some_and(|e| e == kind)).collect();
    assert_eq!(packages.len(), 1, "{packages:?}");
    packages.into_iter().next().expect("a package")
}

/// The same package with a higher version and another line in the config that it brings.
fn next_version(package: &Path, dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    succeeds(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("a file");
    assert!(text.contains("\nVersion: 1.0-1\n"), "{text}");
    std::fs::write(&control, text.replace("Version: 1.0-1", "Version: 1.1-1")).expect("a file");
    let config = tree.join(CONFIG);
    let text = std::fs::read_to_string(&config).expect("a file");
    std::fs::write(&config, format!("{text}# new in 1.1\n")).expect("a file");
    let next = dir.join("next.deb");
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Znone", "--build"]).arg(&tree).arg(&next);
    succeeds(&mut build);
    next
}

/// A clean Debian, as it is after its installation.
struct Clean(TempDir);

impl Clean {
    fn new() -> Self {
        let made = root().join(".tools/debian-root");
        assert!(made.exists(), "no clean Debian: run scripts/tools.sh tests");
        let dir = tempfile::tempdir().expect("a directory");
        succeeds(Command::new("cp").arg("-a").arg(format!("{}/.", made.display())).arg(dir.path()));
        Self(dir)
    }

    /// A command in there, as root.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = match nix::unistd::geteuid().is_root() {
            true => Command::new("chroot"),
            false => {
                let mut command = Command::new("unshare");
                command.args(["--map-root-user", "chroot"]);
                command
            }
        };
        command
            .arg(self.0.path())
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        succeeds(&mut self.command(words))
    }

    #[track_caller]
    fn install(&self, package: &Path) -> String {
        std::fs::copy(package, self.path("package.deb")).expect("a copy");
        let said = self.run(&["dpkg", "--force-confold", "--install", "/package.deb"]);
        std::fs::remove_file(self.path("package.deb")).expect("it was there");
        assert!(!said.contains("not found") && !said.contains("error"), "{said}");
        said
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Every file of ours, except in dpkg's own database.
    fn ours(&self) -> Vec<String> {
        let found =
            self.run(&["find", "/", "-name", "*consul-redis*", "-not", "-path", "/var/lib/dpkg/*"]);
        found.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_host_gets_it_keeps_its_config_and_is_rid_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = package(dir.path());
    let host = Clean::new();
    assert_eq!(host.ours(), Vec::<String>::new());

    host.install(&first);
    assert_eq!(
        host.run(&["dpkg", "--verify", "consul-redis"]),
        "",
        "every file is as it was packed"
    );
    assert_eq!(host.run(&["dpkg", "--audit"]), "");
    let version = format!("consul-redis {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(host.run(&["consul-redis", "--version"]), version);
    assert!(host.run(&["consul-redis", "--help"]).contains("Usage: consul-redis"));
    host.run(&["bash", "-n", "/usr/share/bash-completion/completions/consul-redis"]);
    assert!(
        host.run(&["gzip", "-dc", "/usr/share/man/man1/consul-redis.1.gz"])
            .contains(".TH consul-redis 1")
    );
    // The config as it comes is a config, and the one thing that is wrong with it is that it says nothing.
    let config = format!("/{CONFIG}");
    for command in ["check-config", "agent"] {
        let tried = ["consul-redis", command, "--config", &config];
        let tried = host.command(&tried).output().expect("it runs");
        assert_eq!(tried.status.code(), Some(64), "{}", said(&tried));
        assert!(said(&tried).starts_with("error: no Sentinels: "), "{}", said(&tried));
    }
    assert!(!host.path(ENABLED).is_symlink(), "the package has not enabled it");

    // As the administrator does.
    let own = "[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n";
    std::fs::write(host.path(CONFIG), own).expect("a file");
    // `systemctl enable`, which needs a systemd that runs.
    std::fs::create_dir_all(host.path(ENABLED).parent().expect("a directory")).expect("made");
    let unit = "/lib/systemd/system/consul-redis.service";
    std::os::unix::fs::symlink(unit, host.path(ENABLED)).expect("a link");
    assert!(host.path(ENABLED).is_symlink());

    host.install(&next_version(&first, dir.path()));
    let status =
        host.run(&["dpkg-query", "--show", "--showformat=${Status} ${Version}", "consul-redis"]);
    assert_eq!(status, "install ok installed 1.1-1");
    assert_eq!(host.read(CONFIG), own);
    assert!(host.read(&format!("{CONFIG}.dpkg-dist")).ends_with("# new in 1.1\n"), "beside it");
    assert!(host.path(ENABLED).is_symlink(), "and it is enabled as it was");

    host.run(&["dpkg", "--remove", "consul-redis"]);
    assert_eq!(host.read(CONFIG), own, "the config stays");
    assert!(!host.path("usr/bin/consul-redis").exists());
    assert!(!host.path("lib/systemd/system/consul-redis.service").exists());

    host.run(&["dpkg", "--purge", "consul-redis"]);
    assert_eq!(host.ours(), Vec::<String>::new(), "and then nothing does");
}

/// Some of the documents, of each directory.
const DOCUMENTS: [&str; 13] = [
    "README.md",
    "copyright",
    "changelog.gz",
    "third-party-licenses.txt.gz",
    "packages.md",
    "how-to/move-the-primary.md",
    "facts/sentinel.md",
    "schemas/status.schema.json",
    "consul-redis.toml",
    "examples/consul/agent-policy.hcl",
    "examples/templates/haproxy.cfg.j2",
    "examples/templates/notify/slack.json.j2",
    "examples/systemd/templates.conf",
];

#[test]
fn the_package_holds_what_the_document_says_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let package = package(dir.path());
    let listed =
        succeeds(Command::new("dpkg-deb").arg("--contents").arg(&package).env("LC_ALL", "C"));
    let mut files = BTreeSet::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, .., path] = words[..] else { panic!("{line}") };
        assert_eq!(owner, "root/root", "{line}");
        let is_program = path == "./usr/bin/consul-redis";
        let wanted = match mode.starts_with('d') {
            true => "drwxr-xr-x",
            false if is_program => "-rwxr-xr-x",
            false => "-rw-r--r--",
        };
        assert_eq!(mode, wanted, "{line}");
        if !path.ends_with('/') {
            files.insert(path.trim_start_matches("./").to_owned());
        }
    }
    let man = dir.path().join("man");
    succeeds(Command::new(PROGRAM).arg("man").arg(&man));
    let pages = std::fs::read_dir(man).expect("pages").flatten().map(|page| page.file_name());
    let mut wanted: BTreeSet<String> =
        pages.map(|page| format!("usr/share/man/man1/{}.gz", page.to_string_lossy())).collect();
    assert!(wanted.len() > 15, "{wanted:?}");
    let others = [
        "usr/bin/consul-redis",
        CONFIG,
        "lib/systemd/system/consul-redis.service",
        "lib/systemd/system/consul-redis@.service",
        "usr/share/bash-completion/completions/consul-redis",
        "usr/share/zsh/vendor-completions/_consul-redis",
        "usr/share/fish/vendor_completions.d/consul-redis.fish",
    ];
    wanted.extend(others.map(str::to_owned));
    let doc = "usr/share/doc/consul-redis/";
    let documents: BTreeSet<String> =
        files.iter().filter_map(|file| file.strip_prefix(doc)).map(str::to_owned).collect();
    files.retain(|file| !file.starts_with(doc));
    assert_eq!(files, wanted);
    for document in DOCUMENTS {
        assert!(documents.contains(document), "{document} is not among {documents:?}");
    }
    // Every crate that is built in is named with its licence, and has a text or says where to look.
    let extracted = dir.path().join("extracted");
    succeeds(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&extracted));
    let licenses = extracted.join(doc).join("third-party-licenses.txt.gz");
    let licenses = succeeds(Command::new("gzip").arg("-dc").arg(licenses));
    for name in ["tokio ", "rustls ", "aws-lc-rs ", "serde ", "clap "] {
        let line = licenses.lines().find(|line| line.starts_with(name));
        assert!(
            line.is_some_and(|line| line.contains("MIT") || line.contains("ISC")),
            "{name}: {line:?}"
        );
    }
    let fields = succeeds(Command::new("dpkg-deb").arg("--field").arg(&package));
    assert!(fields.contains("\nDepends: libc6 (>= "), "{fields}");
}

/// RPM, of the system or of `.tools`, which looks for nothing of ours.
fn rpm() -> Command {
    let at = std::env::var_os("RPM_ROOT").map(PathBuf::from);
    let at = at.unwrap_or_else(|| root().join(".tools/root"));
    let found = at.join("usr/bin/rpm");
    if !found.exists() {
        return Command::new("rpm");
    }
    let mut command = Command::new(found);
    let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    command
        .env("LD_LIBRARY_PATH", at.join(libraries))
        .env("RPM_CONFIGDIR", at.join("usr/lib/rpm"))
        .env("LC_ALL", "C");
    command
}

/// RPM on a clean system, as root. It is a Debian, whose database of RPM is empty: it does not know that there is a
/// /bin/sh.
fn rpm_on(host: &Clean, words: &[&str]) -> String {
    let there = rpm();
    let mut command = match nix::unistd::geteuid().is_root() {
        true => rpm(),
        false => {
            let mut command = Command::new("unshare");
            command.arg("--map-root-user").arg(there.get_program());
            command.envs(there.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command
        }
    };
    command.arg("--root").arg(host.0.path()).args(["--dbpath", "/var/lib/rpm"]);
    succeeds(command.args(words))
}

#[test]
fn a_host_gets_the_rpm_keeps_its_config_and_is_rid_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (first, next) = (built("rpm", "1.0-1", dir.path()), built("rpm", "1.1-1", dir.path()));
    let host = Clean::new();
    let install = |package: &Path| {
        rpm_on(&host, &["--upgrade", "--nodeps", package.to_str().expect("a path")])
    };
    install(&first);
    assert_eq!(
        rpm_on(&host, &["--verify", "--nodeps", "consul-redis"]),
        "",
        "every file is as it was packed"
    );
    let version = format!("consul-redis {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(host.run(&["consul-redis", "--version"]), version);
    let config = format!("/{CONFIG}");
    let tried = host.command(&["consul-redis", "check-config", "--config", &config]).output();
    let tried = tried.expect("it runs");
    assert!(said(&tried).starts_with("error: no Sentinels: "), "{}", said(&tried));
    assert!(!host.path(ENABLED).is_symlink(), "the package has not enabled it");

    let own = "[sentinels]\naddresses = [\"10.0.0.1:26379\"]\n";
    std::fs::write(host.path(CONFIG), own).expect("a file");
    std::fs::create_dir_all(host.path(ENABLED).parent().expect("a directory")).expect("made");
    let unit = "/usr/lib/systemd/system/consul-redis.service";
    std::os::unix::fs::symlink(unit, host.path(ENABLED)).expect("a link");

    install(&next);
    let installed = rpm_on(&host, &["--query", "consul-redis"]);
    assert_eq!(installed, format!("consul-redis-1.1-1.{}\n", std::env::consts::ARCH));
    assert_eq!(host.read(CONFIG), own);
    assert!(host.path(ENABLED).is_symlink(), "and it is enabled as it was");

    rpm_on(&host, &["--erase", "consul-redis"]);
    assert_eq!(host.read(&format!("{CONFIG}.rpmsave")), own, "the config stays, beside it");
    assert!(!host.path("usr/bin/consul-redis").exists());
    std::fs::remove_file(host.path(&format!("{CONFIG}.rpmsave"))).expect("it is there");
    let left: Vec<String> =
        host.ours().into_iter().filter(|path| path != "/etc/consul-redis").collect();
    assert_eq!(left, Vec::<String>::new());
}

/// The same files as in the Debian package, but for where a distribution has its own: one truth.
#[test]
fn the_rpm_holds_what_the_debian_package_holds() {
    let dir = tempfile::tempdir().expect("a directory");
    let (deb, rpm_file) = (package(dir.path()), built("rpm", "1.0-1", dir.path()));
    let listed = succeeds(Command::new("dpkg-deb").arg("--contents").arg(&deb).env("LC_ALL", "C"));
    let of_deb = listed.lines().filter_map(|line| line.split_whitespace().last());
    let of_deb = of_deb.filter(|path| !path.ends_with('/')).map(|path| {
        path.trim_start_matches('.')
            .replace("/lib/systemd", "/usr/lib/systemd")
            .replace("vendor-completions", "site-functions")
    });
    let doc = "/usr/share/doc/consul-redis";
    let of_its_own = ["copyright", "changelog.gz", "third-party-licenses.txt.gz"];
    let of_its_own = of_its_own.map(|name| format!("{doc}/{name}"));
    let mut wanted: BTreeSet<String> = of_deb.filter(|path| !of_its_own.contains(path)).collect();
    wanted.insert(format!("{doc}/CHANGELOG.md"));
    for name in ["LICENSE-APACHE", "LICENSE-MIT", "third-party-licenses.txt"] {
        wanted.insert(format!("/usr/share/licenses/consul-redis/{name}"));
    }
    let format = "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]";
    let query = ["--query", "--package", "--queryformat", format];
    let listed = succeeds(rpm().args(query).arg(&rpm_file));
    let mut found = BTreeSet::new();
    for line in listed.lines().filter(|line| line.contains(" root:root ")) {
        let (mode, path) = line.split_once(" root:root ").expect("an owner");
        let wanted = match (mode.starts_with('d'), path) {
            (true, _) => "drwxr-xr-x",
            (false, "/usr/bin/consul-redis") => "-rwxr-xr-x",
            (false, _) => "-rw-r--r--",
        };
        assert_eq!(mode, wanted, "{line}");
        if !mode.starts_with('d') {
            found.insert(path.to_owned());
        }
    }
    assert_eq!(found, wanted);
    let needs = succeeds(rpm().args(["--query", "--package", "--requires"]).arg(&rpm_file));
    assert!(needs.lines().all(|need| need == "/bin/sh" || need.starts_with("rpmlib(")), "{needs}");
}
