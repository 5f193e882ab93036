//! The database: SQL and nothing else.
//!
//! One file per group of tables, with free functions that take a [`Connection`] first. They see sealed bytes and digests
//! and can name no secret type. What depends on the engine is in [`db`]; elsewhere there is only portable SQL.

pub mod alarms;
pub mod api_keys;
pub mod askers;
pub mod audit_checkpoints;
pub mod audit_events;
pub mod audit_streams;
pub mod client_secrets;
mod db;
pub mod dump;
pub mod grants;
pub mod imports;
pub mod keys;
pub mod outbox;
pub mod principals;
pub mod projects;
pub mod provider_keys;
pub mod rate_limits;
pub mod throttles;
pub mod token_families;

pub use db::{Alone, Connection, Database, Hearing, Held, Server, Store, StoreError, Tx};
