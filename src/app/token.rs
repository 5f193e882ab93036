//! The token endpoint's operation: prove who you are, get an access token (RFC 6749 §4.3, §4.4; RFC 9068).

use super::{App, Error};
use crate::{
    crypto::{self, jwt::AccessClaims, password::Verdict},
    model::{
        Action, AuditEvent, CredentialKind, Origin, Outcome, Principal, PrincipalKind, PrincipalName, Scope,
        ScopeSet, Timestamp, TokenKind, password::MAX_PASSWORD_BYTES,
    },
    secret::Secret,
    store::{audit_events, client_secrets, principals},
};

/// The built-in public client, which the password grant uses when no client is named.
pub const PUBLIC_CLIENT: &str = "keydesk";
/// A longer user name is refused before anything is done with it.
const MAX_USERNAME_BYTES: usize = 256;

/// A token request, as its form said it. Empty parameters are absent (RFC 6749 §3.2).
#[derive(Debug, Default)]
pub struct TokenRequest {
    /// `grant_type`.
    pub grant_type: Option<String>,
    /// `username`.
    pub username: Option<String>,
    /// `password`.
    pub password: Option<Secret>,
    /// `scope`.
    pub scope: Option<String>,
    /// `client_id`, from the form or from `Authorization: Basic`.
    pub client_id: Option<String>,
    /// `client_secret`, likewise.
    pub client_secret: Option<Secret>,
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
}

/// The client that asks.
enum Client {
    Public,
    Confidential(Principal),
}

impl Client {
    fn id(&self) -> &str {
        match self {
            Self::Public => PUBLIC_CLIENT,
            Self::Confidential(account) => account.name.as_str(),
        }
    }
}

/// What the book says about a request, filled in as it becomes known.
struct Draft {
    event: AuditEvent,
}

impl App {
    /// Issues an access token, or says why not. Either is in the book before it is answered.
    pub async fn issue_token(&self, request: TokenRequest, origin: Origin) -> Result<IssuedToken, Error> {
        let mut draft = Draft::new(origin);
        match self.grant(request, &mut draft).await {
            Ok(token) => Ok(token),
            Err(error) => {
                let reason = draft.event.reason.clone().unwrap_or_else(|| error.code().to_owned());
                self.book.record(draft.event.denied(reason)).await?;
                Err(error)
            }
        }
    }

    async fn grant(&self, request: TokenRequest, draft: &mut Draft) -> Result<IssuedToken, Error> {
        let grant_type = request.grant_type.as_deref().ok_or_else(|| missing("grant_type"))?;
        let is_password = match grant_type {
            "password" if self.settings.password_enabled => true,
            "client_credentials" => false,
            _ => return Err(Error::UnsupportedGrantType),
        };
        let client = self.authenticate_client(request.client_id, request.client_secret, draft).await?;
        let scopes = match &request.scope {
            None => ScopeSet::of(&[Scope::LlmKeysRead]),
            Some(text) => text.parse().map_err(|_| Error::InvalidScope)?,
        };
        match client {
            Client::Public if is_password => {
                let username = request.username.ok_or_else(|| missing("username"))?;
                let password = request.password.ok_or_else(|| missing("password"))?;
                self.password_grant(&username, password, scopes, draft).await
            }
            Client::Confidential(account) if !is_password => {
                self.client_credentials_grant(account, scopes, draft).await
            }
            // RFC 6749 §4.4: only a confidential client can use this grant.
            Client::Public => Err(Error::InvalidClient),
            // A service account speaks for itself, never for a user.
            Client::Confidential(_) => Err(Error::UnauthorizedClient),
        }
    }

    /// RFC 6749 §2.3. No client named is the public client.
    #[expect(clippy::disallowed_methods, reason = "the client secret is compared by its digest")]
    async fn authenticate_client(
        &self,
        id: Option<String>,
        secret: Option<Secret>,
        draft: &mut Draft,
    ) -> Result<Client, Error> {
        let Some(id) = id.filter(|id| id != PUBLIC_CLIENT || secret.is_some()) else {
            return if secret.is_none() {
                Ok(draft.client(Client::Public))
            } else {
                Err(Error::InvalidClient)
            };
        };
        let secret = secret.ok_or(Error::InvalidClient)?;
        let well_formed = TokenKind::recognise(secret.expose()) == Some(TokenKind::ClientSecret);
        let (Ok(name), true) = (id.parse::<PrincipalName>(), well_formed) else {
            return Err(draft.because("malformed_client_credentials", Error::InvalidClient));
        };
        let shown = crypto::token_digest(secret.expose());
        let mut db = self.store.read().await?;
        let account = principals::by_name(&mut db, &name).await?;
        let Some(account) = account.filter(|account| account.kind == PrincipalKind::ServiceAccount) else {
            return Err(draft.because("unknown_client", Error::InvalidClient));
        };
        draft.principal(&account, CredentialKind::ClientSecret);
        let valid = client_secrets::valid(&mut db, account.id, self.now()).await?;
        if !valid.iter().any(|digest| crypto::equal_in_constant_time(digest, &shown.0)) {
            return Err(draft.because("wrong_client_secret", Error::InvalidClient));
        }
        if !account.is_enabled() {
            return Err(draft.because("disabled", Error::InvalidClient));
        }
        Ok(draft.client(Client::Confidential(account)))
    }

    /// RFC 6749 §4.3. Unknown, disabled, passwordless and wrong are one answer after the same work.
    async fn password_grant(
        &self,
        username: &str,
        password: Secret,
        scopes: ScopeSet,
        draft: &mut Draft,
    ) -> Result<IssuedToken, Error> {
        if username.len() > MAX_USERNAME_BYTES || password.len() > MAX_PASSWORD_BYTES {
            return Err(Error::Invalid("the user name or password is too long".to_owned()));
        }
        let Ok(name) = username.parse::<PrincipalName>() else {
            return Err(draft.because("malformed_username", Error::InvalidGrant));
        };
        draft.event.credential = Some(CredentialKind::Password.as_str());
        let login = principals::login(&mut self.store.read().await?, &name).await?;
        let (user, stored) = login.map_or((None, None), |login| (Some(login.principal), login.password_hash));
        match &user {
            Some(user) => draft.principal(user, CredentialKind::Password),
            None => draft.event.actor = self.unknown_name(&name),
        }
        let verdict = self.passwords.verify(password, stored.clone()).await?;
        let Some(user) = user else { return Err(draft.because("unknown_user", Error::InvalidGrant)) };
        if verdict == Verdict::Wrong {
            return Err(draft.because("wrong_password", Error::InvalidGrant));
        }
        if !user.is_enabled() {
            return Err(draft.because("disabled", Error::InvalidGrant));
        }
        let token = self.sign(&user, PUBLIC_CLIENT, scopes)?;
        draft.event = draft.event.clone().version(token.scope);
        match (verdict, stored) {
            (Verdict::RightButOutdated(renewed), Some(old)) => {
                self.renew_hash(&user, old, renewed, draft).await?;
            }
            _ => self.book.record(draft.event.clone()).await?,
        }
        Ok(token)
    }

    /// RFC 6749 §4.4. No refresh token is issued (§4.4.3).
    async fn client_credentials_grant(
        &self,
        account: Principal,
        scopes: ScopeSet,
        draft: &mut Draft,
    ) -> Result<IssuedToken, Error> {
        let token = self.sign(&account, account.name.as_str(), scopes)?;
        self.book.record(draft.event.clone().version(token.scope)).await?;
        Ok(token)
    }

    /// Stores a hash made with today's parameters, unless the password was changed meanwhile, and writes both events.
    async fn renew_hash(
        &self,
        user: &Principal,
        old: String,
        renewed: String,
        draft: &Draft,
    ) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        let (stream, now) = (self.book.stream(), self.now());
        if principals::renew_password_hash(&mut tx, user.id, old, renewed).await? {
            let event =
                AuditEvent { action: Action::UserRehashPassword, version: None, ..draft.event.clone() };
            audit_events::append(&mut tx, self.new_id(), stream, now, event).await?;
        }
        audit_events::append(&mut tx, self.new_id(), stream, now, draft.event.clone()).await?;
        Ok(tx.commit().await?)
    }

    fn sign(&self, principal: &Principal, client_id: &str, scopes: ScopeSet) -> Result<IssuedToken, Error> {
        if !scopes.is_subset_of(principal.role.scopes()) {
            return Err(Error::InvalidScope);
        }
        let key = self.signing_keys.first().ok_or_else(|| Error::internal("there is no signing key"))?;
        let seconds = |moment: Timestamp| u64::try_from(moment.seconds()).unwrap_or(0);
        let expires_in = self.settings.access_ttl.as_secs();
        let iat = seconds(self.now());
        let claims = AccessClaims {
            iss: self.settings.issuer.clone(),
            sub: principal.id.to_string(),
            aud: self.settings.audience.clone(),
            client_id: client_id.to_owned(),
            iat,
            exp: iat + expires_in,
            jti: self.new_id().to_string(),
            scope: scopes.to_string(),
            username: (principal.kind == PrincipalKind::User).then(|| principal.name.to_string()),
        };
        let access_token = key.sign(&claims).map_err(Error::internal)?;
        Ok(IssuedToken { access_token, expires_in, scope: scopes })
    }

    /// How the book names a user name that nobody has. Keyed, because people type passwords into the wrong field.
    fn unknown_name(&self, name: &PrincipalName) -> String {
        let mac = self.keyring.mac("unknown user name", name.as_str().as_bytes());
        format!("unknown:{}", super::hex(&mac[..8]))
    }
}

impl Draft {
    fn new(origin: Origin) -> Self {
        let event = AuditEvent {
            action: Action::TokenIssue,
            outcome: Outcome::Allowed,
            reason: None,
            object: None,
            version: None,
            principal: None,
            actor: "anonymous".to_owned(),
            client_id: None,
            credential: None,
            source: origin.source,
            request_id: origin.request_id,
        };
        Self { event }
    }

    fn principal(&mut self, principal: &Principal, credential: CredentialKind) {
        self.event.principal = Some((principal.id, principal.kind));
        self.event.actor = principal.name.to_string();
        self.event.credential = Some(credential.as_str());
    }

    fn client(&mut self, client: Client) -> Client {
        self.event.client_id = Some(client.id().to_owned());
        client
    }

    /// Tells the book more than the asker.
    fn because(&mut self, reason: &str, error: Error) -> Error {
        self.event.reason = Some(reason.to_owned());
        error
    }
}

fn missing(parameter: &str) -> Error {
    Error::Invalid(format!("the parameter {parameter} is missing"))
}
