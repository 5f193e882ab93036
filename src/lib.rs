//! Keydesk: the front desk for a team's LLM API keys.
pub mod crypto;
pub mod model;
pub mod secret;
pub mod store;
