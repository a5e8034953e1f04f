//! A job as Nomad sees it: with its variables put in, and what only a client knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use consul_redis::config::file::Span;
use hcl::eval::{Context, Evaluate as _};
use hcl::{Block, Body, Value};

/// The jobs in `nomad/`.
pub const JOBS: [&str; 5] = ["cluster", "consumer", "observer", "redis", "sentinel"];

/// This repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// A job's file.
pub fn text(job: &str) -> String {
    let path = root().join("nomad").join(format!("{job}.nomad.hcl"));
    std::fs::read_to_string(path).expect("a job")
}

/// What Nomad knows of an allocation only when it is on a client.
pub struct Client {
    /// The client's name.
    pub node: String,
    /// Its address.
    pub ip: String,
    /// The port that the allocation was given.
    pub port: u16,
    /// The allocation's directory.
    pub alloc: PathBuf,
}

impl Default for Client {
    fn default() -> Self {
        let (node, ip) = ("client-1".to_owned(), "10.0.0.5".to_owned());
        Self { node, ip, port: 20_001, alloc: PathBuf::from("/alloc") }
    }
}

/// A job file, as it is written.
pub struct JobFile {
    /// All of it.
    pub body: Body,
    /// The variables' defaults, by their names.
    pub variables: BTreeMap<String, Value>,
}

impl JobFile {
    /// Parses it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = hcl::parse(text).map_err(|error| error.to_string())?;
        let mut variables = BTreeMap::new();
        for block in body.blocks().filter(|block| block.identifier() == "variable") {
            let default = attribute(block.body(), "default").ok_or("a variable has no default")?;
            variables.insert(label(block), default);
        }
        Ok(Self { body, variables })
    }

    /// The job, with other values for some variables.
    pub fn job(&self, given: &[(&str, Value)], client: &Client) -> Result<Job, String> {
        let mut variables = self.variables.clone();
        for (name, value) in given {
            let known = variables.insert((*name).to_owned(), value.clone());
            assert!(known.is_some(), "there is no variable {name}");
        }
        let job = self.body.blocks().find(|block| block.identifier() == "job");
        let job = job.ok_or("no job")?;
        let mut context = Context::new();
        context.declare_var("var", variables.into_iter().collect::<hcl::Map<_, _>>());
        context.declare_var("node", hcl::value!({ unique = { name = (client.node.clone()) } }));
        for (name, value) in client_variables(job, client) {
            context.declare_var(name, value);
        }
        let block = job.evaluate(&context).map_err(|error| error.to_string())?;
        Ok(Job { client_variables: client_variables(job, client), block })
    }
}

/// Those that Nomad puts into the environment, and into a job's texts.
fn client_variables(job: &Block, client: &Client) -> Vec<(String, String)> {
    let dir = |name: &str| client.alloc.join(name).display().to_string();
    let mut all = vec![
        ("NOMAD_ALLOC_DIR".to_owned(), client.alloc.display().to_string()),
        ("NOMAD_TASK_DIR".to_owned(), dir("local")),
        ("NOMAD_SECRETS_DIR".to_owned(), dir("secrets")),
    ];
    for port in blocks(job.body(), "port") {
        let (label, ip, port) = (label(port), &client.ip, client.port);
        all.push((format!("NOMAD_IP_{label}"), ip.clone()));
        all.push((format!("NOMAD_PORT_{label}"), port.to_string()));
        all.push((format!("NOMAD_ADDR_{label}"), format!("{ip}:{port}")));
    }
    all
}

/// A job with nothing left to be put in.
pub struct Job {
    block: Block,
    client_variables: Vec<(String, String)>,
}

impl Job {
    /// Its name.
    pub fn name(&self) -> String {
        label(&self.block)
    }

    /// `service`, `system`.
    pub fn kind(&self) -> String {
        string(self.block.body(), "type").expect("a type")
    }

    /// All blocks of a kind, wherever they stand.
    pub fn blocks(&self, kind: &str) -> Vec<&Block> {
        blocks(self.block.body(), kind)
    }

    /// The only task.
    pub fn task(&self) -> Task {
        let [task] = self.blocks("task")[..] else { panic!("{}: one task", self.name()) };
        let body = task.body();
        let only = |kind: &str| blocks(body, kind).first().map(|block| block.body().clone());
        let config = only("config").expect("a config");
        let env = only("env").map(|env| {
            let names = env.attributes().map(|attribute| attribute.key().to_owned());
            names.map(|name| (name.clone(), string(&env, &name).expect("a value"))).collect()
        });
        let mut all: BTreeMap<String, String> = self.client_variables.iter().cloned().collect();
        all.extend(env.unwrap_or_else(BTreeMap::new));
        let seconds = string(body, "kill_timeout").expect("a kill_timeout");
        Task {
            entrypoint: list(&config, "entrypoint"),
            args: list(&config, "args").unwrap_or_default(),
            env: all,
            kill_timeout: seconds.parse::<Span>().expect("a time").0,
            mounts: blocks(body, "volume_mount")
                .iter()
                .map(|mount| string(mount.body(), "destination").expect("a destination"))
                .collect(),
        }
    }
}

/// What a client starts.
pub struct Task {
    entrypoint: Option<Vec<String>>,
    args: Vec<String>,
    /// Its environment, with what Nomad puts there.
    pub env: BTreeMap<String, String>,
    /// Between the signal and the kill.
    pub kill_timeout: Duration,
    /// Where its volumes are in the container.
    pub mounts: Vec<String>,
}

impl Task {
    /// The command line in the container: the image's entrypoint, or its own, and the arguments.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.entrypoint.clone().unwrap_or_else(entrypoint);
        words.extend(self.args.iter().cloned());
        words
    }
}

/// The image's, from the Dockerfile.
fn entrypoint() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("Dockerfile")).expect("a Dockerfile");
    let line = text.lines().find_map(|line| line.strip_prefix("ENTRYPOINT "));
    serde_json::from_str(line.expect("an entrypoint")).expect("a list")
}

/// The variables that are named in a text, after `var.`.
pub fn used(text: &str) -> BTreeSet<String> {
    let after = text.split("var.").skip(1);
    let name = |rest: &str| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    after.map(name).collect()
}

/// The first label.
pub fn label(block: &Block) -> String {
    block.labels().first().map(|label| label.as_str().to_owned()).unwrap_or_default()
}

fn blocks<'a>(body: &'a Body, kind: &str) -> Vec<&'a Block> {
    let mut found = Vec::new();
    for block in body.blocks() {
        if block.identifier() == kind {
            found.push(block);
        }
        found.extend(blocks(block.body(), kind));
    }
    found
}

fn attribute(body: &Body, key: &str) -> Option<Value> {
    let attribute = body.attributes().find(|attribute| attribute.key() == key)?;
    Some(attribute.expr().evaluate(&Context::new()).expect("a value"))
}

/// An attribute as a text.
pub fn string(body: &Body, key: &str) -> Option<String> {
    Some(match attribute(body, key)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

pub fn list(body: &Body, key: &str) -> Option<Vec<String>> {
    let Value::Array(words) = attribute(body, key)? else { panic!("{key} is no list") };
    Some(words.iter().map(|word| word.as_str().expect("a text").to_owned()).collect())
}
