//! Rows and how they are read.

use sqlx::{Decode, Postgres, Row as _, Sqlite, Type, ValueRef as _, postgres::PgRow, sqlite::SqliteRow};

use super::{
    StoreError, inconsistent,
    statement::{Kind, Value},
};
use crate::model::{Id, Mac, Networks, Timestamp};

/// Reads one row.
pub(in crate::store) type Read<T> = fn(&Row<'_>) -> Result<T, StoreError>;

/// A row of a result. Each accessor names the column it could not read.
pub(in crate::store) enum Row<'r> {
    Sqlite(&'r SqliteRow),
    Postgres(&'r PgRow),
}

impl Row<'_> {
    fn get<'r, T>(&'r self, column: &str) -> Result<T, StoreError>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|_| inconsistent(column))
    }

    /// Whatever is in a column of this kind.
    pub(in crate::store) fn value(&self, column: &str, kind: Kind) -> Result<Value, StoreError> {
        Ok(match kind {
            Kind::Int => Value::Int(self.get(column)?),
            Kind::Text => Value::Text(self.get(column)?),
            Kind::Bytes => Value::Bytes(self.get(column)?),
        })
    }

    pub(in crate::store) fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.get(column)
    }

    /// Whether a condition holds: a number in SQLite.
    pub(in crate::store) fn is(&self, column: &str) -> Result<bool, StoreError> {
        self.get(column)
    }

    pub(in crate::store) fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.int(column).map(Timestamp::from_micros)
    }

    pub(in crate::store) fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
    }

    pub(in crate::store) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.get(column)
    }

    pub(in crate::store) fn maybe_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.get(column)
    }

    pub(in crate::store) fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        self.get(column)
    }

    pub(in crate::store) fn id(&self, column: &str) -> Result<Id, StoreError> {
        let bytes: [u8; 16] = self.bytes(column)?.try_into().map_err(|_| inconsistent(column))?;
        Ok(Id::from_bytes(bytes))
    }

    pub(in crate::store) fn maybe_id(&self, column: &str) -> Result<Option<Id>, StoreError> {
        if self.is_null(column) { Ok(None) } else { self.id(column).map(Some) }
    }

    fn is_null(&self, column: &str) -> bool {
        match self {
            Self::Sqlite(row) => row.try_get_raw(column).is_ok_and(|value| value.is_null()),
            Self::Postgres(row) => row.try_get_raw(column).is_ok_and(|value| value.is_null()),
        }
    }

    pub(in crate::store) fn maybe_mac(&self, column: &str) -> Result<Option<Mac>, StoreError> {
        let bytes = self.get::<Option<Vec<u8>>>(column)?;
        bytes.map(|bytes| bytes.try_into().map(Mac)).transpose().map_err(|_| inconsistent(column))
    }

    /// Networks as a JSON array; null is anywhere.
    pub(in crate::store) fn networks(&self, column: &str) -> Result<Networks, StoreError> {
        let Some(text) = self.maybe_text(column)? else { return Ok(Networks::ANYWHERE) };
        let texts: Vec<String> = serde_json::from_str(&text).map_err(|_| inconsistent(column))?;
        let networks: Result<Vec<_>, _> = texts.iter().map(|text| text.parse()).collect();
        networks.ok().and_then(|list| Networks::within(list).ok()).ok_or_else(|| inconsistent(column))
    }

    /// A text that is one of our words or names.
    pub(in crate::store) fn parsed<T: std::str::FromStr>(&self, column: &str) -> Result<T, StoreError> {
        self.text(column)?.parse().map_err(|_| inconsistent(column))
    }
}
