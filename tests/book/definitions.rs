//! The config file's definitions, read from their source: keys, types, and what their comments say.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use syn::{Attribute, Expr, Field, GenericArgument, Item, Lit, Meta, PathArguments, Type};

use crate::read;

/// A table of the config file.
pub struct Table {
    /// What its comment says.
    pub intro: String,
    /// Its keys, as they stand in the source.
    pub keys: Vec<Key>,
}

/// A key of a table.
pub struct Key {
    /// As it is written.
    pub name: String,
    /// What it may be.
    pub kind: Kind,
    /// It cannot be left out.
    pub required: bool,
    /// What it means.
    pub meaning: String,
    /// What its comment says is the default, where no constant does.
    pub default: Option<String>,
}

/// What a value may be.
pub enum Kind {
    Text,
    File,
    Address,
    Socket,
    Flag,
    Time,
    Count(u64),
    Quorum,
    Words(Vec<String>),
    List(Box<Kind>),
    Texts,
    Table(String),
}

impl Kind {
    /// As a reader wants it.
    pub fn shown(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::File => "file".to_owned(),
            Self::Address => "`host:port`".to_owned(),
            Self::Socket => "`ip:port`".to_owned(),
            Self::Flag => "`true`, `false`".to_owned(),
            Self::Time => "time".to_owned(),
            Self::Count(_) => "number".to_owned(),
            Self::Quorum => "number, `\"auto\"`".to_owned(),
            Self::Words(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Self::List(of) => format!("list: {}", of.shown()),
            Self::Texts => "texts by name".to_owned(),
            Self::Table(_) => "table".to_owned(),
        }
    }

    /// As JSON schema has it.
    pub fn schema(&self) -> Value {
        match self {
            Self::Text | Self::File | Self::Address | Self::Socket => json!({"type": "string"}),
            Self::Time => json!({"type": "string", "examples": ["500ms", "10s", "5m", "1h"]}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Count(most) => json!({"type": "integer", "minimum": 0, "maximum": most}),
            Self::Quorum => {
                json!({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]})
            }
            Self::Words(words) => json!({"enum": words}),
            Self::List(of) => json!({"type": "array", "items": of.schema()}),
            Self::Texts => {
                json!({"type": "object", "additionalProperties": {"type": "string"}})
            }
            Self::Table(name) => json!({"$ref": format!("#/$defs/{name}")}),
        }
    }
}

/// Every table, by the name of its type; the file itself is `File`.
pub fn tables() -> BTreeMap<String, Table> {
    let enums = words_of(&[
        "src/config/file.rs",
        "core/src/published/record.rs",
        "core/src/published/notices.rs",
        "core/src/policy.rs",
    ]);
    let file = syn::parse_file(&read("src/config/file.rs")).expect("the source parses");
    let structs = file.items.into_iter().filter_map(|item| match item {
        Item::Struct(table) if table.fields.iter().all(|field| field.ident.is_some()) => {
            Some(table)
        }
        _ => None,
    });
    structs
        .map(|table| {
            let optional = table.attrs.iter().any(is_serde_default);
            let keys = table.fields.iter().map(|field| key(field, optional, &enums)).collect();
            (table.ident.to_string(), Table { intro: comment(&table.attrs), keys })
        })
        .collect()
}

/// The words of every enum without fields.
fn words_of(sources: &[&str]) -> BTreeMap<String, Vec<String>> {
    let items = sources.iter().flat_map(|path| {
        syn::parse_file(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}")).items
    });
    items
        .filter_map(|item| match item {
            Item::Enum(all) if all.variants.iter().all(|variant| variant.fields.is_empty()) => {
                let word = |variant: &syn::Variant| variant.ident.to_string().to_lowercase();
                Some((all.ident.to_string(), all.variants.iter().map(word).collect()))
            }
            _ => None,
        })
        .collect()
}

fn key(field: &Field, optional: bool, enums: &BTreeMap<String, Vec<String>>) -> Key {
    let name = field.ident.as_ref().expect("a name").to_string();
    let said = comment(&field.attrs);
    let (meaning, default) = match said.split_once(" Default: ") {
        Some((meaning, default)) => {
            (meaning.to_owned(), Some(default.trim_end_matches('.').to_owned()))
        }
        None => (said, None),
    };
    let required = !optional && !field.attrs.iter().any(is_serde_default);
    Key { kind: kind(&field.ty, enums, &name), name, required, meaning, default }
}

fn kind(ty: &Type, enums: &BTreeMap<String, Vec<String>>, key: &str) -> Kind {
    let Type::Path(path) = ty else { panic!("{key}: a type without a name") };
    let last = path.path.segments.last().expect("a name");
    let inner = || match &last.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(GenericArgument::Type(ty)) => kind(ty, enums, key),
            _ => panic!("{key}: of what?"),
        },
        _ => panic!("{key}: of what?"),
    };
    let name = last.ident.to_string();
    match name.as_str() {
        "Option" | "Spanned" => inner(),
        "Vec" => Kind::List(Box::new(inner())),
        "BTreeMap" => Kind::Texts,
        "String" | "GroupName" | "ServiceName" | "MarkKey" | "Zone" => Kind::Text,
        "PathBuf" => Kind::File,
        "Address" => Kind::Address,
        "SocketAddr" => Kind::Socket,
        "bool" => Kind::Flag,
        "Span" => Kind::Time,
        "u8" => Kind::Count(u8::MAX.into()),
        "u16" => Kind::Count(u16::MAX.into()),
        "u64" => Kind::Count(i64::MAX.unsigned_abs()),
        "Quorum" => Kind::Quorum,
        _ if name.ends_with("Table") => Kind::Table(name),
        _ => Kind::Words(
            enums.get(&name).unwrap_or_else(|| panic!("{key}: what is a {name}?")).clone(),
        ),
    }
}

fn is_serde_default(attribute: &Attribute) -> bool {
    let mut found = false;
    if attribute.path().is_ident("serde") {
        attribute
            .parse_nested_meta(|meta| {
                found |= meta.path.is_ident("default");
                Ok(())
            })
            .expect("an attribute of serde's");
    }
    found
}

/// A doc comment as one line.
pub fn comment(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}
