//! The integration suite: everything through the front door, HTTP against a running desk and the command line's binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod access;
mod admin;
mod alarms;
mod alarms_of_many;
mod asker;
mod bodies;
mod cli;
mod desk;
mod docs;
mod engine;
mod events;
mod forger;
mod guessing;
mod health;
mod kek;
mod limits;
mod llm_keys;
mod me;
mod metrics;
mod migrations;
mod networks;
mod openapi;
mod plans;
mod retention;
mod session;
mod structure;
mod support;
mod token;
