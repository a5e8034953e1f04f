//! The chart: with its default values it makes what `kubernetes/` has, and every value does what it says.
//!
//! There is no Helm here. render.go, the same template engine, renders; YAML is read on this side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::render::{Rendered, Renderer};

const CHART: &str = "charts/consul-redis";

/// What Helm's charts give every object, and a file for `kubectl apply` has not.
const HELM_LABELS: [&str; 4] = [
    "helm.sh/chart",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
];

/// Kind and name.
type Key = (String, String);
pub(crate) type Objects = BTreeMap<Key, Value>;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn chart(file: &str) -> String {
    read(&format!("{CHART}/{file}"))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn default_values() -> Value {
    yaml(&chart("values.yaml"))
}

/// As Helm lays a user's values over the chart's: tables are merged, all else is replaced.
fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over.clone(),
    }
}

fn values_with(over: &Value) -> Value {
    let mut values = default_values();
    merge(&mut values, over);
    values
}

fn templates() -> BTreeMap<String, String> {
    let dir = std::fs::read_dir(root().join(CHART).join("templates")).expect("templates");
    let paths = dir.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("a template"))
        })
        .collect()
}

/// The chart, and what renders it.
struct Chart(Renderer);

impl Chart {
    fn build() -> Self {
        Self(Renderer::build())
    }

    /// What becomes of a release called `name`, for each set of values.
    fn all(&self, name: &str, values: &[Value]) -> Vec<Rendered> {
        let releases: Vec<Value> =
            values.iter().map(|values| json!({"name": name, "values": values})).collect();
        let Value::Object(about) = yaml(&chart("Chart.yaml")) else { panic!("no table") };
        // Templates know a chart's keys with a capital first letter.
        let capital = |key: &str| key[..1].to_uppercase() + &key[1..];
        let about: Map<String, Value> =
            about.into_iter().map(|(key, value)| (capital(&key), value)).collect();
        let work = json!({"templates": templates(), "chart": about, "releases": releases});
        let rendered = self.0.run(&work);
        assert_eq!(rendered.len(), values.len());
        rendered
    }

    /// The objects of a release called `redis`, as the manifests call it, with these values over the defaults.
    fn objects(&self, over: &Value) -> Objects {
        objects(&self.text(over))
    }

    fn text(&self, over: &Value) -> String {
        let rendered = self.all("redis", &[values_with(over)]);
        manifests(&rendered[0])
    }

    /// Why these values are refused.
    fn refusal(&self, over: &Value) -> String {
        let rendered = self.all("redis", &[values_with(over)]);
        assert_ne!(rendered[0].error, "", "{over} is not refused");
        rendered[0].error.clone()
    }
}

/// All files of a release but the notes, as one.
fn manifests(rendered: &Rendered) -> String {
    assert_eq!(rendered.error, "");
    let files = rendered.files.as_ref().expect("files");
    let objects = files.iter().filter(|(name, _)| name.ends_with(".yaml"));
    objects.map(|(_, text)| format!("---\n{text}")).collect()
}

pub(crate) fn objects(text: &str) -> Objects {
    let all: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let mut objects = Objects::new();
    for object in all.into_iter().filter(|object| !object.is_null()) {
        let name = |value: &Value| value.as_str().expect("a text").to_owned();
        let key = (name(&object["kind"]), name(&object["metadata"]["name"]));
        assert!(objects.insert(key.clone(), object).is_none(), "{key:?} is there twice");
    }
    objects
}

pub(crate) fn files(paths: &[&str]) -> Objects {
    let text: String = paths.iter().map(|path| format!("---\n{}", read(path))).collect();
    objects(&text)
}

/// Takes what a chart adds from the objects themselves, and from nothing within: a label with a version on pods would restart
/// them for each new chart, and in a selector or a claim it could never change.
fn without_helm_labels(mut objects: Objects) -> Objects {
    for (key, object) in &mut objects {
        let labels = object["metadata"]["labels"].as_object_mut().expect("labels");
        for label in HELM_LABELS {
            assert!(labels.remove(label).is_some(), "{key:?} has no {label}");
        }
    }
    objects
}

/// Which objects there are, then what each of them says: the first difference is shown alone.
fn assert_same(made: Objects, files: &Objects) {
    let made = without_helm_labels(made);
    let keys = |objects: &Objects| objects.keys().cloned().collect::<Vec<Key>>();
    assert_eq!(keys(&made), keys(files));
    for (key, object) in files {
        assert_eq!(&made[key], object, "{key:?}");
    }
}

const CONSUL: &str = "kubernetes/consul.yaml";
const GROUP: [&str; 3] = [CONSUL, "kubernetes/redis.yaml", "kubernetes/sentinel.yaml"];

#[test]
fn the_chart_makes_what_the_files_have() {
    let chart = Chart::build();
    let group = files(&GROUP);
    assert_eq!(group.len(), 10, "{:?}", group.keys());
    assert_same(chart.objects(&json!({})), &group);

    let with_login = [&GROUP[..], &["kubernetes/login/login.yaml"]].concat();
    assert_same(chart.objects(&json!({"login": {"enabled": true}})), &files(&with_login));

    let off = json!({"enabled": false});
    let cluster = json!({"redis": off, "sentinel": off, "cluster": {"enabled": true}});
    let its_files = files(&[CONSUL, "kubernetes/cluster/redis-cluster.yaml"]);
    assert_same(chart.objects(&cluster), &its_files);
}

/// A set of values, and where the objects say what.
struct Case {
    values: Value,
    said: Vec<(&'static str, &'static str, &'static str, Value)>,
}

const SET: &str = "StatefulSet";
const POD: &str = "/spec/template/spec";

fn cases() -> Vec<Case> {
    let tolerations = json!([{"key": "redis", "operator": "Exists", "effect": "NoSchedule"}]);
    let zone = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["eu-1a"]}]}]}}});
    let spread = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}]);
    let claim = "/spec/volumeClaimTemplates/0/spec";
    let resources = json!({"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}});
    let class = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
        "resources": {"requests": {"storage": "50Gi"}}});
    vec![
        Case {
            values: json!({"redis": {"replicas": 5, "expect": 3, "maxUnavailable": 2},
                           "group": {"name": "orders", "downAfterMs": 3_600_000}}),
            said: vec![
                (SET, "redis", "/spec/replicas", json!(5)),
                (SET, "redis", "env:CONSUL_REDIS_EXPECT", json!("3")),
                (SET, "redis", "env:CONSUL_REDIS_GROUP", json!("orders")),
                // A number is not written as 3.6e+06.
                (SET, "redis-sentinel", "env:REDIS_DOWN_AFTER_MS", json!("3600000")),
                (SET, "redis-sentinel", "env:CONSUL_REDIS_GROUP", json!("orders")),
                (SET, "redis-sentinel", "/spec/replicas", json!(3)),
                ("PodDisruptionBudget", "redis", "/spec/maxUnavailable", json!(2)),
            ],
        },
        Case {
            values: json!({"redis": {"resources": resources, "nodeSelector": {"disk": "ssd"},
                "tolerations": tolerations, "affinity": zone, "topologySpreadConstraints": spread,
                "storage": {"size": "50Gi", "class": "fast"}}}),
            said: vec![
                (SET, "redis", "/spec/template/spec/containers/0/resources", resources),
                (SET, "redis", "/spec/template/spec/nodeSelector", json!({"disk": "ssd"})),
                (SET, "redis", "/spec/template/spec/tolerations", tolerations),
                (SET, "redis", "/spec/template/spec/affinity", zone),
                (SET, "redis", "/spec/template/spec/topologySpreadConstraints", spread),
                (SET, "redis", claim, class),
            ],
        },
        Case {
            values: json!({"consul": {"address": "$(HOST_IP):8500", "server": {"enabled": false}},
                "redis": {"extraEnv": [{"name": "CONSUL_REDIS_LOG_FORMAT", "value": "json"}]}}),
            said: vec![
                (SET, "redis", "env:CONSUL_REDIS_LOG_FORMAT", json!("json")),
                (SET, "redis", "env:CONSUL_HTTP_ADDR", json!("$(HOST_IP):8500")),
                (SET, "redis-sentinel", "env:CONSUL_HTTP_ADDR", json!("$(HOST_IP):8500")),
                // Kubernetes fills in what stands above.
                (SET, "redis", "/spec/template/spec/containers/0/env/1/name", json!("HOST_IP")),
            ],
        },
    ]
}

/// What an object says: at a JSON pointer, or as a variable of its container.
pub(crate) fn said(object: &Value, place: &str) -> Option<Value> {
    let Some(name) = place.strip_prefix("env:") else { return object.pointer(place).cloned() };
    let env = object.pointer(&format!("{POD}/containers/0/env"))?.as_array()?;
    let mut named = env.iter().filter(|variable| variable["name"] == name);
    let found = named.next().map(|variable| variable["value"].clone());
    assert!(named.next().is_none(), "{name} is there twice");
    found
}

#[test]
fn values_do_what_they_say() {
    let chart = Chart::build();
    for case in cases() {
        let objects = chart.objects(&case.values);
        for (kind, name, place, expected) in case.said {
            let object = &objects[&(kind.to_owned(), name.to_owned())];
            assert_eq!(said(object, place), Some(expected), "{kind} {name} {place}");
        }
    }
    let none = chart.objects(&json!({"sentinel": {"enabled": false}}));
    let names: Vec<&str> = none.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| name.contains("sentinel")).count(), 0, "{names:?}");
    assert_eq!(none.len(), 7, "{names:?}");

    // Nothing of a second release of the namespace is what the first one has made.
    let own =
        json!({"serviceAccount": {"create": false}, "consul": {"server": {"enabled": false}}});
    let other = objects(&manifests(&chart.all("stock", &[values_with(&own)])[0]));
    let first = chart.objects(&json!({}));
    assert_eq!(other.keys().filter(|key| first.contains_key(*key)).count(), 0);
    let group = said(&other[&(SET.to_owned(), "stock".to_owned())], "env:CONSUL_REDIS_GROUP");
    assert_eq!(group, Some(json!("stock")));
}

fn with_tls() -> Value {
    json!({"tls": {"enabled": true, "secret": "redis-tls", "serverName": "redis.example.com"},
           "consul": {"address": "consul.example.com:8501", "server": {"enabled": false}, "tls": {
               "enabled": true, "secret": "consul-tls", "clientCert": true, "serverName": "server.dc1.consul"}}})
}

/// Every file that is named is on a volume that is mounted, and the agents' config is one that the program takes.
#[test]
fn tls_is_what_the_program_takes() {
    let objects = Chart::build().objects(&with_tls());
    for name in ["redis", "redis-sentinel"] {
        let pod = &objects[&(SET.to_owned(), name.to_owned())].pointer(POD).expect("a pod").clone();
        let container = &pod["containers"][0];
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        let volumes = pod["volumes"].as_array().expect("volumes");
        for (path, secret) in [("/etc/redis-tls", "redis-tls"), ("/etc/consul-tls", "consul-tls")] {
            let mount = mounts.iter().find(|mount| mount["mountPath"] == path).expect(path);
            let volume = volumes.iter().find(|one| one["name"] == mount["name"]).expect(path);
            assert_eq!(volume["secret"]["secretName"], secret, "{name}");
        }
        let args = container["args"].to_string();
        for words in [r#""--port","0""#, r#""--tls-replication","yes""#, "/etc/redis-tls/tls.key"] {
            assert!(args.contains(words), "{words}: {args}");
        }
        let env = container["env"].to_string();
        for (variable, value) in [
            ("CONSUL_HTTP_SSL", "true"),
            ("CONSUL_CACERT", "/etc/consul-tls/ca.crt"),
            ("CONSUL_CLIENT_KEY", "/etc/consul-tls/tls.key"),
            ("CONSUL_TLS_SERVER_NAME", "server.dc1.consul"),
            ("CONSUL_REDIS_CONFIG", "/etc/consul-redis-agent/consul-redis.toml"),
        ] {
            let said = json!({"name": variable, "value": value}).to_string();
            assert!(env.contains(&said), "{said}: {env}");
        }
    }
    let map = &objects[&("ConfigMap".to_owned(), "redis-agent".to_owned())];
    let config = map["data"]["consul-redis.toml"].as_str().expect("a file");
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.crt");
    let key = rcgen::generate_simple_self_signed(["redis.example.com".to_owned()]).expect("a key");
    std::fs::write(&ca, key.cert.pem()).expect("a file");
    let config = config.replace("/etc/redis-tls/ca.crt", ca.to_str().expect("a path"));
    let path = dir.path().join("consul-redis.toml");
    std::fs::write(&path, config).expect("a file");
    let mut check = Command::new(env!("CARGO_BIN_EXE_consul-redis"));
    check.args(["check-config", "--sentinels", "10.0.0.1:26379", "--group", "redis", "--config"]);
    let checked = check.arg(&path).env_clear().output().expect("the program runs");
    let text = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// A value that is not used misleads. So each is changed, where everything is on, and must change what comes out.
#[test]
fn every_value_does_something() {
    let mut everything = with_tls();
    merge(&mut everything, &json!({"cluster": {"enabled": true}, "login": {"enabled": true}}));
    let everything = values_with(&everything);
    // The server that is made speaks no TLS, and a login refuses a token: two more worlds.
    let mut server = default_values();
    merge(&mut server, &json!({"consul": {"token": {"secret": "consul"}}}));
    let mut leaves = Vec::new();
    leaves_of(&default_values(), String::new(), &mut leaves);
    assert!(leaves.len() > 90, "only {} values were found", leaves.len());

    let changed = |values: &Value| {
        let changed = leaves.iter().map(|leaf| {
            let mut values = values.clone();
            let value = values.pointer_mut(leaf).expect("a value");
            *value = other(leaf, value);
            values
        });
        let all: Vec<Value> = [values.clone()].into_iter().chain(changed).collect();
        all
    };
    let chart = Chart::build();
    let mut used = BTreeSet::new();
    let schema = schema();
    for world in [&everything, &server] {
        let all = changed(world);
        for values in &all {
            assert_eq!(off_schema(&schema, values), Vec::<String>::new());
        }
        let rendered = chart.all("redis", &all);
        for (leaf, one) in leaves.iter().zip(&rendered[1..]) {
            if one.error.is_empty() && one.files != rendered[0].files {
                used.insert(leaf);
            }
        }
    }
    let unused: Vec<&String> = leaves.iter().filter(|leaf| !used.contains(leaf)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// The places of all values that hold no others.
fn leaves_of(value: &Value, at: String, leaves: &mut Vec<String>) {
    match value.as_object() {
        Some(table) if !table.is_empty() => {
            for (key, value) in table {
                leaves_of(value, format!("{at}/{key}"), leaves);
            }
        }
        _ => leaves.push(at),
    }
}

/// Another value that is as good.
fn other(leaf: &str, value: &Value) -> Value {
    match value {
        Value::Bool(set) => json!(!set),
        Value::Number(number) => json!(number.as_i64().expect("a whole number") + 1),
        Value::String(_) if leaf.ends_with("/pullPolicy") => json!("Always"),
        Value::String(_) if leaf.ends_with("/size") => json!("7Gi"),
        Value::String(_) => json!("another"),
        Value::Array(_) => json!([{"name": "another"}]),
        Value::Object(_) => json!({"another": "one"}),
        Value::Null => panic!("{leaf} has no type"),
    }
}

/// What Helm says at the end: where to look, by the names that the release has.
#[test]
fn the_notes_name_what_was_made() {
    let chart = Chart::build();
    let cluster = json!({"redis": {"enabled": false}, "cluster": {"enabled": true}});
    let rendered = chart.all("stock", &[default_values(), values_with(&cluster)]);
    for (rendered, said) in rendered.iter().zip([
        ["exec stock-0 -- consul-redis status --group stock", "stock-primary.service.consul"],
        ["exec stock-cluster-0 -- consul-redis status orders", "The 6 nodes"],
    ]) {
        let notes = &rendered.files.as_ref().expect("files")["NOTES.txt"];
        for said in said {
            assert!(notes.contains(said), "{said}: {notes}");
        }
    }
}

/// The other way about: a template asks for nothing that is not in values.yaml. render.go refuses that, too, where it comes to it.
#[test]
fn templates_use_values_that_exist() {
    let values = default_values();
    let path = regex::Regex::new(r"\.Values((?:\.[A-Za-z]+)+)").expect("a pattern");
    let mut count = 0;
    for (file, text) in templates() {
        for found in path.captures_iter(&text) {
            count += 1;
            let pointer = found[1].replace('.', "/");
            assert!(values.pointer(&pointer).is_some(), "{file}: {}", &found[0]);
        }
    }
    assert!(count > 40, "only {count} were found");
}

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(&chart("values.schema.json")).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

fn off_schema(schema: &jsonschema::Validator, values: &Value) -> Vec<String> {
    let errors = schema.iter_errors(values);
    errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn the_schema_takes_the_values_and_refuses_others() {
    let schema = schema();
    assert_eq!(off_schema(&schema, &default_values()), Vec::<String>::new());
    for case in cases() {
        assert_eq!(off_schema(&schema, &values_with(&case.values)), Vec::<String>::new());
    }
    assert_eq!(off_schema(&schema, &values_with(&with_tls())), Vec::<String>::new());
    for (wrong, why) in [
        (
            json!({"redis": {"replicas": "three"}}),
            r#"/redis/replicas: "three" is not of type "integer""#,
        ),
        (json!({"redis": {"replicas": 0}}), "/redis/replicas: 0 is less than the minimum of 1"),
        (json!({"sentinels": {}}), "'sentinels' was unexpected"),
        (
            json!({"redis": {"replica": 5}}),
            "/redis: Additional properties are not allowed ('replica' was unexpected)",
        ),
        (json!({"tls": "on"}), r#"/tls: "on" is not of type "object""#),
        (json!({"image": {"pullPolicy": "always"}}), "/image/pullPolicy: \"always\" is not one of"),
        (
            json!({"redis": {"storage": {"size": "1 GB"}}}),
            "/redis/storage/size: \"1 GB\" does not match",
        ),
        // Kubernetes takes texts only.
        (
            json!({"redis": {"extraEnv": [{"name": "A", "value": 1}]}}),
            "/redis/extraEnv/0/value: 1 is not of type \"string\"",
        ),
    ] {
        let said = off_schema(&schema, &values_with(&wrong));
        assert_eq!(said.len(), 1, "{wrong}: {said:?}");
        assert!(said[0].contains(why), "{wrong}: {said:?}");
    }
}

/// Each value has a line above it that says what it is, and the schema has that value and says the same.
#[test]
fn every_value_is_described_once() {
    let schema: Value = serde_json::from_str(&chart("values.schema.json")).expect("JSON");
    let described = comments(&chart("values.yaml"));
    let mut in_schema = BTreeMap::new();
    descriptions(&schema, "", &mut in_schema);
    // Helm hands it to charts that are parts of others.
    assert!(in_schema.remove("/global").is_some());
    assert_eq!(described, in_schema);
    let mut leaves = Vec::new();
    leaves_of(&default_values(), String::new(), &mut leaves);
    for leaf in leaves.iter().filter(|leaf| !leaf.contains("/resources/")) {
        assert!(described.contains_key(leaf), "{leaf}");
    }
}

/// The comment above each key of values.yaml.
fn comments(text: &str) -> BTreeMap<String, String> {
    let (mut path, mut comment, mut block) = (Vec::<(usize, String)>::new(), None, None);
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        if block.is_some_and(|block| words.is_empty() || indent > block) {
            continue;
        }
        block = line.ends_with(": |").then_some(indent);
        if let Some(words) = words.strip_prefix("# ") {
            comment = Some(words.to_owned());
        } else if let Some((key, _)) = words.split_once(':') {
            path.retain(|(outer, _)| *outer < indent);
            path.push((indent, key.to_owned()));
            let path: String = path.iter().map(|(_, key)| format!("/{key}")).collect();
            let said = comment.take().unwrap_or_else(|| panic!("{path} has no comment"));
            found.insert(path, said);
        } else {
            comment = None;
        }
    }
    found
}

/// What a schema says of each value.
fn descriptions(schema: &Value, at: &str, found: &mut BTreeMap<String, String>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    assert!(at.ends_with("/resources") || schema["additionalProperties"] == false, "{at} is open");
    for (key, schema) in properties {
        let at = format!("{at}/{key}");
        let said = schema["description"].as_str().unwrap_or_else(|| panic!("{at} says nothing"));
        found.insert(at.clone(), said.to_owned());
        descriptions(schema, &at, found);
    }
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    let chart = Chart::build();
    let tls = |over: Value| {
        let mut values = with_tls();
        merge(&mut values, &over);
        values
    };
    for (values, why) in [
        (tls(json!({"tls": {"secret": ""}})), "tls.enabled needs tls.secret"),
        (tls(json!({"tls": {"serverName": ""}})), "tls.enabled needs tls.serverName"),
        (
            tls(json!({"consul": {"tls": {"secret": ""}}})),
            "consul.tls.enabled needs consul.tls.secret",
        ),
        (tls(json!({"consul": {"server": {"enabled": true}}})), "speaks no TLS"),
        (
            json!({"login": {"enabled": true}, "consul": {"token": {"secret": "consul"}}}),
            "refuses a token besides",
        ),
    ] {
        let said = chart.refusal(&values);
        assert!(said.contains(why), "{why}: {said}");
    }
}

/// What comes out with other values is what Kubernetes takes, too.
#[test]
fn what_is_made_is_valid() {
    let chart = Chart::build();
    let mut all: Vec<Value> = cases().into_iter().map(|case| case.values).collect();
    all.extend([with_tls(), json!({"sentinel": {"enabled": false}, "login": {"enabled": true}})]);
    let cluster = json!({"cluster": {"enabled": true, "extraEnvFrom": [{"secretRef": {"name": "a"}}],
        "extraVolumes": [{"name": "a", "secret": {"secretName": "a"}}],
        "extraVolumeMounts": [{"name": "a", "mountPath": "/a"}],
        "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "priorityClassName": "high"},
        "image": {"pullSecrets": [{"name": "registry"}], "pullPolicy": "Always"},
        "serviceAccount": {"annotations": {"a": "b"}}, "consul": {"token": {"secret": "consul"}}});
    let mut cluster_with_tls = with_tls();
    merge(&mut cluster_with_tls, &json!({"cluster": {"enabled": true}}));
    all.extend([cluster, cluster_with_tls]);
    let rendered: Vec<String> = all.iter().map(|values| chart.text(values)).collect();
    // Most of it is the same each time: each object is looked at once.
    let objects: BTreeSet<&str> = rendered.iter().flat_map(|text| text.split("\n---\n")).collect();
    let text: Vec<&str> = objects.into_iter().collect();
    let dir = tempfile::tempdir().expect("a directory");
    let files = [dir.path().join("objects.yaml")];
    std::fs::write(&files[0], text.join("\n---\n")).expect("a file");
    for release in crate::RELEASES {
        let output = crate::validate(release, &files);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "Kubernetes {release}: {said}");
    }
}

/// The chart is released with the program.
#[test]
fn the_version_is_the_programs() {
    let about = yaml(&chart("Chart.yaml"));
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["apiVersion"], "v2");
    assert_eq!(about["name"], "consul-redis");
}
