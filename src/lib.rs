//! Keydesk: the front desk for a team's LLM API keys.
pub mod app;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod http;
pub mod model;
pub mod secret;
pub mod store;
pub mod telemetry;
