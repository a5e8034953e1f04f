//! contrib/terraform: what Terraform and the provider for Consul take, and the same as consul/login.sh makes. Terraform
//! itself does not run here.

use std::collections::{BTreeMap, BTreeSet};

use hcl::{Attribute, Block, Body};

use crate::job::{label, root};

/// What may stand in each resource of hashicorp/consul 2.x that is used, besides Terraform's own.
const ARGUMENTS: [(&str, &str); 4] = [
    ("consul_acl_policy", "name description rules datacenters namespace partition"),
    (
        "consul_acl_role",
        "name description policies service_identities node_identities templated_policies namespace partition",
    ),
    (
        "consul_acl_auth_method",
        "name type display_name max_token_ttl token_locality description config_json config \
         namespace_rule namespace partition",
    ),
    (
        "consul_acl_binding_rule",
        "auth_method description selector bind_type bind_name bind_vars namespace partition",
    ),
];
/// Those that have to be there.
const REQUIRED: [(&str, &str); 4] = [
    ("consul_acl_policy", "name rules"),
    ("consul_acl_role", "name"),
    ("consul_acl_auth_method", "name type"),
    ("consul_acl_binding_rule", "auth_method bind_type bind_name"),
];
/// Terraform's own, in every resource.
const META: [&str; 2] = ["count", "depends_on"];

fn module() -> BTreeMap<String, Body> {
    let dir = std::fs::read_dir(root().join("contrib/terraform")).expect("the module");
    let files = dir.map(|entry| entry.expect("an entry").path());
    let parsed = files.map(|path| {
        let text = std::fs::read_to_string(&path).expect("a file");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let body = hcl::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, body)
    });
    parsed.collect()
}

fn words(table: &[(&str, &'static str)], kind: &str) -> Vec<&'static str> {
    let found = table.iter().find(|(name, _)| *name == kind);
    found.unwrap_or_else(|| panic!("{kind} is not known")).1.split_whitespace().collect()
}

fn resources(module: &BTreeMap<String, Body>) -> Vec<&Block> {
    let blocks = module.values().flat_map(Body::blocks);
    blocks.filter(|block| block.identifier() == "resource").collect()
}

#[test]
fn the_module_is_what_terraform_and_the_provider_take() {
    let module = module();
    let all = resources(&module);
    let kinds: BTreeSet<String> = all.iter().map(|block| label(block)).collect();
    assert_eq!(kinds, ARGUMENTS.map(|(kind, _)| kind.to_owned()).into());
    for block in all {
        let kind = label(block);
        let keys: BTreeSet<&str> = block.body().attributes().map(Attribute::key).collect();
        let known = words(&ARGUMENTS, &kind);
        let odd: Vec<_> =
            keys.iter().filter(|key| !known.contains(key) && !META.contains(key)).collect();
        assert!(odd.is_empty(), "{kind}: {odd:?}");
        assert!(words(&REQUIRED, &kind).iter().all(|key| keys.contains(key)), "{kind}: {keys:?}");
        assert_eq!(block.body().blocks().count(), 0, "{kind}");
    }
}

/// Every variable and local that is named exists, and every one that exists is named.
#[test]
fn every_name_is_declared_and_used() {
    let module = module();
    let texts: String = module.values().map(|body| hcl::to_string(body).expect("text")).collect();
    let named = |prefix: &str| -> BTreeSet<String> {
        let after = texts.split(prefix).skip(1);
        let name = |rest: &str| {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            rest[..end.unwrap_or(rest.len())].to_owned()
        };
        after.map(name).collect()
    };
    let blocks = || module.values().flat_map(Body::blocks);
    let variables = blocks().filter(|block| block.identifier() == "variable").map(label);
    assert_eq!(named("var."), variables.collect());
    let locals = blocks().filter(|block| block.identifier() == "locals");
    let locals = locals.flat_map(|block| block.body().attributes()).map(|a| a.key().to_owned());
    assert_eq!(named("local."), locals.collect());
    let described = |block: &Block| block.body().attributes().any(|a| a.key() == "description");
    for block in blocks().filter(|b| matches!(b.identifier(), "variable" | "output")) {
        assert!(described(block), "{}", label(block));
    }
}

/// The names, the selectors and the time that consul/login.sh has.
#[test]
fn the_script_makes_the_same() {
    let script = std::fs::read_to_string(root().join("consul/login.sh")).expect("the script");
    let module = module();
    let texts: String = module.values().map(|body| hcl::to_string(body).expect("text")).collect();
    let selectors = script.lines().filter_map(|line| line.split_once("selector='"));
    let selectors: Vec<String> =
        selectors.map(|(_, rest)| rest.trim_end_matches("' ;;").replace('"', "\\\"")).collect();
    assert_eq!(selectors.len(), 2, "{script}");
    for said in selectors.iter().map(String::as_str).chain([
        "consul-redis-agent",
        "\"consul-redis\"",
        "nomad-workloads",
        "\"1h\"",
        "\"jwt\"",
        "agent-policy.hcl",
    ]) {
        assert!(texts.contains(said), "{said}: {texts}");
        assert!(
            script.contains(&said.replace("\\\"", "\"").replace('"', ""))
                || script.contains(&said.replace("\\\"", "\"")),
            "{said}"
        );
    }
}
