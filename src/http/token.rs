//! `POST /token` (RFC 6749).

use poem::{Request, Result};
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::{
    Group,
    credential::{Public, app},
    edge::origin,
    error::{Answers, OAuthError},
    form::{Fields, Form, FormRequest},
    observe::Visit,
    payload::JsonBody,
    quota::meter,
    schema::Word,
};
use crate::{
    app::{Error, client::ClientCredentials, token::TokenRequest},
    model::{Action, GrantType},
};

/// What `POST /token` takes.
#[derive(Object)]
#[oai(rename = "TokenRequest")]
pub(super) struct TokenRequestSchema {
    /// `password` for a person, `client_credentials` for a service account, `refresh_token` to go on with either.
    grant_type: Word<GrantType>,
    /// The user's name, for the grant `password`.
    #[oai(skip_serializing_if_is_none)]
    username: Option<String>,
    /// The user's password, for the grant `password`.
    #[oai(skip_serializing_if_is_none)]
    password: Option<String>,
    /// The refresh token, for the grant `refresh_token`.
    #[oai(skip_serializing_if_is_none)]
    refresh_token: Option<String>,
    /// Space-separated scopes; `llm-keys:read`, or what was granted before, when absent.
    #[oai(skip_serializing_if_is_none)]
    scope: Option<String>,
    /// The service account, unless it is named in `Authorization: Basic`.
    #[oai(skip_serializing_if_is_none)]
    client_id: Option<String>,
    /// Its secret, likewise.
    #[oai(skip_serializing_if_is_none)]
    client_secret: Option<String>,
}

/// An access token (RFC 6749 §5.1).
#[derive(Object)]
struct TokenResponse {
    /// A signed JWT (RFC 9068), to be sent as `Authorization: Bearer …`.
    access_token: String,
    /// Always `Bearer`.
    token_type: String,
    /// For how many seconds it is valid.
    expires_in: i64,
    /// What it allows, space-separated.
    scope: String,
    /// Good for one exchange with the grant `refresh_token`; people get one, machines do not need one.
    #[oai(skip_serializing_if_is_none)]
    refresh_token: Option<String>,
}

#[derive(ApiResponse)]
enum TokenAnswer {
    /// An access token.
    #[oai(status = 200)]
    Issued(
        JsonBody<TokenResponse>,
        /// Always `no-store`.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

struct Refusals;
impl Answers for Refusals {
    const STATUSES: &'static [u16] = &[400, 401, 403, 429, 500, 503];
}

/// The token endpoint.
pub(super) struct TokenApi;

#[OpenApi]
impl TokenApi {
    /// Get an access token
    ///
    /// The token endpoint of RFC 6749, for the grants `password` (people), `client_credentials` (service accounts) and
    /// `refresh_token`. The body is a form. A service account authenticates with `Authorization: Basic` or with `client_id` and `client_secret`
    /// in the form; a person needs no client.
    #[oai(path = "/token", method = "post", operation_id = "issueToken", tag = "Group::Tokens")]
    async fn token(
        &self,
        _anybody: Public,
        request: &Request,
        form: Form<TokenRequest>,
    ) -> Result<TokenAnswer, OAuthError<Refusals>> {
        let issued = app(request).issue_token(form.0, origin(request)).await?;
        Visit::of(request).is_by(issued.principal.as_str());
        #[expect(clippy::disallowed_methods, reason = "the token goes to whom it was issued")]
        let mut body = serde_json::json!({
            "access_token": issued.access_token.expose(),
            "token_type": "Bearer",
            "expires_in": issued.expires_in,
            "scope": issued.scope.to_string(),
        });
        #[expect(clippy::disallowed_methods, reason = "the token goes to whom it was issued")]
        if let Some(token) = &issued.refresh_token {
            body["refresh_token"] = token.expose().into();
        }
        Ok(TokenAnswer::Issued(JsonBody::of(&body), "no-store".to_owned()))
    }
}

impl FormRequest for TokenRequest {
    type Schema = TokenRequestSchema;
    const PARAMETERS: &'static [&'static str] =
        &["grant_type", "username", "password", "refresh_token", "scope", "client_id", "client_secret"];

    fn action(_: &Request) -> Action {
        Action::TokenIssue
    }

    async fn within_limit(request: &Request) -> Result<(), Error> {
        app(request).spend_token_request(&origin(request), Self::action(request), meter(request)).await
    }

    fn of(mut fields: Fields, client: ClientCredentials) -> Self {
        Self {
            client,
            grant_type: fields.text("grant_type"),
            username: fields.text("username"),
            password: fields.secret("password"),
            refresh_token: fields.secret("refresh_token"),
            scope: fields.text("scope"),
        }
    }
}
