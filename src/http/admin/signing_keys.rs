//! `/admin/signing-keys`.

use poem::{Request, Result};
use poem_openapi::{Object, OpenApi};
use serde::Deserialize;

use crate::{
    http::{
        Group,
        answer::{Listing, Making},
        credential::{Authenticated, DescribesOAuth2, Scopes, app},
        error::ApiError,
        json::Json,
        payload::{JsonBody, list},
        schema::present,
    },
    model::Listed,
};

/// How to rotate the signing key.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
struct SigningKeyRotation {
    /// The present key is compromised: sign with the new one at once, and accept nothing signed before.
    #[serde(default, deserialize_with = "present")]
    #[oai(skip_serializing_if_is_none)]
    emergency: Option<bool>,
}

/// A key that signs access tokens; its public part is in the JWK Set.
#[derive(Object)]
struct SigningKey {
    /// Its RFC 7638 thumbprint.
    kid: String,
    /// The algorithm it signs with.
    algorithm: String,
    /// `pre_activation`, `active`, `deactivated` or `compromised`.
    state: String,
    /// When it was made and published.
    created_at: String,
    /// From when on it signs.
    activates_at: String,
    /// When it is replaced at the latest.
    cryptoperiod_ends_at: String,
}

list! {
    /// Signing keys, newest first.
    SigningKeyList of SigningKey
}

/// Signing keys.
pub(in crate::http) struct SigningKeysApi;

#[OpenApi(tag = "Group::AdminSigningKeys")]
impl SigningKeysApi {
    /// List signing keys
    ///
    /// All there ever were, newest first, on one page: there are four a year.
    #[oai(path = "/admin/signing-keys", method = "get", operation_id = "listSigningKeys")]
    async fn list(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
    ) -> Result<JsonBody<SigningKeyList>, ApiError<Listing>> {
        let items = app(request).signing_keys(&caller.0).await?;
        Ok(JsonBody::of(&Listed { items, next: None }))
    }

    /// Rotate the signing key
    ///
    /// The new one is published now and signs in five minutes; what the old one has signed stays valid to its end. In an
    /// emergency the new one signs at once, and everything signed before is void, the token you ask with too.
    #[oai(path = "/admin/signing-keys", method = "post", operation_id = "rotateSigningKey")]
    async fn rotate(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        body: Json<SigningKeyRotation>,
    ) -> Result<JsonBody<SigningKey>, ApiError<Making>> {
        let emergency = body.0.emergency.unwrap_or(false);
        Ok(JsonBody::of(&app(request).rotate_signing_key(&caller.0, emergency).await?))
    }
}
