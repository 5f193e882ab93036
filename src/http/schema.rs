//! How our words look in the specification, and how they are read from JSON.
//!
//! A body is one type: serde reads it strictly, and poem-openapi describes it. Both learn here what a role or a name is.

use std::{borrow::Cow, fmt::Display, str::FromStr};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use crate::{
    model::{
        GrantType, Network, Networks, Outcome, PrincipalKind, PrincipalName, ProjectName, Provider, Role,
        Scope, ScopeSet, Timestamp, network::MOST_NETWORKS,
    },
    secret::Secret,
};

/// Begins the messages that are ours among those of serde, which repeat what was sent.
pub(super) const OURS: char = '\u{1}';

/// Something of the model that is a text on the wire.
pub(super) trait Described: FromStr<Err: Display> + Display + Send + Sync {
    /// What it is.
    const NAME: &'static str;
    /// Its name in the specification, by which generated clients call it too; none where they have a type for it anyway.
    const SCHEMA: Option<&'static str>;
    /// What it looks like.
    fn schema() -> MetaSchema;
}

/// The same in a body.
#[derive(Clone, Debug)]
pub(super) struct Word<T>(pub(super) T);

fn pattern(description: &'static str, pattern: &str) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        pattern: Some(pattern.to_owned()),
        ..MetaSchema::new("string")
    }
}

fn one_of<const N: usize>(description: &'static str, words: [&'static str; N]) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        enum_items: words.map(Value::from).into(),
        ..MetaSchema::new("string")
    }
}

macro_rules! described {
    ($($type:ty, $name:literal, $schema_name:expr => $schema:expr;)*) => {$(
        impl Described for $type {
            const NAME: &'static str = $name;
            const SCHEMA: Option<&'static str> = $schema_name;
            fn schema() -> MetaSchema {
                $schema
            }
        }
    )*};
}

described! {
    PrincipalName, "name", Some("PrincipalName") => pattern("The name of a user or service account.", "^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$");
    ProjectName, "project", Some("ProjectName") => pattern("The name of a project.", "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$");
    Provider, "provider", Some("Provider") => pattern("An LLM vendor.", "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$");
    Role, "role", Some("Role") => one_of("What a principal may ask for at most.", Role::ALL.map(Role::as_str));
    GrantType, "grant type", Some("GrantType") => one_of("A way to a token (RFC 6749).", GrantType::ALL.map(GrantType::as_str));
    PrincipalKind, "principal kind", Some("PrincipalKind") => one_of("Person or machine.", PrincipalKind::ALL.map(PrincipalKind::as_str));
    Outcome, "outcome", Some("Outcome") => one_of("How it ended.", Outcome::ALL.map(Outcome::as_str));
    ScopeSet, "scope", Some("Scope") => {
        let names = Scope::ALL.map(Scope::as_str).join("|");
        pattern("Scopes, space-separated.", &format!("^({names})( ({names}))*$"))
    };
    Network, "network", Some("Network") => pattern("An address, or an address and a prefix length.", "^[0-9A-Fa-f.:]{2,45}(/[0-9]{1,3})?$");
    Timestamp, "moment", None => MetaSchema::new_with_format("string", "date-time");
}

/// A value that may be left out, but not be `null`.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A value that may be `null`, but not be left out.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

impl<'de, T: Described> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error: T::Err| {
            let words: Vec<_> =
                T::schema().enum_items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let rule =
                if words.is_empty() { error.to_string() } else { format!("one of {}", words.join(", ")) };
            D::Error::custom(format_args!("{OURS}a {} is not right: {rule}", T::NAME))
        })
    }
}

impl<T: Described> Type for Word<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let named = T::SCHEMA.map(|name| MetaSchemaRef::Reference(name.to_owned()));
        named.unwrap_or_else(|| MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    fn register(registry: &mut Registry) {
        if let Some(name) = T::SCHEMA {
            registry.create_schema::<Self, _>(name.to_owned(), |_| T::schema());
        }
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: Described> ToJSON for Word<T> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.to_string().into())
    }
}

impl<T: Described> ParseFromParameter for Word<T> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        // Never seen: the edge says in its own words which parameter is not right.
        text.parse().map(Self).map_err(|_| ParseError::custom("not right"))
    }
}

impl<T: Described> ParseFromJSON for Word<T> {
    fn parse_from_json(_: Option<Value>) -> ParseResult<Self> {
        Err(ParseError::custom("bodies are read by serde"))
    }
}

/// A list of networks in a body; where it is `NULLABLE`, `null` is anywhere.
#[derive(Clone, Debug)]
pub(super) struct NetworkList<const NULLABLE: bool>(pub(super) Networks);

impl<'de, const NULLABLE: bool> Deserialize<'de> for NetworkList<NULLABLE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let networks = if NULLABLE {
            Option::<Vec<Word<Network>>>::deserialize(deserializer)?
        } else {
            Some(Vec::deserialize(deserializer)?)
        };
        let Some(networks) = networks else { return Ok(Self(Networks::ANYWHERE)) };
        let within = Networks::within(networks.into_iter().map(|network| network.0).collect());
        within.map(Self).map_err(|error| D::Error::custom(format_args!("{OURS}{error}")))
    }
}

impl<const NULLABLE: bool> Type for NetworkList<NULLABLE> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "networks".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            items: Some(Box::new(Word::<Network>::schema_ref())),
            min_items: Some(1),
            max_items: Some(MOST_NETWORKS),
            nullable: NULLABLE,
            ..MetaSchema::new("array")
        }))
    }

    fn register(registry: &mut Registry) {
        Word::<Network>::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<const NULLABLE: bool> ToJSON for NetworkList<NULLABLE> {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(&self.0).ok()
    }
}

impl<const NULLABLE: bool> ParseFromJSON for NetworkList<NULLABLE> {
    fn parse_from_json(_: Option<Value>) -> ParseResult<Self> {
        Err(ParseError::custom("bodies are read by serde"))
    }
}

impl Type for Secret {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "secret".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let schema = MetaSchema { write_only: true, ..MetaSchema::new_with_format("string", "password") };
        MetaSchemaRef::Inline(Box::new(schema))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ToJSON for Secret {
    fn to_json(&self) -> Option<Value> {
        None
    }
}

impl ParseFromJSON for Secret {
    fn parse_from_json(_: Option<Value>) -> ParseResult<Self> {
        Err(ParseError::custom("bodies are read by serde"))
    }
}
