//! The `oauth2` crate as a program uses it, configured with the issuer and credentials only.
//!
//! Both come as JSON on standard input; what was received and observed goes to standard output as JSON.

use std::{error::Error, io::Read as _};

use oauth2::{
    AccessToken, AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, IntrospectionUrl,
    RequestTokenError, ResourceOwnerPassword, ResourceOwnerUsername, RevocationUrl, StandardRevocableToken,
    TokenResponse as _, TokenUrl,
    basic::{BasicClient, BasicErrorResponse, BasicTokenResponse},
};
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

struct Server {
    agent: ureq::Agent,
    metadata: Value,
}

impl Server {
    /// RFC 8414: the crate leaves fetching this to the program.
    fn discover(agent: ureq::Agent, issuer: &str) -> Result<Self, Failure> {
        let url = format!("{issuer}/.well-known/oauth-authorization-server");
        let metadata: Value = serde_json::from_str(&agent.get(url).call()?.body_mut().read_to_string()?)?;
        if metadata["issuer"] != issuer {
            return Err("the metadata are another issuer's".into());
        }
        Ok(Self { agent, metadata })
    }

    fn endpoint(&self, name: &str) -> Result<String, Failure> {
        Ok(self.metadata[name].as_str().ok_or(format!("no {name}"))?.to_owned())
    }

    /// The crate insists on https for revocation and has no switch for loopback: here it gets https, and `send` speaks
    /// plain HTTP to the same address, as a TLS terminator in front would.
    fn revocation_url(&self) -> Result<RevocationUrl, Failure> {
        Ok(RevocationUrl::new(self.endpoint("revocation_endpoint")?.replacen("http://", "https://", 1))?)
    }

    fn send(&self, request: HttpRequest) -> Result<HttpResponse, ureq::Error> {
        let (mut parts, body) = request.into_parts();
        if parts.uri.scheme_str() == Some("https") {
            parts.uri = parts
                .uri
                .to_string()
                .replacen("https://", "http://", 1)
                .parse()
                .map_err(oauth2::http::Error::from)?;
        }
        let (parts, mut body) = self.agent.run(oauth2::http::Request::from_parts(parts, body))?.into_parts();
        Ok(HttpResponse::from_parts(parts, body.read_to_vec()?))
    }

    /// The status of `GET /llm-keys`.
    fn keys(&self, token: &AccessToken) -> Result<u16, Failure> {
        let url = format!("{}/llm-keys", self.endpoint("issuer")?);
        let bearer = format!("Bearer {}", token.secret());
        Ok(self.agent.get(url).header("Authorization", bearer).call()?.status().as_u16())
    }
}

/// The error code of a refused token request.
fn refusal<E: Error + 'static>(
    result: Result<BasicTokenResponse, RequestTokenError<E, BasicErrorResponse>>,
) -> Result<String, Failure> {
    match result {
        Ok(_) => Ok("none".to_owned()),
        Err(RequestTokenError::ServerResponse(response)) => Ok(response.error().to_string()),
        Err(other) => Err(other.into()),
    }
}

fn run(asked: &Value) -> Result<Value, Failure> {
    let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
    let agent =
        ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().new_agent();
    let server = Server::discover(agent, &text("issuer"))?;
    let http = |request: HttpRequest| server.send(request);
    let token_url = TokenUrl::new(server.endpoint("token_endpoint")?)?;
    let introspection_url = IntrospectionUrl::new(server.endpoint("introspection_endpoint")?)?;

    // A person, through the public client.
    let public = BasicClient::new(ClientId::new(text("public_client")))
        .set_token_uri(token_url.clone())
        .set_revocation_url(server.revocation_url()?);
    let user = ResourceOwnerUsername::new(text("username"));
    let right = ResourceOwnerPassword::new(text("password"));
    let wrong = ResourceOwnerPassword::new(text("password") + "x");
    let wrong_password = refusal(public.exchange_password(&user, &wrong).request(&http))?;
    let password = public.exchange_password(&user, &right).request(&http)?;
    let first = password.refresh_token().ok_or("no refresh token")?;
    let refreshed = public.exchange_refresh_token(first).request(&http)?;
    let second = refreshed.refresh_token().ok_or("no second refresh token")?;

    // A machine.
    let machine = |auth_type| {
        BasicClient::new(ClientId::new(text("client_id")))
            .set_client_secret(ClientSecret::new(text("client_secret")))
            .set_auth_type(auth_type)
            .set_token_uri(token_url.clone())
            .set_introspection_url(introspection_url.clone())
    };
    let revoking =
        |auth_type| Ok::<_, Failure>(machine(auth_type).set_revocation_url(server.revocation_url()?));
    let (with_basic, with_post) = (revoking(AuthType::BasicAuth)?, revoking(AuthType::RequestBody)?);
    let basic = with_basic.exchange_client_credentials().request(&http)?;
    let post = with_post.exchange_client_credentials().request(&http)?;
    let introspect = |token: &AccessToken| -> Result<Value, Failure> {
        Ok(serde_json::to_value(with_basic.introspect(token).request(&http)?)?)
    };

    let active = introspect(refreshed.access_token())?;
    let keys = [&password, &refreshed, &basic, &post].map(|token| server.keys(token.access_token()));
    let keys = keys.into_iter().collect::<Result<Vec<_>, _>>()?;

    public.revoke_token(StandardRevocableToken::RefreshToken(second.clone()))?.request(&http)?;
    with_basic
        .revoke_token(StandardRevocableToken::AccessToken(basic.access_token().clone()))?
        .request(&http)?;
    with_post
        .revoke_token(StandardRevocableToken::AccessToken(post.access_token().clone()))?
        .request(&http)?;

    let (mut inactive, mut keys_after) = (Vec::new(), Vec::new());
    for token in [&password, &refreshed, &basic, &post] {
        inactive.push(introspect(token.access_token())?);
        keys_after.push(server.keys(token.access_token())?);
    }
    let refresh_after = refusal(public.exchange_refresh_token(second).request(&http))?;
    Ok(json!({
        "wrong_password": wrong_password, "password": password, "refreshed": refreshed, "basic": basic, "post": post,
        "active": active, "keys": keys, "inactive": inactive, "keys_after": keys_after, "refresh_after": refresh_after,
    }))
}

fn main() -> Result<(), Failure> {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    println!("{}", run(&serde_json::from_str(&input)?)?);
    Ok(())
}
