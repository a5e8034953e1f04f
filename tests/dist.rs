//! The archive of `make dist`, which runs this: the program in it needs nothing of the system that it is on.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consul_redis::lab::world::{World, WorldSpec};

/// A name for this machine that only the `/etc/hosts` in there knows.
const NAME: &str = "consul.dist.test";

/// Enough for the seeds of some generators.
const RANDOM_LEN: usize = 64 * 1024;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Where `make dist` puts everything, and the one archive there.
fn archive() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/package");
    let name =
        format!("consul-redis-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    dir.join(name)
}

/// A directory with the unpacked archive's program, and nothing else that could be run or linked.
fn empty_system() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = archive();
    let name = packed.file_name().unwrap().to_string_lossy().into_owned();
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(format!("{}.tar.gz", packed.display()));
    unpack
        .arg("-C")
        .arg(dir.path())
        .args(["--strip-components=1", &format!("{name}/consul-redis")]);
    assert!(unpack.status().expect("tar runs").success(), "make dist makes it");
    let etc = dir.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    // Linked with glibc, it reads random numbers there; containers have it always. A device takes rights to make.
    let dev = dir.path().join("dev");
    std::fs::create_dir(&dev).unwrap();
    let mut random = vec![0; RANDOM_LEN];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    for device in ["random", "urandom"] {
        std::fs::write(dev.join(device), &random).unwrap();
    }
    dir
}

fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = match nix::unistd::geteuid().is_root() {
        true => Command::new("chroot"),
        false => {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "chroot"]);
            command
        }
    };
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    command
        .arg(dir)
        .arg("/consul-redis")
        .args(args)
        .env_clear()
        .env("PATH", path)
        .output()
        .expect("chroot runs")
}

#[test]
fn it_runs_where_there_is_nothing_else() {
    let dir = empty_system();
    let version = format!("consul-redis {}\n", env!("CARGO_PKG_VERSION"));
    let output = run(dir.path(), &["--version"]);
    assert_eq!(said(&output), version);
}

#[tokio::test]
async fn it_finds_consul_by_name_and_a_writer_in_it() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let world = World::start(WorldSpec { redis: 1, sentinels: 1, ..WorldSpec::default() }).await;
    let world = world.expect("a world");
    let dir = empty_system();
    let hosts = format!("{} {NAME}\n", world.consul.http.ip());
    std::fs::write(dir.path().join("etc/hosts"), hosts).unwrap();
    let consul = format!("{NAME}:{}", world.consul.http.port());
    let sentinel = world.sentinels[0].address.to_string();
    let both = ["--http-addr", &consul, "--sentinels", &sentinel];
    let plan = run(dir.path(), &[&["plan"][..], &both].concat());
    let wanted = format!("writer {}", world.groups[0].redis[0].address);
    assert!(said(&plan).contains(&wanted), "{}", said(&plan));
    // What it says where the name is not known: so it was looked up.
    std::fs::write(dir.path().join("etc/hosts"), "").unwrap();
    let unknown = run(dir.path(), &[&["plan"][..], &both].concat());
    assert_eq!(unknown.status.code(), Some(69), "{}", said(&unknown));
}

/// Every crate that `cargo tree` says is built in is in the SBOM, in its version.
#[test]
fn the_sbom_has_every_crate() {
    let text =
        std::fs::read_to_string(format!("{}.cdx.json", archive().display())).expect("an SBOM");
    let sbom: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    let named = |of: &serde_json::Value| {
        format!("{} {}", of["name"].as_str().unwrap(), of["version"].as_str().unwrap())
    };
    let listed: BTreeSet<String> =
        sbom["components"].as_array().unwrap().iter().map(named).collect();
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    let built_in: BTreeSet<String> = tree
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            Some(format!("{name} {}", rest.split(' ').next()?))
        })
        .filter(|name| !name.starts_with("consul-redis "))
        .collect();
    assert!(built_in.len() > 100, "{built_in:?}");
    let missing: Vec<_> = built_in.difference(&listed).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let licensed = sbom["components"].as_array().unwrap();
    let without: Vec<String> =
        licensed.iter().filter(|component| component["licenses"].is_null()).map(named).collect();
    assert!(without.is_empty(), "without a licence: {without:?}");
    let sums = Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(archive().parent().unwrap())
        .output()
        .expect("sha256sum runs");
    assert!(sums.status.success(), "{}", said(&sums));
}
