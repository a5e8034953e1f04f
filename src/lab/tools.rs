//! Where the servers' programs are: named by the environment, on PATH, or in `.tools`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::LabError;

/// A program and what it needs to find its libraries.
#[derive(Debug, Clone)]
pub struct Tool {
    /// The program.
    pub path: PathBuf,
    /// `LD_LIBRARY_PATH`, for a program that was unpacked beside the system.
    pub library_path: Option<PathBuf>,
    /// More of its environment.
    pub env: Vec<(String, String)>,
    /// The network namespace that it is started in, as a file; `None` for ours.
    pub namespace: Option<PathBuf>,
}

impl Tool {
    /// A program of this system.
    pub fn at(path: PathBuf) -> Self {
        Self { path, library_path: None, env: Vec::new(), namespace: None }
    }

    /// The same program, in a network namespace.
    #[must_use]
    pub fn within(self, namespace: &Path) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self }
    }
}

/// Finds Consul: `$CONSUL_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn consul() -> Result<Tool, LabError> {
    find("CONSUL_BIN", "consul")
}

/// What [`run_all_on`] has chosen.
static CHOSEN: OnceLock<Tool> = OnceLock::new();

/// Finds Redis: what [`run_all_on`] has chosen, then `$REDIS_SERVER_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn redis_server() -> Result<Tool, LabError> {
    if let Some(tool) = CHOSEN.get() {
        return Ok(tool.clone());
    }
    find("REDIS_SERVER_BIN", "redis-server")
}

/// The same, or where that is a Redis before `least` (`7.0`) the oldest one of `.tools/versions` that is not: for what
/// a later version has brought.
///
/// # Errors
/// Says how to get it, or that it does not say its version.
pub fn redis_server_since(least: &str) -> Result<Tool, LabError> {
    let usual = redis_server()?;
    let mut command = std::process::Command::new(&usual.path);
    command.arg("--version").envs(usual.library_path.iter().map(|dir| ("LD_LIBRARY_PATH", dir)));
    let said = String::from_utf8_lossy(&command.output()?.stdout).into_owned();
    let number = said.split_once(" v=").and_then(|(_, rest)| rest.split(' ').next());
    let number = number.ok_or_else(|| LabError(format!("no version in `{said}`")))?;
    if said.starts_with("Valkey") || numbers(number) >= numbers(least) {
        return Ok(usual);
    }
    let mut found: Vec<String> = versions()
        .filter(|found| found.starts_with("redis-") && numbers(found) >= numbers(least))
        .collect();
    found.sort_by_key(|found| numbers(found));
    version(found.first().ok_or_else(|| missing("redis-"))?)
}

/// Redis or Valkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `redis-*`
    Redis,
    /// `valkey-*`
    Valkey,
}

/// Which of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// The oldest one that is supported.
    Oldest,
    /// The newest one that Debian has.
    Newest,
}

/// From here on this process starts the oldest or newest supported server of a family in `.tools/versions`, unless a
/// world asks for another.
///
/// # Errors
/// None is there, or another one was chosen before.
pub fn run_all_on(family: Family, age: Age) -> Result<(), LabError> {
    let (name, least) = match family {
        Family::Redis => ("redis-", REDIS_MIN),
        Family::Valkey => ("valkey-", VALKEY_MIN),
    };
    let mut found: Vec<String> = versions()
        .filter(|found| found.starts_with(name) && numbers(found) >= numbers(least))
        .collect();
    found.sort_by_key(|found| numbers(found));
    let chosen = match age {
        Age::Oldest => found.first(),
        Age::Newest => found.last(),
    };
    let chosen = chosen.ok_or_else(|| missing(name))?;
    CHOSEN.set(version(chosen)?).map_err(|_| LabError("another version was chosen".to_owned()))
}

/// The names in `.tools/versions`.
fn versions() -> impl Iterator<Item = String> {
    let dirs = roots().into_iter().find_map(|root| std::fs::read_dir(root.join(VERSIONS)).ok());
    let dirs = dirs.into_iter().flatten().filter_map(Result::ok);
    dirs.filter_map(|dir| dir.file_name().into_string().ok())
}

fn missing(name: &str) -> LabError {
    LabError(format!("no {name} in {VERSIONS}: run scripts/tools.sh versions"))
}

/// Finds a Redis or Valkey of `.tools/versions` by the beginning of its name: `valkey-9` is the newest 9 that is there.
///
/// # Errors
/// Says how to get it.
pub fn version(name: &str) -> Result<Tool, LabError> {
    let of_name = |found: &str| {
        let rest = found.strip_prefix(name)?;
        // `redis-8` is no `redis-80.1`.
        (rest.is_empty() || rest.starts_with(['.', '-'])).then(|| numbers(found))
    };
    let found = roots().into_iter().find_map(|root| {
        let dirs = std::fs::read_dir(root.join(VERSIONS)).ok()?.filter_map(Result::ok);
        let named = dirs.filter_map(|dir| Some((of_name(dir.file_name().to_str()?)?, dir.path())));
        let (_, newest) = named.max()?;
        std::fs::canonicalize(newest.join("bin/redis-server")).ok()
    });
    found.map(Tool::at).ok_or_else(|| missing(name))
}

/// The numbers in a name, in their order: `redis-8.0` is 8, 0.
fn numbers(name: &str) -> Vec<u32> {
    name.split(['.', '-']).filter_map(|part| part.parse().ok()).collect()
}

/// Finds `ip`, which makes networks: `$IP_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn ip() -> Result<Tool, LabError> {
    find("IP_BIN", "ip")
}

/// Finds `nft`, which makes firewalls: `$NFT_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn nft() -> Result<Tool, LabError> {
    find("NFT_BIN", "nft")
}

/// Finds dnsmasq: `$DNSMASQ_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn dnsmasq() -> Result<Tool, LabError> {
    find("DNSMASQ_BIN", "dnsmasq")
}

/// Finds unbound: `$UNBOUND_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn unbound() -> Result<Tool, LabError> {
    find("UNBOUND_BIN", "unbound")
}

/// Finds HAProxy: `$HAPROXY_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn haproxy() -> Result<Tool, LabError> {
    find("HAPROXY_BIN", "haproxy")
}

/// Finds twemproxy: `$NUTCRACKER_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn nutcracker() -> Result<Tool, LabError> {
    find("NUTCRACKER_BIN", "nutcracker")
}

/// Finds redis-cli: `$REDIS_CLI_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn redis_cli() -> Result<Tool, LabError> {
    find("REDIS_CLI_BIN", "redis-cli")
}

/// Finds Prometheus: `$PROMETHEUS_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn prometheus() -> Result<Tool, LabError> {
    find("PROMETHEUS_BIN", "prometheus")
}

/// Finds promtool, which comes with Prometheus: `$PROMTOOL_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn promtool() -> Result<Tool, LabError> {
    find("PROMTOOL_BIN", "promtool")
}

/// Finds systemd-analyze: `$SYSTEMD_ANALYZE_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn systemd_analyze() -> Result<Tool, LabError> {
    find("SYSTEMD_ANALYZE_BIN", "systemd-analyze")
}

/// Finds Go, which knows consul-template's syntax: `$GO_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn go() -> Result<Tool, LabError> {
    find("GO_BIN", "go")
}

/// Finds kustomize: `$KUSTOMIZE_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn kustomize() -> Result<Tool, LabError> {
    find("KUSTOMIZE_BIN", "kustomize")
}

/// Finds Chromium: `$CHROMIUM_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn chromium() -> Result<Tool, LabError> {
    find("CHROMIUM_BIN", "chromium")
}

/// Finds Chromium's driver: `$CHROMEDRIVER_BIN`, then PATH, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn chromedriver() -> Result<Tool, LabError> {
    find("CHROMEDRIVER_BIN", "chromedriver")
}

/// Finds libfaketime, which gives a program another wall clock: `$FAKETIME_LIB`, then the system's, then `.tools`.
///
/// # Errors
/// Says how to get it.
pub fn faketime() -> Result<PathBuf, LabError> {
    const VARIABLE: &str = "FAKETIME_LIB";
    let given = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let below = format!("lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    let unpacked = roots().into_iter().map(|root| root.join(UNPACKED));
    let places = [PathBuf::from("/usr")].into_iter().chain(unpacked).map(|usr| usr.join(&below));
    let found = given.into_iter().chain(places).find_map(|path| std::fs::canonicalize(path).ok());
    found.ok_or_else(|| {
        LabError(format!(
            "libfaketime is not installed: run scripts/tools.sh tests, or set {VARIABLE}"
        ))
    })
}

fn find(variable: &str, name: &str) -> Result<Tool, LabError> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let library_path = path.parent().and_then(Path::parent).and_then(libraries);
        return Ok(Tool { library_path, ..Tool::at(path) });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if let Some(path) = on_path {
        return Ok(Tool::at(path));
    }
    in_tools(name).ok_or_else(|| {
        LabError(format!("{name} is not installed: run scripts/tools.sh tests, or set {variable}"))
    })
}

/// The working directory, and those that this program was built in.
fn roots() -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from(".")];
    if let Ok(exe) = std::env::current_exe() {
        roots.extend(exe.ancestors().map(Path::to_owned));
    }
    roots
}

fn in_tools(name: &str) -> Option<Tool> {
    roots().into_iter().map(|root| root.join(UNPACKED)).find_map(|usr| {
        // Not the file that a link points at: redis-server is a link whose name decides what it does.
        let bin = std::fs::canonicalize(usr.join("bin")).ok()?;
        let path = bin.join(name);
        path.exists().then(|| Tool { library_path: libraries(&usr), ..Tool::at(path) })
    })
}

/// Where the libraries are that belong to programs below `usr`, when it is where packages are unpacked.
fn libraries(usr: &Path) -> Option<PathBuf> {
    let lib = usr.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
    usr.ends_with(UNPACKED).then(|| std::fs::canonicalize(lib).ok())?
}

/// What is older is not supported; `scripts/versions.sh` has the same.
const REDIS_MIN: &str = "redis-6.0";
const VALKEY_MIN: &str = "valkey-8.0";

/// Where `scripts/tools.sh` unpacks Redis and Valkey of several Debian suites.
const VERSIONS: &str = ".tools/versions";
/// Where `scripts/tools.sh` unpacks packages.
const UNPACKED: &str = ".tools/root/usr";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_found_by_its_numbers() {
        assert!(numbers("valkey-9.1") < numbers("valkey-10.0"));
        assert!(numbers("redis-8.0") < numbers("redis-8.6"));
    }
}
