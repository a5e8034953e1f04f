//! What a target is sent: the event as it is, or what a template makes of it.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::core::published::notices::{
    NOTICES_VERSION, Notice, NoticeKind, NoticeSeverity, NoticeSubject,
};
use crate::core::time::after;
use crate::render::engine;

/// Largest template, in bytes.
const SOURCE_LEN_MAX: u64 = 1024 * 1024;
/// How long after the event its template's `expires` is, in ms.
const EXPIRES_AFTER_MS: i64 = 24 * 3_600 * 1_000;

/// The body that tells of `notice`; `template` sees its fields, `key` and `expires`.
///
/// # Errors
/// What is wrong with the template, and on which line; or that it does not come to JSON.
pub fn render(
    template: Option<&Path>,
    notice: &Notice,
    key: Option<&SecretString>,
) -> Result<Vec<u8>, String> {
    let Some(path) = template else {
        return serde_json::to_vec(notice).map_err(|error| error.to_string());
    };
    let name = path.display().to_string();
    let cannot = |error: std::io::Error| format!("cannot read {name}: {error}");
    if std::fs::metadata(path).map_err(cannot)?.len() > SOURCE_LEN_MAX {
        return Err(format!("{name} is longer than {SOURCE_LEN_MAX} bytes"));
    }
    let source = std::fs::read_to_string(path).map_err(cannot)?;
    let mut seen = serde_json::to_value(notice).map_err(|error| error.to_string())?;
    if let Value::Object(fields) = &mut seen {
        let expires = after(notice.at, EXPIRES_AFTER_MS);
        fields.insert("expires".to_owned(), Value::from(expires.to_string()));
        let key = key.map(|key| Value::from(key.expose_secret()));
        fields.insert("key".to_owned(), key.unwrap_or(Value::Null));
    }
    let text = engine::render(&name, &source, &seen)?;
    // Its words only have a place: what stands there may be a secret.
    serde_json::from_str::<Value>(&text).map_err(|error| {
        format!("{name} does not come to JSON for `{}`: {error}", notice.event.as_str())
    })?;
    Ok(text.into_bytes())
}

/// One of each kind, at addresses that are for examples (TEST-NET-1).
pub fn samples(subject: &NoticeSubject) -> Vec<Notice> {
    let sample = |event: NoticeKind| {
        let of_problem = matches!(event, NoticeKind::Problem | NoticeKind::Resolved);
        let address = |host: &str| format!("{host}:6379").parse().ok();
        Notice {
            v: NOTICES_VERSION,
            id: subject.id_of(1),
            incident: subject.id_of(1),
            ends: event.ends(),
            event,
            severity: NoticeSeverity::Warning,
            at: jiff::Timestamp::UNIX_EPOCH,
            group: subject.group.clone(),
            service: subject.service.clone(),
            name: format!("{}.service.consul", subject.service.primary()),
            old: address("192.0.2.1").filter(|_| !of_problem),
            new: address("192.0.2.2").filter(|_| event == NoticeKind::Switch),
            generation: 1,
            code: of_problem.then(|| "no-writer".to_owned()),
            why: "an \"example\"".to_owned(),
            text: "an \"example\"\nof two lines".to_owned(),
            by: subject.agent.clone(),
            told_by: subject.agent.clone(),
        }
    };
    NoticeKind::ALL.into_iter().map(sample).collect()
}
