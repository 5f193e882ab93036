//! What users and service accounts have in common on the wire.

use std::collections::BTreeSet;

use poem_openapi::Object;
use serde::Deserialize;

use crate::{
    app::principals::Patch,
    http::{
        answer::{Versioned, etag},
        payload::{JsonBody, list},
        schema::{NetworkList, Word, present},
    },
    model::{GrantType, PrincipalKind, ProjectName, Role},
};

/// A user or service account.
#[derive(Object)]
pub(super) struct Principal {
    /// Its identifier, the `sub` of its access tokens.
    id: String,
    /// Person or machine.
    kind: Word<PrincipalKind>,
    /// Its name; for a service account also the OAuth `client_id`.
    name: String,
    /// What it may ask for at most.
    role: Word<Role>,
    /// The grant types it may use at the token endpoint.
    grant_types: Vec<Word<GrantType>>,
    /// From which networks its credentials may be used; null is anywhere.
    #[oai(nullable)]
    networks: Option<Vec<String>>,
    /// Since when it is shut out; absent while it is not.
    #[oai(skip_serializing_if_is_none)]
    disabled_at: Option<String>,
    /// When it was made.
    created_at: String,
    /// Grows with every change; the `ETag` in digits.
    version: i64,
}

list! {
    /// Users or service accounts, by name.
    PrincipalList of Principal
}

/// What to change; what is left out stays as it is.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrincipalPatch {
    /// What it may ask for at most.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    role: Option<Word<Role>>,
    /// Whether it is shut out. Every credential of theirs is dead at once; letting them in again does not revive sessions.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    disabled: Option<bool>,
    /// The grant types it may use at the token endpoint, out of those of its kind.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    grant_types: Option<Vec<Word<GrantType>>>,
    /// Addresses and networks from which its credentials may be used; `null` is anywhere. In force at once.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    networks: Option<NetworkList<true>>,
}

impl From<PrincipalPatch> for Patch {
    fn from(patch: PrincipalPatch) -> Self {
        let grant_types =
            |types: Vec<Word<GrantType>>| types.into_iter().map(|word| word.0).collect::<BTreeSet<_>>();
        Self {
            role: patch.role.map(|role| role.0),
            disabled: patch.disabled,
            grant_types: patch.grant_types.map(grant_types),
            networks: patch.networks.map(|networks| networks.0),
        }
    }
}

/// The answer with a principal and its version.
pub(super) fn versioned(principal: &crate::model::Principal) -> Versioned<Principal> {
    Versioned::Found(JsonBody::of(principal), etag(principal.version))
}

/// The projects of a new principal.
pub(super) fn projects(words: Option<Vec<Word<ProjectName>>>) -> Vec<ProjectName> {
    words.into_iter().flatten().map(|word| word.0).collect()
}
