//! consul-template, as far as our templates need it: they are rendered from keys, and one that waits is not rendered.

use std::cell::RefCell;
use std::collections::BTreeMap;

use gtmpl::{Context, FuncError, Template, Value};

/// A key that is not there: consul-template goes on waiting for it, and renders nothing.
const WAITS: &str = "waits for ";

thread_local! {
    /// What Consul holds: a template's functions are plain ones.
    static KEYS: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// What it renders.
///
/// # Errors
/// The key that it waits for, or what is wrong with it.
pub fn render(template: &str, keys: &[(&str, &str)]) -> Result<String, String> {
    let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    KEYS.set(keys.collect());
    let mut parsed = Template::default();
    parsed.add_func("key", key);
    parsed.add_func("parseJSON", parse_json);
    parsed.add_func("regexReplaceAll", regex_replace_all);
    parsed.add_func("printf", whole);
    parsed.parse(template).map_err(|error| error.to_string())?;
    parsed.render(&Context::empty()).map_err(|error| format!("{error:?}"))
}

/// Whether that is why a template was not rendered.
pub fn waits_for(error: &str, key: &str) -> bool {
    error.contains(&format!("{WAITS}{key}"))
}

fn texts<const N: usize>(args: &[Value]) -> Result<[String; N], FuncError> {
    let texts: Vec<String> = args.iter().map(ToString::to_string).collect();
    texts.try_into().map_err(|_| FuncError::ExactlyXArgs("a function".to_owned(), N))
}

fn key(args: &[Value]) -> Result<Value, FuncError> {
    let [name] = texts(args)?;
    let found = KEYS.with_borrow(|keys| keys.get(&name).cloned());
    found.map(Value::from).ok_or_else(|| FuncError::Generic(format!("{WAITS}{name}")))
}

fn parse_json(args: &[Value]) -> Result<Value, FuncError> {
    let [text] = texts(args)?;
    let json = serde_json::from_str(&text).map_err(|e| FuncError::Generic(e.to_string()))?;
    Ok(value(json))
}

fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(truth) => truth.into(),
        serde_json::Value::Number(number) => number.as_i64().expect("a whole number").into(),
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(all) => Value::Array(all.into_iter().map(value).collect()),
        serde_json::Value::Object(all) => {
            Value::Map(all.into_iter().map(|(name, inner)| (name, value(inner))).collect())
        }
    }
}

/// A number of JSON without a fraction: in Go it is a floating one, and would become `1e+06`.
fn whole(args: &[Value]) -> Result<Value, FuncError> {
    let [format, number] = texts(args)?;
    let number = number.parse::<f64>().map_err(|e| FuncError::Generic(e.to_string()))?;
    if format != "%.0f" {
        return Err(FuncError::Generic(format!("`{format}` is not known here")));
    }
    Ok(format!("{number:.0}").into())
}

/// Pattern, replacement, and what comes down the pipe.
fn regex_replace_all(args: &[Value]) -> Result<Value, FuncError> {
    let [pattern, replacement, text] = texts(args)?;
    let pattern = regex::Regex::new(&pattern).map_err(|e| FuncError::Generic(e.to_string()))?;
    Ok(pattern.replace_all(&text, replacement.as_str()).into_owned().into())
}
