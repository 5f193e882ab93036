//! Which OAuth 2.0 client is asking (RFC 6749 §2.3): at the token, revocation and introspection endpoints alike.

use super::{
    App, Error,
    networks::{self, ELSEWHERE},
    throttle::Subject,
};
use crate::{
    crypto,
    model::{AuditEvent, CredentialKind, Principal, PrincipalKind, PrincipalName, TokenKind},
    secret::Secret,
    store::{client_secrets, principals},
};

/// The built-in public client, which people use and which is meant when no client is named.
pub const PUBLIC_CLIENT: &str = "keydesk";

/// What a request said of its client, in `Authorization: Basic` or in the form.
#[derive(Debug, Default)]
pub struct ClientCredentials {
    /// `client_id`.
    pub id: Option<String>,
    /// `client_secret`.
    pub secret: Option<Secret>,
}

/// An authenticated client, or the public one.
pub(super) enum Client {
    Public,
    Confidential(Principal),
}

impl Client {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Public => PUBLIC_CLIENT,
            Self::Confidential(account) => account.name.as_str(),
        }
    }
}

impl App {
    /// Authenticates the client, and notes in `event` who it is. Wrong secrets count against the source.
    pub(super) async fn authenticate_client(
        &self,
        shown: ClientCredentials,
        event: &mut AuditEvent,
    ) -> Result<Client, Error> {
        let Some(id) = shown.id.filter(|id| id != PUBLIC_CLIENT || shown.secret.is_some()) else {
            event.client_id = Some(PUBLIC_CLIENT.to_owned());
            return if shown.secret.is_none() { Ok(Client::Public) } else { Err(Error::InvalidClient) };
        };
        let secret = shown.secret.ok_or(Error::InvalidClient)?;
        let subject = Subject::clients(self, &id, &event.source);
        self.refuse_if_blocked(&subject, event).await?;
        let found = self.confidential_client(&id, &secret, event).await;
        if matches!(found, Err(Error::InvalidClient)) {
            self.count_failure(&subject).await?;
        }
        let account = found?;
        event.client_id = Some(account.name.to_string());
        Ok(Client::Confidential(account))
    }

    #[expect(clippy::disallowed_methods, reason = "the client secret is compared by its digest")]
    async fn confidential_client(
        &self,
        id: &str,
        secret: &Secret,
        event: &mut AuditEvent,
    ) -> Result<Principal, Error> {
        let well_formed = TokenKind::recognise(secret.expose()) == Some(TokenKind::ClientSecret);
        let (Ok(name), true) = (id.parse::<PrincipalName>(), well_formed) else {
            return Err(event.because("malformed_client_credentials", Error::InvalidClient));
        };
        let shown = crypto::token_digest(secret.expose());
        let mut db = self.store.read().await?;
        let account = principals::by_name(&mut db, &name).await?;
        let Some(account) = account.filter(|account| account.kind == PrincipalKind::ServiceAccount) else {
            return Err(event.because("unknown_client", Error::InvalidClient));
        };
        event.is_by(&account, CredentialKind::ClientSecret);
        let valid = client_secrets::valid(&mut db, account.id, self.now()).await?;
        if !valid.iter().any(|digest| crypto::equal_in_constant_time(digest, &shown.0)) {
            return Err(event.because("wrong_client_secret", Error::InvalidClient));
        }
        if !account.is_enabled() {
            return Err(event.because("disabled", Error::InvalidClient));
        }
        if !networks::allow(&account, None, &event.source) {
            return Err(event.because(ELSEWHERE, Error::InvalidClient));
        }
        Ok(account)
    }
}
