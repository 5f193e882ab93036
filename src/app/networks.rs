//! Who may come from where.
//!
//! Four lists, each of them "anywhere" unless an operator says otherwise: `server.allow_from` for the whole desk,
//! `admin.allow_from` for what needs more than `llm-keys:read`, the networks of a principal for every credential it has, and
//! those of an API key. All of them look at the one address that `http` has found out; the command line is not on any
//! network and is bound by none of them.

use super::{App, Error};
use crate::model::{Action, Caller, CredentialKind, Networks, Origin, Principal, Scope};

/// What the book says of whoever comes from the wrong place.
pub(super) const ELSEWHERE: &str = "network";

impl App {
    /// Whether requests from `source` are answered at all.
    pub fn answers(&self, source: &str) -> bool {
        self.settings.allow_from.cover(source)
    }

    /// Turns a request away for `error` before anything about it is looked at.
    pub async fn turn_away(&self, origin: &Origin, error: Error) -> Error {
        self.refuse(Action::RequestAdmit, origin, error).await
    }

    /// Whether the caller is where `scope` may be used.
    pub(super) fn may_use_here(&self, caller: &Caller, scope: Scope) -> bool {
        scope == Scope::LlmKeysRead
            || caller.credential == CredentialKind::OperatingSystem
            || self.settings.admin_allow_from.cover(&caller.origin.source)
    }
}

/// Whether a credential of `principal`, which may have a list of its `own`, may be used at `source`.
pub(super) fn allow(principal: &Principal, own: Option<&Networks>, source: &str) -> bool {
    principal.networks.cover(source) && own.is_none_or(|own| own.cover(source))
}
