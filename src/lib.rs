//! Keydesk: the front desk for a team's LLM API keys.
//!
//! People and machines prove who they are, get exactly the provider keys they may use, and every handover is written in
//! the book before the key leaves. This library is the whole program; the binary only calls [`cli`].
//!
//! What may import what is fixed, and a test enforces it:
//!
//! ```text
//! main ─► cli ─► http ─► app ─► store ─► model
//!         cli ──► app ─► crypto ─► model
//!         cli ─► client ─► crypto ─► model
//! ```
//!
//! - [`model`]: nouns and rules; pure.
//! - [`crypto`]: digests, password hashing, sealing at rest, access tokens.
//! - [`store`]: SQL only; sees sealed bytes and digests, never a secret.
//! - [`app`]: the operations. Each takes the caller first, authorises, works, and writes its audit event.
//! - [`http`]: wire to operation and back.
//! - [`webhook`]: posts the messages that the app has due.
//! - [`client`]: a desk as those see it who fetch keys from it; knows nothing of the parts above.
//! - [`cli`]: arguments to operation and back; `serve` is one of its commands.
//! - [`metrics`]: what is counted and measured.
//! - [`config`], [`telemetry`], [`secret`]: what the operator decided, the log, text that must not be seen.
//! - [`version`]: which Keydesk this is.

pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod crypto;
pub mod http;
pub mod metrics;
pub mod model;
pub mod secret;
pub mod store;
pub mod telemetry;
pub mod version;
pub mod webhook;
