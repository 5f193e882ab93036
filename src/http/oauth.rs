//! `POST /revoke` (RFC 7009) and `POST /introspect` (RFC 7662).

use poem::{Request, Result};
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::{
    Group,
    credential::{DescribesOAuth2, Public, Scopes, app, bearer_caller},
    edge::origin,
    error::{Answers, OAuthError},
    form::{Fields, Form, FormRequest},
    payload::JsonBody,
    quota::meter,
};
use crate::{
    app::{
        Error,
        client::ClientCredentials,
        revocation::{AccessClaims, Asker},
    },
    model::Action,
    secret::Secret,
};

/// What `POST /revoke` and `POST /introspect` take.
#[derive(Object)]
#[oai(rename = "PresentedToken")]
struct TokenQuestionSchema {
    /// The token.
    #[oai(validator(min_length = 1, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]+$"))]
    token: String,
    /// `access_token` or `refresh_token`: only a hint, since every token says itself what it is.
    #[oai(skip_serializing_if_is_none, validator(pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$"))]
    token_type_hint: Option<String>,
    /// The client, unless it is named in `Authorization: Basic`; the public client `keydesk` when absent.
    #[oai(skip_serializing_if_is_none, validator(pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$"))]
    client_id: Option<String>,
    /// Its secret, likewise.
    #[oai(skip_serializing_if_is_none, validator(pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$"))]
    client_secret: Option<String>,
}

/// What a token says (RFC 7662 §2.2). Of a token that is not active, nothing but that.
#[derive(Object)]
struct Introspection {
    /// Whether it is a valid access token for this desk's audience, now.
    active: bool,
    /// What it allows, space-separated.
    #[oai(skip_serializing_if_is_none)]
    scope: Option<String>,
    /// The client it was issued to.
    #[oai(skip_serializing_if_is_none)]
    client_id: Option<String>,
    /// The user's name; absent for machines.
    #[oai(skip_serializing_if_is_none)]
    username: Option<String>,
    /// Always `Bearer`.
    #[oai(skip_serializing_if_is_none)]
    token_type: Option<String>,
    /// From when it is void, in seconds since 1970.
    #[oai(skip_serializing_if_is_none)]
    exp: Option<i64>,
    /// When it was issued, likewise.
    #[oai(skip_serializing_if_is_none)]
    iat: Option<i64>,
    /// The principal's identifier.
    #[oai(skip_serializing_if_is_none)]
    sub: Option<String>,
    /// For whom it is.
    #[oai(skip_serializing_if_is_none)]
    aud: Option<String>,
    /// Who issued it.
    #[oai(skip_serializing_if_is_none)]
    iss: Option<String>,
    /// Its identifier.
    #[oai(skip_serializing_if_is_none)]
    jti: Option<String>,
}

#[derive(ApiResponse)]
enum Revoked {
    /// The token is void, or was never valid: there is no difference (RFC 7009 §2.2).
    #[oai(status = 200)]
    Done,
}

#[derive(ApiResponse)]
enum Introspected {
    /// What the token says, or that it is not active.
    #[oai(status = 200)]
    Answer(JsonBody<Introspection>),
}

struct RevocationRefusals;
impl Answers for RevocationRefusals {
    const STATUSES: &'static [u16] = &[400, 401, 403, 429, 500, 503];
}

struct IntrospectionRefusals;
impl Answers for IntrospectionRefusals {
    const STATUSES: &'static [u16] = &[400, 401, 403, 429, 500, 503];
}

/// Revocation and introspection.
pub(super) struct OAuthApi;

#[OpenApi]
impl OAuthApi {
    /// Revoke a token
    ///
    /// RFC 7009. A refresh token ends its whole session, with the access tokens issued in it; an access token ends by
    /// itself. Only the client that a token was issued to can revoke it. A token that nobody knows is no error.
    #[oai(path = "/revoke", method = "post", operation_id = "revokeToken", tag = "Group::Tokens")]
    async fn revoke(
        &self,
        _anybody: Public,
        request: &Request,
        form: Form<TokenQuestion>,
    ) -> Result<Revoked, OAuthError<RevocationRefusals>> {
        app(request).revoke_token(form.0.client, form.0.token, origin(request)).await?;
        Ok(Revoked::Done)
    }

    /// Ask whether an access token is active
    ///
    /// RFC 7662, for services that accept our tokens. Whoever asks authenticates: a service account as at `/token`, or
    /// anybody with an access token that carries `admin`. Everything that is not a valid access token gets
    /// `{"active":false}`.
    #[oai(path = "/introspect", method = "post", operation_id = "introspectToken", tag = "Group::Tokens")]
    async fn introspect(
        &self,
        #[oai(scope = "Scopes::Admin")] _scheme: DescribesOAuth2,
        _anybody: Public,
        request: &Request,
        form: Form<TokenQuestion>,
    ) -> Result<Introspected, OAuthError<IntrospectionRefusals>> {
        let asker = match bearer_caller(request).await? {
            Some(caller) => Asker::Caller(caller),
            None => Asker::Client(form.0.client),
        };
        let claims =
            app(request).introspect_token(asker, form.0.token, origin(request), meter(request)).await?;
        Ok(Introspected::Answer(answer(claims)))
    }
}

fn answer(claims: Option<AccessClaims>) -> JsonBody<Introspection> {
    #[derive(serde::Serialize)]
    struct Said {
        active: bool,
        token_type: &'static str,
        #[serde(flatten)]
        claims: AccessClaims,
    }
    match claims {
        Some(claims) => JsonBody::of(&Said { active: true, token_type: "Bearer", claims }),
        None => JsonBody::of(&serde_json::json!({ "active": false })),
    }
}

/// Either request.
struct TokenQuestion {
    token: Option<Secret>,
    client: ClientCredentials,
}

impl FormRequest for TokenQuestion {
    type Schema = TokenQuestionSchema;
    const PARAMETERS: &'static [&'static str] = &["token", "token_type_hint", "client_id", "client_secret"];

    fn action(request: &Request) -> Action {
        if request.uri().path() == "/introspect" { Action::TokenIntrospect } else { Action::TokenRevoke }
    }

    async fn within_limit(request: &Request) -> Result<(), Error> {
        match Self::action(request) {
            // Limited by who asks, which is not known yet.
            Action::TokenIntrospect => Ok(()),
            action => app(request).spend_token_request(&origin(request), action, meter(request)).await,
        }
    }

    fn of(mut fields: Fields, client: ClientCredentials) -> Self {
        Self { token: fields.secret("token"), client }
    }
}
