//! Projects, and who may fetch which of their keys.

use std::collections::BTreeSet;

use super::{Id, PrincipalName, ProjectName, Provider, Timestamp};

/// A named set of provider keys.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Project {
    /// Its identifier.
    #[serde(skip)]
    pub id: Id,
    /// Its unique name.
    pub name: ProjectName,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A principal's right to a project's keys: all of them, or only some providers'.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Grant {
    /// Who.
    pub principal: PrincipalName,
    /// On which project.
    pub project: ProjectName,
    /// Only these providers; `None` is all of the project's, present and future.
    pub providers: Option<BTreeSet<Provider>>,
    /// Since when.
    pub created_at: Timestamp,
}

/// A principal's own grant, as the access decision needs it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Granted {
    /// The project.
    #[serde(skip)]
    pub project_id: Id,
    /// Its name.
    pub project: ProjectName,
    /// Only these providers; `None` is all.
    pub providers: Option<BTreeSet<Provider>>,
}

/// Whether a grant limited to `providers` covers `provider`.
pub fn permits(providers: Option<&BTreeSet<Provider>>, provider: &Provider) -> bool {
    providers.is_none_or(|some| some.contains(provider))
}
