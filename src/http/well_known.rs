//! What others need to verify our tokens and to find our endpoints: RFC 7517 and RFC 8414.

use poem::Request;
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::{
    Group,
    credential::{Public, app},
    payload::JsonBody,
};
use crate::{
    app::signing_keys::JWKS_MAX_AGE,
    model::{GrantType, Scope},
};

/// A public key (RFC 7517 §4). Which members there are depends on `kty`.
#[derive(Object)]
struct Jwk {
    /// Key type: `OKP`, `EC` or `RSA`.
    kty: String,
    /// The algorithm of signatures made with it.
    alg: String,
    /// Always `sig`.
    #[oai(rename = "use")]
    public_key_use: String,
    /// Its RFC 7638 thumbprint, which the tokens it signs carry.
    kid: String,
    /// Curve, for `OKP` and `EC`.
    #[oai(skip_serializing_if_is_none)]
    crv: Option<String>,
    /// Public key or x coordinate, for `OKP` and `EC`.
    #[oai(skip_serializing_if_is_none)]
    x: Option<String>,
    /// The y coordinate, for `EC`.
    #[oai(skip_serializing_if_is_none)]
    y: Option<String>,
    /// Modulus, for `RSA`.
    #[oai(skip_serializing_if_is_none)]
    n: Option<String>,
    /// Exponent, for `RSA`.
    #[oai(skip_serializing_if_is_none)]
    e: Option<String>,
}

/// The public keys that verify access tokens (RFC 7517 §5).
#[derive(Object)]
struct JwkSet {
    /// The keys.
    keys: Vec<Jwk>,
}

/// Where the endpoints are and what they support (RFC 8414 §2).
#[derive(Object)]
struct AuthorizationServerMetadata {
    /// The issuer: the `iss` of every access token.
    issuer: String,
    /// The token endpoint.
    token_endpoint: String,
    /// The revocation endpoint (RFC 7009).
    revocation_endpoint: String,
    /// The introspection endpoint (RFC 7662).
    introspection_endpoint: String,
    /// The JWK Set.
    jwks_uri: String,
    /// The grants of the token endpoint.
    grant_types_supported: Vec<String>,
    /// Empty: there is no authorization endpoint.
    response_types_supported: Vec<String>,
    /// How clients authenticate at the token endpoint.
    token_endpoint_auth_methods_supported: Vec<String>,
    /// How clients authenticate at the revocation endpoint.
    revocation_endpoint_auth_methods_supported: Vec<String>,
    /// How clients authenticate at the introspection endpoint.
    introspection_endpoint_auth_methods_supported: Vec<String>,
    /// Every scope.
    scopes_supported: Vec<String>,
    /// This documentation.
    service_documentation: String,
}

#[derive(ApiResponse)]
enum Cacheable<T: poem_openapi::types::Type> {
    /// The document.
    #[oai(status = 200)]
    Document(
        JsonBody<T>,
        /// For how long it may be kept.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

/// A new signing key is used no sooner than verifiers have had time to see it.
fn cacheable() -> String {
    format!("public, max-age={JWKS_MAX_AGE}")
}

/// What a client needs to know of the resource: the keys (RFC 9728 §2).
#[derive(Object)]
struct ProtectedResourceMetadata {
    /// The resource.
    resource: String,
    /// Who issues its access tokens.
    authorization_servers: Vec<String>,
    /// The JWK Set.
    jwks_uri: String,
    /// Every scope.
    scopes_supported: Vec<String>,
    /// How an access token is sent.
    bearer_methods_supported: Vec<String>,
    /// This documentation.
    resource_documentation: String,
}

/// Discovery.
pub(super) struct DiscoveryApi;

#[OpenApi]
impl DiscoveryApi {
    /// Get the public keys that verify access tokens
    ///
    /// With these, `iss`, `aud` and `typ`, anybody can verify an access token without asking the desk.
    #[oai(
        path = "/.well-known/jwks.json",
        method = "get",
        operation_id = "getJwks",
        tag = "Group::Discovery"
    )]
    #[expect(clippy::unused_async, reason = "poem-openapi takes async functions only")]
    async fn jwks(&self, _anybody: Public, request: &Request) -> Cacheable<JwkSet> {
        Cacheable::Document(JsonBody::of(&app(request).jwks()), cacheable())
    }

    /// Get the authorization server's metadata
    ///
    /// RFC 8414: what an OAuth 2.0 client library needs to be given nothing but the issuer.
    #[oai(
        path = "/.well-known/oauth-authorization-server",
        method = "get",
        operation_id = "getAuthorizationServerMetadata",
        tag = "Group::Discovery"
    )]
    #[expect(clippy::unused_async, reason = "poem-openapi takes async functions only")]
    async fn metadata(&self, _anybody: Public, request: &Request) -> Cacheable<AuthorizationServerMetadata> {
        let settings = app(request).settings();
        let issuer = &settings.issuer;
        let offered = |grant: &GrantType| *grant != GrantType::Password || settings.password_enabled;
        let grants: Vec<_> = GrantType::ALL.into_iter().filter(offered).map(GrantType::as_str).collect();
        let confidential = ["client_secret_basic", "client_secret_post"];
        let any = ["client_secret_basic", "client_secret_post", "none"];
        let document = serde_json::json!({
            "issuer": issuer,
            "token_endpoint": format!("{issuer}/token"),
            "revocation_endpoint": format!("{issuer}/revoke"),
            "introspection_endpoint": format!("{issuer}/introspect"),
            "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
            "grant_types_supported": grants,
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": any,
            "revocation_endpoint_auth_methods_supported": any,
            "introspection_endpoint_auth_methods_supported": confidential,
            "scopes_supported": Scope::ALL.map(Scope::as_str),
            "service_documentation": format!("{issuer}/docs"),
        });
        Cacheable::Document(JsonBody::of(&document), cacheable())
    }

    /// Get the protected resource's metadata
    ///
    /// RFC 9728: which authorization server's tokens `/llm-keys` accepts, and how to send them.
    #[oai(
        path = "/.well-known/oauth-protected-resource",
        method = "get",
        operation_id = "getProtectedResourceMetadata",
        tag = "Group::Discovery"
    )]
    #[expect(clippy::unused_async, reason = "poem-openapi takes async functions only")]
    async fn resource(&self, _anybody: Public, request: &Request) -> Cacheable<ProtectedResourceMetadata> {
        let issuer = &app(request).settings().issuer;
        let document = serde_json::json!({
            "resource": issuer,
            "authorization_servers": [issuer],
            "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
            "scopes_supported": Scope::ALL.map(Scope::as_str),
            "bearer_methods_supported": ["header"],
            "resource_documentation": format!("{issuer}/docs"),
        });
        Cacheable::Document(JsonBody::of(&document), cacheable())
    }
}
