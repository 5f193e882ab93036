//! Statements and what is bound to them.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use sqlx::{Postgres, Sqlite, postgres::PgArguments, query::Query, sqlite::SqliteArguments};

use crate::model::{Id, Mac, Networks, Timestamp, TokenDigest};

/// A statement with its arguments. Its text is fixed when the program is built, so nothing a client sends can be part of it.
pub(in crate::store) struct Statement {
    pub(super) text: &'static str,
    arguments: Vec<Value>,
    /// How many rows have places that nothing was bound to, behind the others; and how wide each is.
    empty: (usize, usize),
}

/// A statement; `$1`, `$2`, … are given with [`Statement::bind`] in order.
pub(in crate::store) fn sql(text: &'static str) -> Statement {
    Statement { text, arguments: Vec::new(), empty: (0, 0) }
}

impl Statement {
    pub(in crate::store) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.arguments.push(value.into());
        self
    }

    /// Of the rows that the text has places for, these at its end are left empty, where the others have been bound.
    pub(super) fn leave_empty(mut self, rows: usize, bound: usize) -> Self {
        self.empty = (rows, self.arguments.len() / bound);
        self
    }

    /// This one, and `other` behind it, sent at once. Their places are `?`.
    pub(super) fn followed_by(mut self, other: Self) -> Self {
        static JOINED: Texts<(&str, &str)> = Texts::new();
        self.text = JOINED.made((self.text, other.text), |(first, second)| format!("{first}; {second}"));
        self.arguments.extend(other.arguments);
        self
    }

    /// For SQLite, where places that nothing is bound to are null.
    pub(super) fn sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        self.arguments.into_iter().fold(sqlx::query(self.text), |query, value| match value {
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
        })
    }

    /// For PostgreSQL, where each place has a type and is given something.
    pub(super) fn postgres(mut self) -> Query<'static, Postgres, PgArguments> {
        let (rows, width) = self.empty;
        for _ in 0..rows * width {
            let null = self.arguments[self.arguments.len() - width].null();
            self.arguments.push(null);
        }
        self.arguments.into_iter().fold(sqlx::query(numbered(self.text)), |query, value| match value {
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value.map(without_zeros)),
            Value::Bytes(value) => query.bind(value),
        })
    }
}

/// PostgreSQL knows no zero in a text, and refuses the whole statement. Nothing that is stored has one, so that whoever asks for
/// one finds nothing.
fn without_zeros(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// The text with a number for each `?`, which PostgreSQL does not know. None of our texts has one in a literal.
fn numbered(text: &'static str) -> &'static str {
    static NUMBERED: Texts<&str> = Texts::new();
    if !text.contains('?') {
        return text;
    }
    NUMBERED.made(text, |text| {
        let mut parts = text.split('?').enumerate();
        let first = parts.next().map_or("", |(_, part)| part).to_owned();
        parts.fold(first, |made, (number, part)| format!("{made}${number}{part}"))
    })
}

/// Texts that are made of the program's own, once each: as many as it has.
struct Texts<K>(RwLock<BTreeMap<K, &'static str>>);

impl<K: Ord + Copy> Texts<K> {
    const fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    fn made(&self, of: K, make: impl FnOnce(K) -> String) -> &'static str {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&of) {
            return known;
        }
        let mut texts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        texts.entry(of).or_insert_with(|| Box::leak(make(of).into_boxed_str()))
    }
}

/// What a column holds, apart from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Int,
    Text,
    Bytes,
}

/// What can be bound to a statement.
#[derive(Clone)]
pub(in crate::store) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Value {
    /// Nothing, of the same type.
    const fn null(&self) -> Self {
        match self {
            Self::Int(_) => Self::Int(None),
            Self::Text(_) => Self::Text(None),
            Self::Bytes(_) => Self::Bytes(None),
        }
    }
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
