//! Which OAuth 2.0 client is asking (RFC 6749 §2.3): at the token, revocation and introspection endpoints alike.

use std::sync::Arc;

use super::{
    App, Error,
    authenticate::{Unidentified, refused},
    networks::{self, ELSEWHERE},
    throttle::Subject,
    view::Asker,
};
use crate::{
    crypto,
    model::{
        AuditEvent, CredentialKind, Networks, Principal, PrincipalKind, PrincipalName, Timestamp,
        TokenDigest, TokenKind,
    },
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
    /// Its account, as it was at a revision.
    Confidential(Principal, i64),
}

impl Client {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Public => PUBLIC_CLIENT,
            Self::Confidential(account, _) => account.name.as_str(),
        }
    }
}

impl App {
    /// Authenticates the client, and notes in `event` who it is. Wrong secrets count against the source; who shows the right
    /// one does not guess, whatever was tried before.
    pub(super) async fn authenticate_client(
        &self,
        shown: &ClientCredentials,
        event: &mut AuditEvent,
    ) -> Result<Client, Error> {
        let named = |id: &&String| *id != PUBLIC_CLIENT || shown.secret.is_some();
        let Some(id) = shown.id.as_ref().filter(named) else {
            event.client_id = Some(PUBLIC_CLIENT.to_owned());
            return if shown.secret.is_none() { Ok(Client::Public) } else { Err(Error::InvalidClient) };
        };
        let secret = shown.secret.as_ref().ok_or(Error::InvalidClient)?;
        let subject = Subject::clients(self, id, &event.source);
        let found = self.confidential_client(id, secret, event).await;
        if matches!(found, Err(Error::InvalidClient)) {
            self.refuse_if_blocked(&subject, event).await?;
            self.count_failure(&subject).await?;
        }
        let (account, revision) = found?;
        event.client_id = Some(account.name.to_string());
        Ok(Client::Confidential(account, revision))
    }

    #[expect(clippy::disallowed_methods, reason = "the client secret is compared by its digest")]
    async fn confidential_client(
        &self,
        id: &str,
        secret: &Secret,
        event: &mut AuditEvent,
    ) -> Result<(Principal, i64), Error> {
        let well_formed = TokenKind::recognise(secret.expose()) == Some(TokenKind::ClientSecret);
        let (Ok(name), true) = (id.parse::<PrincipalName>(), well_formed) else {
            return Err(event.because("malformed_client_credentials", Error::InvalidClient));
        };
        let (view, digest) = (self.view().await?, crypto::token_digest(secret.expose()));
        let account = match self.asker(&view, digest, || self.owner_of_client_secret(digest)).await {
            Ok(found) if found.principal.name == name => found.principal.clone(),
            Err(Unidentified::Failed(error)) => return Err(error),
            _ => return Err(self.why_not_client(&name, event).await?),
        };
        event.is_by(&account, CredentialKind::ClientSecret);
        if !account.is_enabled() {
            return Err(event.because("disabled", Error::InvalidClient));
        }
        if !networks::allow(&account, None, &event.source) {
            return Err(event.because(ELSEWHERE, Error::InvalidClient));
        }
        Ok((account, view.revision))
    }

    async fn owner_of_client_secret(&self, digest: TokenDigest) -> Result<Asker, Unidentified> {
        let found = client_secrets::owner(&mut self.store.read().await?, digest, self.now()).await?;
        let (principal, expires_at) = found.ok_or(refused("wrong_client_secret"))?;
        Ok(Asker {
            scopes: principal.role.scopes(),
            principal,
            grants: Arc::default(),
            credential: CredentialKind::ClientSecret,
            client_id: None,
            sources: Networks::ANYWHERE,
            good: Timestamp::FIRST..expires_at.unwrap_or(Timestamp::LAST),
            used: None,
        })
    }

    /// Tells the book what is wrong with a secret that is not the one of `name`.
    async fn why_not_client(&self, name: &PrincipalName, event: &mut AuditEvent) -> Result<Error, Error> {
        let account = principals::by_name(&mut self.store.read().await?, name).await?;
        let Some(account) = account.filter(|account| account.kind == PrincipalKind::ServiceAccount) else {
            return Ok(event.because("unknown_client", Error::InvalidClient));
        };
        event.is_by(&account, CredentialKind::ClientSecret);
        Ok(event.because("wrong_client_secret", Error::InvalidClient))
    }
}
