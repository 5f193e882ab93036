//! Who is asking, proven by what, from where: the first argument of every operation.

use std::sync::Arc;

use super::{Granted, Id, PrincipalKind, Scope, ScopeSet};

/// Where a request came from, for the book.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The address of the peer, or `local` for the command line.
    pub source: String,
    /// The identifier under which the request is logged and answered.
    pub request_id: String,
}

/// What was shown to prove who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// A user name and password at the token endpoint.
    Password,
    /// A refresh token at the token endpoint.
    RefreshToken,
    /// A client id and secret at the token endpoint.
    ClientSecret,
    /// An access token.
    AccessToken,
    /// An API key.
    ApiKey,
    /// Access to the data directory: the command line, or the server itself at start.
    OperatingSystem,
}

impl CredentialKind {
    /// The name in the book.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::RefreshToken => "refresh_token",
            Self::ClientSecret => "client_secret",
            Self::AccessToken => "access_token",
            Self::ApiKey => "api_key",
            Self::OperatingSystem => "operating_system",
        }
    }
}

/// An authenticated asker.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal, unless it is the operating system's user.
    pub principal: Option<(Id, PrincipalKind)>,
    /// The name under which the book knows the asker.
    pub name: String,
    /// The OAuth client that asks in its name, where there is one.
    pub client_id: Option<String>,
    /// What this credential allows.
    pub scopes: ScopeSet,
    /// Which keys the principal is granted, by project.
    pub grants: Arc<[Granted]>,
    /// What was shown.
    pub credential: CredentialKind,
    /// From where.
    pub origin: Origin,
    /// The revision of the database at which all of this was found to be so.
    pub revision: i64,
}

impl Caller {
    /// The person at the command line, or the server itself: whoever can read the KEK and write the database needs no
    /// further permission.
    pub fn operating_system(user: &str, request_id: String) -> Self {
        Self {
            principal: None,
            name: format!("os:{user}"),
            client_id: None,
            scopes: ScopeSet::all(),
            grants: Arc::default(),
            credential: CredentialKind::OperatingSystem,
            origin: Origin { source: "local".to_owned(), request_id },
            revision: 0,
        }
    }

    /// Whether the credential carries `scope`.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(scope)
    }

    /// Whether the caller may give `scopes` to somebody: nobody gives what they lack, but for fetching keys, which takes a
    /// grant besides.
    pub fn may_give(&self, scopes: ScopeSet) -> bool {
        scopes.is_subset_of(self.scopes.with(Scope::LlmKeysRead))
    }

    /// The caller's own identifier, unless it is the operating system's user.
    pub fn own_id(&self) -> Option<Id> {
        self.principal.map(|(id, _)| id)
    }
}
