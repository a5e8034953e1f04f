//! minijinja, set up: an unknown name is an error, nothing is escaped, and no template runs for ever.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;

/// Instructions that one rendering may take: some seconds' worth.
const FUEL: u64 = 10_000_000;
/// Longest rendered file, in bytes.
pub const RENDERED_LEN_MAX: usize = 16 * 1024 * 1024;

/// Checks a template without rendering it.
///
/// # Errors
/// What is wrong, and on which line.
pub fn parse(name: &str, source: &str) -> Result<(), String> {
    environment()?.template_from_named_str(name, source).map(drop).map_err(|e| in_words(name, &e))
}

/// Renders a template, which sees the fields of `context`.
///
/// # Errors
/// What is wrong, and on which line.
pub fn render(name: &str, source: &str, context: &impl Serialize) -> Result<String, String> {
    let environment = environment()?;
    let text = environment
        .template_from_named_str(name, source)
        .and_then(|template| template.render(Value::from(Serde(context))))
        .map_err(|error| in_words(name, &error))?;
    if text.len() > RENDERED_LEN_MAX {
        return Err(format!("{name}: the result is longer than {RENDERED_LEN_MAX} bytes"));
    }
    Ok(text)
}

fn environment() -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .map_err(|error| error.to_string())?;
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // By its ending, a .json or .yml file would be escaped in ways of minijinja's own.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("shell", shell);
    environment.add_filter("env_name", env_name);
    environment.add_function("fail", fail);
    Ok(environment)
}

/// `'text'`, as a shell reads it back.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A name as environment variables have them: `my-cache.1` is `MY_CACHE_1`.
fn env_name(text: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = text.chars().map(letter).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// Ends the rendering, with a reason: the file stays as it is.
fn fail(why: String, _: Kwargs) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, why))
}

/// `file:line: what`.
fn in_words(name: &str, error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{name}:{line}: {what}"),
        None => format!("{name}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::tests::record;
    use super::super::context::{Context, GroupRecords};
    use super::*;
    use crate::config::file::OnNoWriter;

    fn context(writer: Option<&str>) -> Context {
        let mut picture = GroupRecords::new(["my-cache".parse().unwrap()]);
        picture.learn(&"my-cache".parse().unwrap(), record("my-cache", 7, writer));
        picture.context(OnNoWriter::Render).unwrap()
    }

    fn rendered(source: &str) -> Result<String, String> {
        render("a.j2", source, &context(Some("10.0.0.9:1")))
    }

    #[test]
    fn groups_are_seen_by_name_and_in_turn() {
        let source = "{% for name, group in groups | items %}\n\
                      {{ name | env_name }}={{ group.writer.address | shell }} {{ group.generation }}\n\
                      {% endfor %}\n";
        assert_eq!(rendered(source).unwrap(), "MY_CACHE='10.0.0.9:1' 7\n");
        let source =
            "{{ groups['my-cache'].writer.port + 1 }} {{ groups['my-cache'].instances[0].role }}";
        assert_eq!(rendered(source).unwrap(), "2 primary");
        assert_eq!(rendered("{{ groups | tojson }}").unwrap().matches("10.0.0.9").count(), 4);
    }

    #[test]
    fn an_unknown_name_is_an_error_with_its_line() {
        for (source, said) in [
            ("a\n{{ grups }}", "a.j2:2: undefined value: `grups` is undefined"),
            ("{{ groups.other.writer }}", "a.j2:1: undefined value: `groups.other` is undefined"),
            (
                "{% if groups['my-cache'].wirter %}{% endif %}",
                "a.j2:1: undefined value: `groups['my-cache'].wirter` is undefined",
            ),
            ("\n\n{{ 1 | nosuch }}", "a.j2:3: unknown filter"),
            ("{% for %}", "a.j2:1: syntax error"),
            ("{{ fail('there is no writer') }}", "a.j2:1: invalid operation: there is no writer"),
        ] {
            let error = rendered(source).unwrap_err();
            assert!(error.starts_with(said), "{source}: {error}");
        }
    }

    #[test]
    fn no_writer_is_distinguishable_and_has_no_host() {
        let context = context(None);
        let ask = "{% if groups['my-cache'].writer %}yes{% else %}no{% endif %}";
        assert_eq!(render("a.j2", ask, &context).unwrap(), "no");
        let host = "{{ groups['my-cache'].writer.host }}";
        assert!(render("a.j2", host, &context).unwrap_err().contains("undefined"));
    }

    #[test]
    fn an_endless_template_ends() {
        let source =
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        assert!(rendered(source).unwrap_err().contains("fuel"));
    }

    #[test]
    fn shells_read_back_what_was_quoted() {
        assert_eq!(shell("it's"), r"'it'\''s'");
        assert_eq!(env_name("1.cache"), "_1_CACHE");
    }
}
