//! Who is asking: the first parameter of every handler that needs to know.
//!
//! Written by hand because poem-openapi's derived either-or scheme accepts a valid API key next to an invalid token and
//! reports only the last failure. Here one request shows exactly one credential.

use std::sync::Arc;

use poem::{
    Request, RequestBody, Result,
    http::{HeaderMap, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, OAuthScopes, SecurityScheme, auth,
    registry::Registry,
};

use super::{edge::origin, error::problem, observe::Visit};
use crate::{
    app::{App, Error, Held, MOST_DECISIONS, Presented},
    model::{Action, Caller},
    secret::Secret,
};

/// Scopes, for the specification.
#[derive(OAuthScopes)]
pub(super) enum Scopes {
    /// Fetch the provider keys you are granted. The default.
    #[oai(rename = "llm-keys:read")]
    LlmKeysRead,
    /// Set and delete provider keys.
    #[oai(rename = "llm-keys:write")]
    LlmKeysWrite,
    /// Read the book.
    #[oai(rename = "audit:read")]
    AuditRead,
    /// Administer users, service accounts, projects and grants.
    #[oai(rename = "admin")]
    Admin,
}

/// An access token, sent as `Authorization: Bearer …` and good for ten minutes. **A person** gets it for a user name and a password
/// (flow `password`), **a service account** for its name as `client_id` and its client secret (flow `clientCredentials`).
///
/// `llm-keys:read` is enough to fetch keys, and is what you get when you tick nothing. The other scopes are for those whose
/// role allows them; tick only what you are about to use.
#[derive(SecurityScheme)]
#[oai(
    rename = "OAuth2",
    ty = "oauth2",
    flows(
        password(token_url = "/token", scopes = "Scopes"),
        client_credentials(token_url = "/token", scopes = "Scopes")
    )
)]
#[expect(dead_code, reason = "only described; `Authenticated` does the work")]
struct OAuth2Scheme(auth::Bearer);

/// An API key (`kd_ak_…`), as made at `/me/api-keys` or by an administrator. It may be sent as `Authorization: Bearer …` just as
/// well, but only one credential may be sent: do not authorize with both.
#[derive(SecurityScheme)]
#[oai(rename = "ApiKey", ty = "api_key", key_in = "header", key_name = "X-API-Key")]
#[expect(dead_code, reason = "only described; `Authenticated` does the work")]
struct ApiKeyScheme(auth::ApiKey);

/// Describes the OAuth 2.0 scheme and the scope an operation needs. Checks nothing: see [`Authenticated`].
pub(super) struct DescribesOAuth2;

/// The authenticated asker.
pub(super) struct Authenticated(pub(super) Caller);

/// The authenticated asker of a key read, how often the request has been decided, and what it keeps for deciding it again. Only
/// here is what other processes have changed not asked for first, because the book asks for it before a key leaves.
pub(super) struct KeyReader(pub(super) Caller, usize, Option<Held>);

/// Describes an operation that anybody may call.
pub(super) struct Public;

impl<'a> ApiExtractor<'a> for DescribesOAuth2 {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        OAuth2Scheme::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["OAuth2"]
    }

    async fn from_request(_: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        Ok(Self)
    }
}

impl<'a> ApiExtractor<'a> for Public {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn has_security_fallback() -> bool {
        true
    }

    async fn from_request(_: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        Ok(Self)
    }
}

macro_rules! authenticates {
    ($asker:ident, $request:ident => $caller:expr) => {
        impl<'a> ApiExtractor<'a> for $asker {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                ApiKeyScheme::register(registry);
            }

            fn security_schemes() -> Vec<&'static str> {
                vec!["ApiKey"]
            }

            async fn from_request(
                $request: &'a Request,
                _: &mut RequestBody,
                _: ExtractParamOptions<()>,
            ) -> Result<Self> {
                $caller.await.map_err(problem)
            }
        }
    };
}
authenticates!(Authenticated, request => async { app(request).notice().await?; caller(request).await.map(Self) });
authenticates!(KeyReader, request => async { caller(request).await.map(|caller| Self(caller, 1, None)) });

impl KeyReader {
    /// Whether a request is to be decided again, because access was changed in the middle of it: then who asks is proven
    /// again, too. A desk that is changed all the time says so in the end.
    pub(super) async fn decides_again<T>(
        &mut self,
        request: &Request,
        decided: &Result<T, Error>,
    ) -> Result<bool, Error> {
        if !matches!(decided, Err(Error::Stale)) || self.1 == MOST_DECISIONS {
            return Ok(false);
        }
        if self.2.is_none() {
            self.2 = app(request).decide_after(self.1).await?;
        }
        (self.0, self.1) = (caller(request).await?, self.1 + 1);
        Ok(true)
    }
}

/// Who is asking. More than one credential is refused (RFC 6750 §2), so that no two parties read a request differently.
async fn caller(request: &Request) -> Result<Caller, Error> {
    let headers = request.headers();
    let shown = presented(headers).and_then(|presented| Ok((presented, only(headers, "x-service-account")?)));
    match shown {
        Ok((presented, account)) => {
            let account = account.map(|value| value.to_str().unwrap_or("\u{fffd}"));
            let caller = app(request).authenticate(presented, account, origin(request)).await?;
            Visit::of(request).is_by(&caller.name);
            Ok(caller)
        }
        Err(error) => Err(app(request).refuse(Action::CredentialVerify, &origin(request), error).await),
    }
}

/// The asker, if the request authenticates with `Authorization: Bearer`: for the OAuth endpoints, where a client may
/// authenticate in other ways instead.
pub(super) async fn bearer_caller(request: &Request) -> Result<Option<Caller>, Error> {
    let authorization = only(request.headers(), header::AUTHORIZATION.as_str())?;
    let Some(presented) = authorization.and_then(|value| bearer(value.as_bytes())) else { return Ok(None) };
    app(request).notice().await?;
    let caller = app(request).authenticate(Some(presented), None, origin(request)).await?;
    Visit::of(request).is_by(&caller.name);
    Ok(Some(caller))
}

/// The desk behind the routes.
#[expect(clippy::expect_used, reason = "`http::serve` puts it there for every route")]
pub(super) fn app(request: &Request) -> &Arc<App> {
    request.data::<Arc<App>>().expect("the routes carry the desk")
}

/// The one credential of a request.
fn presented(headers: &HeaderMap) -> Result<Option<Presented>, Error> {
    let authorization = only(headers, header::AUTHORIZATION.as_str())?;
    let api_key = only(headers, "x-api-key")?;
    match (authorization, api_key) {
        (Some(_), Some(_)) => {
            Err(Error::Invalid("send one credential: Authorization or X-API-Key, not both".to_owned()))
        }
        (Some(value), None) => Ok(bearer(value.as_bytes())),
        (None, Some(value)) => {
            Ok(Some(value.to_str().map_or(Presented::Malformed, |key| Presented::ApiKey(Secret::new(key)))))
        }
        (None, None) => Ok(None),
    }
}

/// The value of a header that may come once; an empty one counts as absent.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h poem::http::HeaderValue>, Error> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Error::Invalid(format!("the header {name} comes more than once")));
    }
    Ok(first.filter(|value| !value.is_empty()))
}

/// RFC 6750 §2.1. Another scheme counts as no credential (§3.1).
fn bearer(value: &[u8]) -> Option<Presented> {
    let scheme = value.get(..6).filter(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))?;
    let rest = &value[scheme.len()..];
    match rest.split_first() {
        Some((b' ', token)) => {
            let token = std::str::from_utf8(token).ok().map(str::trim).filter(|token| !token.is_empty());
            Some(token.map_or(Presented::Malformed, |token| Presented::Bearer(Secret::new(token))))
        }
        Some(_) => None,
        None => Some(Presented::Malformed),
    }
}
