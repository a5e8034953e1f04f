//! What the keys of a group have looked like, form by form, is still read, and nothing of it is lost.
//!
//! A form that a release has written gets a file of its own in tests/fixtures/forms; none is ever changed.

use consul_redis_core::known::observed::{Key, ReplId, StoreAnswer, StoredState};
use consul_redis_core::published::projection::Layout;
use consul_redis_core::published::record::{RECORD_VERSION, decode, encode};
use consul_redis_core::shown::status::{ProblemCode, assess};
use consul_redis_core::time::Mono;
use serde_json::Value;

use crate::scene::{Scene, layout};

/// Every form, by its name.
fn forms() -> Vec<(String, Value)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/forms");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect(dir).map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let read = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a form");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, serde_json::from_str(&text).expect("JSON"))
    };
    files.into_iter().map(read).collect()
}

/// The keys as Consul holds them.
fn stored(layout: &Layout, form: &Value) -> StoreAnswer {
    let keys = form.as_object().expect("keys").iter().map(|(name, value)| Key {
        key: format!("{}{name}", layout.root()),
        value: value.to_string().into_bytes(),
        modify_index: 10,
        locked: false,
    });
    StoreAnswer::from_keys(layout, Mono(0), keys)
}

/// All that is in `old` is in `new`, with the same value.
fn holds(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            old.iter().all(|(key, value)| new.get(key).is_some_and(|kept| holds(kept, value)))
        }
        (Value::Array(new), Value::Array(old)) => {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| holds(new, old))
        }
        _ => new == old,
    }
}

#[test]
fn every_form_is_read_and_written_again_whole() {
    let forms = forms();
    assert!(forms.len() >= 10, "{}", forms.len());
    for (name, form) in &forms {
        let store = stored(&layout(), form);
        let record = store.record().unwrap_or_else(|| panic!("{name}: {:?}", store.state));
        let began = form.as_object().expect("keys").iter().filter_map(|(name, of)| {
            Some((ReplId(name.strip_prefix("histories/")?.to_owned()), of))
        });
        let (seen, began): (Vec<_>, Vec<_>) =
            began.partition(|(name, _)| name.0.ends_with("/seen"));
        for (name, seen) in seen {
            let address = name.0.strip_suffix("/seen").expect("it").parse().expect("an address");
            let read = serde_json::to_value(&store.seen[&address]).expect("JSON");
            assert!(holds(&read, seen), "{name:?}: {read}");
        }
        for (history, of) in began {
            let read = serde_json::to_value(&store.continued[&history]).expect("JSON");
            assert!(holds(&read, of), "{name}: {read}");
        }
        let again: Value = serde_json::from_str(&encode(record)).expect("JSON");
        // Lines of descent that an older form did not keep may come in, and so may times as they are written now.
        let (mut again, mut state) = (again, form["state"].clone());
        for value in [&mut again, &mut state] {
            value["since"] = Value::Null;
            if value["lineage"].as_array().is_some_and(Vec::is_empty) {
                value["lineage"] = Value::Null;
            }
        }
        assert!(holds(&again, &state), "{name}: {state} became {again}");
        let history = form.get("history").and_then(Value::as_array).map_or(0, Vec::len);
        assert_eq!(store.history.len(), history, "{name}");
        let times = form["history"][0]["timeline"].as_object().map_or(0, serde_json::Map::len);
        let kept = store.history.first().map(|change| serde_json::to_value(&change.timeline));
        let kept = kept.map(|timeline| timeline.unwrap().as_object().map_or(0, |t| t.len()));
        assert_eq!(kept.unwrap_or(0), times, "{name}");
        let maintained = form.get("maintenance").and_then(Value::as_object).map_or(0, |m| m.len());
        assert_eq!(store.maintenance.as_ref().map(|kept| kept.len()), Ok(maintained), "{name}");
        let config = serde_json::to_value(store.config.as_ref().expect("settings")).unwrap();
        assert_eq!(&config, form.get("config").unwrap_or(&serde_json::json!({})), "{name}");
    }
}

/// Before `lineage` was kept, the only history that the record has is the last writer's. Without it, that instance
/// would be a stranger after two more failovers.
#[test]
fn the_last_writers_history_is_taken_over() {
    let forms = forms();
    let (_, first) = &forms[0];
    assert_eq!(first["state"].get("lineage"), None);
    let record = decode(first["state"].to_string().as_bytes()).unwrap();
    let last = record.last_writer.expect("a last writer");
    assert_eq!(record.lineage, [last.replid]);
}

#[test]
fn a_record_of_a_newer_version_is_left_alone_and_says_what_to_do() {
    let (_, form) = forms().pop().expect("a form");
    let mut scene = Scene::healthy(3);
    let mut newer = form;
    newer["state"]["v"] = Value::from(RECORD_VERSION + 1);
    // Whatever else has become of it.
    newer["state"]["writer"] = Value::from("a form that no agent knows yet");
    let store = stored(&layout(), &newer);
    assert!(matches!(store.state, StoredState::Unreadable(_)), "{:?}", store.state);
    scene.observed.store = Some(store);
    let decision = scene.decision();
    assert_eq!(decision.actions(), []);
    let why = "written by a newer consul-redis (format 2, this build knows 1): upgrade this one";
    let said = format!("redis-ha/redis/state is left alone: {why}");
    assert!(decision.said().contains(&said), "{:?}", decision.said());
    let status = assess(&scene.view(), &layout(), &scene.decision());
    let problem = status.problems.iter().find(|p| p.code == ProblemCode::StateUnreadable).unwrap();
    assert!(problem.text.ends_with(why), "{}", problem.text);
}

/// The agent that writes last has the newest form; an older agent that cannot read it leaves it alone.
#[test]
fn what_is_written_has_this_version() {
    let older = |record: &mut consul_redis_core::published::record::Record| {
        record.v = 0;
        record.instances.pop();
    };
    let record = Scene::healthy(3).published(older).write().record.expect("a record");
    assert_eq!(record.v, RECORD_VERSION);
}
