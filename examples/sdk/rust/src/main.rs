//! Log in, fetch your keys, rotate one, and read in the audit log that all of that happened.

use std::env;

use anyhow::{Result, bail};
use chrono::Utc;
use futures_util::TryStreamExt;
use keydesk_client::{
    ByteStream, Client, Error, ResponseValue,
    types::{GrantType, Problem, ProviderKeyRequest, TokenRequest},
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let begun = Utc::now();
    let desk = env::var("KEYDESK_URL")?;
    let username = env::var("KEYDESK_USERNAME")?;

    // Log in. What a token may do has to be asked for.
    let login = TokenRequest::builder()
        .grant_type(GrantType::Password)
        .username(username.clone())
        .password(env::var("KEYDESK_PASSWORD")?)
        .scope("llm-keys:read llm-keys:write audit:read".to_owned());
    let token = Client::new(&desk).issue_token().body(login).send().await?;
    let client = authenticated(&desk, &token.access_token)?;

    // Fetch the keys.
    let keys = answer(client.list_llm_keys().project("default").send()).await?;
    let mut providers: Vec<_> = keys.keys().map(String::as_str).collect();
    providers.sort_unstable();
    println!("keys: {}", providers.join(", "));

    // Rotate one: the desk hands out the new key from now on.
    let new = ProviderKeyRequest::builder().key(env::var("NEW_OPENAI_KEY")?);
    let request = client.set_provider_key().project("default").provider("openai").body(new);
    let rotated = answer(request.send()).await?;
    println!("{}: version {}", rotated.provider, rotated.version);

    // Read the book: newest first.
    let book = answer(client.list_audit_events().principal(username).since(begun).send()).await?;
    for event in book.items.iter().rev() {
        println!("{} {} {} {}", event.at.format("%H:%M:%S"), event.actor, event.action, event.outcome);
    }
    Ok(())
}

/// A client that shows the token with every request.
fn authenticated(desk: &str, token: &str) -> Result<Client> {
    let mut credential = HeaderValue::try_from(format!("Bearer {token}"))?;
    credential.set_sensitive(true);
    let headers = HeaderMap::from_iter([(AUTHORIZATION, credential)]);
    Ok(Client::new_with_client(desk, reqwest::Client::builder().default_headers(headers).build()?))
}

/// The answer, or what the desk has against it: progenitor leaves `application/problem+json` unread.
async fn answer<T>(request: impl Future<Output = Result<ResponseValue<T>, Error<ByteStream>>>) -> Result<T> {
    let refusal = match request.await {
        Ok(answer) => return Ok(answer.into_inner()),
        Err(Error::ErrorResponse(refusal)) => refusal,
        Err(error) => return Err(error.into()),
    };
    let body: Vec<_> = refusal.into_inner_stream().try_collect().await?;
    let problem: Problem = serde_json::from_slice(&body.concat())?;
    bail!("{}: {}", problem.title, problem.detail)
}
