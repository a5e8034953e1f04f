//! The pods of `kubernetes/`, as containers: image, arguments, environment, user and volumes are what the manifests
//! say, and each pod that is started has an address that none had before, as on Kubernetes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;

use serde::Deserialize;
use tempfile::TempDir;

use crate::docker::{Project, STANDIN};

/// The first address that a pod gets: those below are the network's own, and Consul's.
const FIRST_ADDRESS: u32 = 10;

/// What the tests read of a manifest. Whatever else is in it is the schemas' business (tests/kubernetes.rs).
#[derive(Debug, Deserialize)]
struct Manifest {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
    spec: Option<Spec>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    replicas: Option<usize>,
    template: Option<Template>,
}

#[derive(Debug, Deserialize)]
struct Template {
    spec: PodSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    termination_grace_period_seconds: Option<u32>,
    security_context: Security,
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Security {
    run_as_user: u32,
    run_as_group: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    image: String,
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    volume_mounts: Vec<Mount>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    /// None: the pod's own address, the only field that is asked for.
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    name: String,
    mount_path: String,
}

fn manifests(file: &str) -> Vec<Manifest> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes").join(file);
    let text = std::fs::read_to_string(path).expect("a manifest");
    serde_saphyr::from_multiple(&text).expect("manifests")
}

fn is_set(manifest: &Manifest) -> bool {
    manifest.kind == "StatefulSet"
}

/// One StatefulSet.
pub struct PodSet {
    service: &'static str,
    /// How many pods there are.
    pub replicas: usize,
    pod: PodSpec,
}

impl PodSet {
    fn read(file: &str, service: &'static str) -> Self {
        let set = manifests(file).into_iter().find(is_set).expect("a StatefulSet");
        let spec = set.spec.expect("a spec");
        let pod = spec.template.expect("a template").spec;
        Self { service, replicas: spec.replicas.expect("a number"), pod }
    }
}

/// A network with the pods on it.
pub struct Pods {
    pub project: Rc<Project>,
    pub redis: PodSet,
    pub sentinels: PodSet,
    config: TempDir,
    subnet: (Ipv4Addr, u8),
    next: Cell<u32>,
}

impl Pods {
    /// Makes the network, and starts Consul on it.
    pub fn start() -> Self {
        let project = Rc::new(Project::new("pods", &[]));
        project.compose(&["build", "redis"]);
        let config = tempfile::tempdir().expect("a directory");
        readable(config.path());
        let maps =
            manifests("redis.yaml").into_iter().filter(|m| m.metadata.name == "redis-config");
        for (name, text) in maps.flat_map(|map| map.data) {
            std::fs::write(config.path().join(name), text).expect("a file");
        }
        let subnet = make_network(&project);
        let redis = PodSet::read("redis.yaml", "redis");
        let sentinels = PodSet::read("sentinel.yaml", "sentinel");
        let next = Cell::new(FIRST_ADDRESS);
        let pods = Self { project, redis, sentinels, config, subnet, next };
        pods.start_consul();
        pods
    }

    fn start_consul(&self) {
        let consul = PodSet::read("consul.yaml", "consul");
        let dns = format!("{}:8600/udp", self.project.dns());
        let image = format!("{STANDIN}/consul:1");
        // The image's entrypoint adds what the manifest says itself.
        let more = ["--network-alias", "consul", "--publish", &dns, "--entrypoint", "consul"];
        self.run(&consul, 0, &more, &image);
    }

    /// Starts a pod: the volume of its number, and a new address.
    pub fn start_pod(&self, set: &PodSet, number: usize) -> String {
        let [container] = &set.pod.containers[..] else { panic!("one container a pod") };
        assert_eq!(
            container.image, "consul-redis:latest",
            "what is built is called otherwise here"
        );
        self.run(set, number, &[], &format!("{STANDIN}/consul-redis"))
    }

    fn run(&self, set: &PodSet, number: usize, more: &[&str], image: &str) -> String {
        let [container] = &set.pod.containers[..] else { panic!("one container a pod") };
        let name = self.name(set, number);
        let ip = self.new_address().to_string();
        let user = &set.pod.security_context;
        let user = format!("{}:{}", user.run_as_user, user.run_as_group);
        let labels = [("project", self.project.name()), ("service", set.service)]
            .map(|(key, value)| format!("com.docker.compose.{key}={value}"));
        let mut args: Vec<String> = ["run", "--detach", "--read-only", "--cap-drop", "ALL"]
            .into_iter()
            .chain(["--security-opt", "no-new-privileges", "--name", &name, "--ip", &ip])
            .chain(["--network", &self.project.network(), "--user", &user, "--hostname", &name])
            .chain(["--label", &labels[0], "--label", &labels[1]])
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect();
        for variable in &container.env {
            let value = variable.value.as_deref().unwrap_or(&ip);
            args.extend(["--env".to_owned(), format!("{}={value}", variable.name)]);
        }
        // Kubernetes alone signs who a pod is, and this Consul asks for no token.
        for mount in container.volume_mounts.iter().filter(|mount| mount.name != "identity") {
            let source = match mount.name.as_str() {
                "config" => format!("{}:{}:ro", self.config.path().display(), mount.mount_path),
                volume => format!("{name}-{volume}:{}", mount.mount_path),
            };
            args.extend(["--volume".to_owned(), source]);
        }
        args.push(image.to_owned());
        args.extend(container.args.iter().cloned());
        self.project.docker(&args.iter().map(String::as_str).collect::<Vec<&str>>());
        self.project.note_volumes();
        ip
    }

    /// The name of a pod.
    pub fn name(&self, set: &PodSet, number: usize) -> String {
        format!("{}-{}-{number}", self.project.name(), set.service)
    }

    /// As when a node is lost: the pod does not stop in order.
    pub fn lose(&self, set: &PodSet, number: usize) {
        self.project.docker(&["rm", "--force", &self.name(set, number)]);
    }

    /// As a rolling update does: asked to stop, and given its time.
    pub fn stop(&self, set: &PodSet, number: usize) {
        let seconds = set.pod.termination_grace_period_seconds.expect("a time").to_string();
        let name = self.name(set, number);
        self.project.docker(&["stop", "--time", &seconds, &name]);
        self.project.docker(&["rm", &name]);
    }

    /// The number of the pod at an address.
    pub fn number(&self, set: &PodSet, ip: &str) -> usize {
        let name = self.project.named(set.service, ip);
        let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
        number.expect("a number at the end of its name")
    }

    /// An address that no pod has had.
    fn new_address(&self) -> Ipv4Addr {
        let number = self.next.replace(self.next.get() + 1);
        Ipv4Addr::from(u32::from(self.subnet.0) + number)
    }
}

/// A network whose addresses can be chosen: of the range that Docker itself would have taken.
fn make_network(project: &Project) -> (Ipv4Addr, u8) {
    let name = project.network();
    project.docker(&["network", "create", &name]);
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    let subnet = project.docker(&["network", "inspect", "--format", format, &name]);
    let subnet = subnet.trim();
    project.docker(&["network", "rm", &name]);
    project.docker(&["network", "create", "--subnet", subnet, &name]);
    let (address, bits) = subnet.split_once('/').expect("a subnet");
    (address.parse().expect("an address"), bits.parse().expect("a number"))
}

/// For the user of the containers.
fn readable(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("its owner");
}

/// The project takes away its volumes; what it did not make itself is taken away here.
impl Drop for Pods {
    fn drop(&mut self) {
        let label = format!("label=com.docker.compose.project={}", self.project.name());
        let quiet = |args: &[&str]| {
            let output = std::process::Command::new("docker").args(args).output();
            let both = output.map(|output| [output.stdout, output.stderr].concat()).ok()?;
            Some(String::from_utf8_lossy(&both).into_owned())
        };
        let show = |container: &str| quiet(&["logs", "--tail", "80", container]);
        let all = quiet(&["ps", "--all", "--quiet", "--filter", &label]).unwrap_or_default();
        for container in all.lines() {
            if std::thread::panicking() {
                eprintln!("--- {container}\n{}", show(container).unwrap_or_default());
            }
            quiet(&["rm", "--force", container]);
        }
        quiet(&["network", "rm", &self.project.network()]);
    }
}
