//! Statements and what is bound to them.

use sqlx::{Sqlite, sqlite::SqliteArguments};

use crate::model::{Id, Mac, Networks, Timestamp, TokenDigest};

/// A statement with its arguments. Its text is fixed when the program is built, so nothing a client sends can be part of it.
pub(in crate::store) struct Statement {
    pub(super) text: &'static str,
    arguments: Vec<Value>,
}

/// A statement; `$1`, `$2`, … are given with [`Statement::bind`] in order.
pub(in crate::store) fn sql(text: &'static str) -> Statement {
    Statement { text, arguments: Vec::new() }
}

impl Statement {
    pub(in crate::store) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.arguments.push(value.into());
        self
    }

    pub(super) fn query(self) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
        self.arguments.into_iter().fold(sqlx::query(self.text), |query, value| match value {
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
        })
    }
}

/// What can be bound to a statement.
pub(in crate::store) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! into_value {
    ($($from:ty => |$value:ident| $variant:ident($convert:expr);)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                Self::$variant(Some($convert))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$variant(value.map(|$value| $convert))
            }
        }
    )*};
}
into_value! {
    i64 => |value| Int(value);
    bool => |value| Int(i64::from(value));
    Timestamp => |value| Int(value.micros());
    &str => |value| Text(value.to_owned());
    String => |value| Text(value);
    Id => |value| Bytes(value.as_bytes().to_vec());
    TokenDigest => |value| Bytes(value.0.to_vec());
    Mac => |value| Bytes(value.0.to_vec());
    Vec<u8> => |value| Bytes(value);
    [u8; 16] => |value| Bytes(value.to_vec());
    [u8; 32] => |value| Bytes(value.to_vec());
}

impl From<&Networks> for Value {
    fn from(networks: &Networks) -> Self {
        // An array of texts: it cannot fail.
        Self::Text(networks.list().and_then(|list| serde_json::to_string(list).ok()))
    }
}
