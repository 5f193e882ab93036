//! The command line, as people and scripts use it.

mod backup;
mod client;
mod config;
mod desk;
pub(crate) mod help;
mod import;
mod kek;
mod start;
