//! The token endpoint's operation: prove who you are, get an access token (RFC 6749 §4.3, §4.4, §6; RFC 9068).

use super::{
    App, Error, MOST_DECISIONS,
    client::{Client, ClientCredentials},
};
use crate::{
    crypto::jwt::AccessClaims,
    model::{
        Action, AuditEvent, GrantType, Id, Origin, Principal, PrincipalKind, PrincipalName, Scope, ScopeSet,
        Timestamp,
    },
    secret::Secret,
};

/// A token request, as its form said it. Empty parameters are absent (RFC 6749 §3.2).
#[derive(Debug, Default)]
pub struct TokenRequest {
    /// `grant_type`.
    pub grant_type: Option<String>,
    /// `username`.
    pub username: Option<String>,
    /// `password`.
    pub password: Option<Secret>,
    /// `refresh_token`.
    pub refresh_token: Option<Secret>,
    /// `scope`.
    pub scope: Option<String>,
    /// The client.
    pub client: ClientCredentials,
}

/// A successful answer (RFC 6749 §5.1).
#[derive(Debug)]
pub struct IssuedToken {
    /// The signed JWT.
    pub access_token: Secret,
    /// For how many seconds it is valid.
    pub expires_in: u64,
    /// What it allows.
    pub scope: ScopeSet,
    /// The next refresh token, where the grant gives one.
    pub refresh_token: Option<Secret>,
    /// To whom it was issued.
    pub principal: PrincipalName,
    /// The access token's `jti`, for the book.
    pub id: String,
}

impl App {
    /// Issues an access token, or says why not. Either is in the book before it is answered.
    pub async fn issue_token(&self, mut request: TokenRequest, origin: Origin) -> Result<IssuedToken, Error> {
        let mut event = AuditEvent::anonymous(&origin, Action::TokenIssue);
        let mut decided = self.grant(&mut request, &mut event).await;
        // Access was changed in the middle: the client is authenticated again, and its token signed again.
        let mut held = None;
        for decisions in 1..MOST_DECISIONS {
            if !matches!(decided, Err(Error::Stale)) {
                break;
            }
            if held.is_none() {
                held = self.decide_after(decisions).await?;
            }
            event = AuditEvent::anonymous(&origin, Action::TokenIssue);
            decided = self.grant(&mut request, &mut event).await;
        }
        match decided {
            Ok(token) => Ok(token),
            Err(error) if self.shed.counts(&error) => Err(error),
            Err(error) => {
                let reason = event.reason.clone().unwrap_or_else(|| error.code().to_owned());
                self.record_bounded(event.denied(reason)).await?;
                Err(error)
            }
        }
    }

    async fn grant(&self, request: &mut TokenRequest, event: &mut AuditEvent) -> Result<IssuedToken, Error> {
        let grant_type = request.grant_type.as_deref().ok_or_else(|| missing("grant_type"))?;
        let grant_type: GrantType = grant_type.parse().map_err(|_| Error::UnsupportedGrantType)?;
        if grant_type == GrantType::Password && !self.settings.password_enabled {
            return Err(Error::UnsupportedGrantType);
        }
        let scopes = request.scope.as_deref().map(str::parse).transpose().map_err(|_| Error::InvalidScope)?;
        let client = self.authenticate_client(&request.client, event).await?;
        match (grant_type, client) {
            (GrantType::Password, Client::Public) => {
                let username = request.username.take().ok_or_else(|| missing("username"))?;
                let password = request.password.take().ok_or_else(|| missing("password"))?;
                self.password_grant(&username, password, scopes.unwrap_or_else(default_scopes), event).await
            }
            (GrantType::RefreshToken, client) => {
                event.action = Action::TokenRefresh;
                let token = request.refresh_token.take().ok_or_else(|| missing("refresh_token"))?;
                self.refresh_grant(client.id(), &token, scopes, event).await
            }
            (GrantType::ClientCredentials, Client::Confidential(account, revision)) => {
                let scopes = scopes.unwrap_or_else(default_scopes);
                self.client_credentials_grant(account, revision, scopes, event).await
            }
            // RFC 6749 §4.4: only a confidential client can use this grant.
            (GrantType::ClientCredentials, Client::Public) => Err(Error::InvalidClient),
            // A service account speaks for itself, never for a user.
            (GrantType::Password, Client::Confidential(..)) => Err(Error::UnauthorizedClient),
        }
    }

    /// RFC 6749 §4.4. No refresh token is issued (§4.4.3).
    async fn client_credentials_grant(
        &self,
        account: Principal,
        revision: i64,
        scopes: ScopeSet,
        event: &mut AuditEvent,
    ) -> Result<IssuedToken, Error> {
        if !account.grant_types.contains(&GrantType::ClientCredentials) {
            return Err(Error::UnauthorizedClient);
        }
        if !scopes.is_subset_of(account.role.scopes()) {
            return Err(Error::InvalidScope);
        }
        let token = self.sign(&account, account.name.as_str(), scopes, None)?;
        let written = event.clone().on(format!("access_token:{}", token.id)).detail(token.scope);
        self.book.record_decision(written, revision).await?;
        Ok(token)
    }

    /// An access token for `principal`, without a refresh token. `family` is the login it belongs to.
    pub(super) fn sign(
        &self,
        principal: &Principal,
        client_id: &str,
        scopes: ScopeSet,
        family: Option<Id>,
    ) -> Result<IssuedToken, Error> {
        let seconds = |moment: Timestamp| u64::try_from(moment.seconds()).unwrap_or(0);
        let now = self.now();
        let expires_in = self.settings.access_ttl.as_secs();
        let id = TokenId { family, own: self.new_id() }.to_string();
        let claims = AccessClaims {
            iss: self.settings.issuer.clone(),
            sub: principal.id.to_string(),
            aud: self.settings.audience.clone(),
            client_id: client_id.to_owned(),
            iat: seconds(now),
            exp: seconds(now) + expires_in,
            jti: id.clone(),
            scope: scopes.to_string(),
            username: (principal.kind == PrincipalKind::User).then(|| principal.name.to_string()),
        };
        let access_token = self.signing_keys.sign(&claims, now)?;
        Ok(IssuedToken {
            access_token,
            expires_in,
            scope: scopes,
            refresh_token: None,
            principal: principal.name.clone(),
            id,
        })
    }
}

/// What is meant when `scope` is absent (RFC 6749 §3.3).
fn default_scopes() -> ScopeSet {
    ScopeSet::of(&[Scope::LlmKeysRead])
}

/// What an access token's `jti` says: which login it belongs to, so that it ends with it.
pub(super) struct TokenId {
    pub(super) family: Option<Id>,
    pub(super) own: Id,
}

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.family {
            Some(family) => write!(f, "{family}.{}", self.own),
            None => self.own.fmt(f),
        }
    }
}

impl std::str::FromStr for TokenId {
    type Err = crate::model::id::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('.') {
            Some((family, own)) => Ok(Self { family: Some(family.parse()?), own: own.parse()? }),
            None => Ok(Self { family: None, own: text.parse()? }),
        }
    }
}

pub(super) fn missing(parameter: &str) -> Error {
    Error::Invalid(format!("the parameter {parameter} is missing"))
}
